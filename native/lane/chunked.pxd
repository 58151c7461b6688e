"""The turn of a way whose body is chunked: what `turn` of core/moves.pxd is for one with a length.

Small chunks are copied, those of a read together in one chunk. What is left of a large one goes on
as bytes of a known number, and so is spliced:

    Chunks                     Way.left    what is read
    between chunks, or in      -1          into the buffer, as much as there is
    one that is not announced
    in one that is (`open`)    its rest    no more than that
    WHOLE                      0           nothing
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove

from core cimport linux
from core.crowd cimport narrow, shrink
from core.moves cimport (
    BLOCKED, DRY, MORE, Moved, OVER, SHORT, SOURCE_FAILED, fill, flush, pending, send_or_hold,
)
from core.types cimport COPY_ONLY, Core, ENDED, NARROW, PROMISED, SPLICING, STOPPED, Way
from http.chunks cimport BACK, Chunks, FRONT, WHOLE, frame, unchunk
from http.plain cimport Text


cdef inline void follow(Core *c, Way *w, const Chunks *k) noexcept nogil:
    """Says how much is left for the way."""
    w.left = k.rest if k.open and k.rest > 0 else (0 if k.rest == WHOLE else -1)
    if w.left > 0 and not w.flags & COPY_ONLY:
        w.flags |= SPLICING
        w.streak = w.stalls = 0
    elif w.left < 0:
        w.flags &= ~<uint8_t>SPLICING


cdef inline Text take_chunks(
    Core *c, Way *w, Chunks *k, const char *data, size_t n, char *to, Text *behind
) noexcept nogil:
    """Takes the next `n` bytes of a body; returns what is to be sent on. `to` has room for as
    much, with FRONT before it and BACK behind; it may be `data`. `behind`, which is
    within `data` or moved by a little, is what is odd, or behind the body."""
    cdef size_t used = 0
    cdef size_t size = unchunk(k, data, n, to, &used)
    cdef Text out
    behind.at = data + used
    behind.size = n - used
    k.kept = 0
    if behind.size and not k.odd and k.rest != WHOLE:
        k.kept = <uint8_t>behind.size
        memcpy(k.line, behind.at, behind.size)
        behind.size = 0
    elif behind.size and to == data and used < size + BACK:
        memmove(to + size + BACK, behind.at, behind.size)
        behind.at = to + size + BACK
    out = frame(k, to, size, c.limits.splice_min)
    follow(c, w, k)
    return out


cdef inline Moved chunks_step(
    Core *c, Way *w, Chunks *k, int source, int target, Text *behind
) noexcept nogil:
    """Reads once and sends at once."""
    cdef char *data = c.buffer + FRONT
    cdef size_t want = c.limits.chunk - k.kept
    cdef ssize_t n
    cdef Text out
    cdef Moved sent
    while True:
        n = linux.recv(source, data + k.kept, want, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0:
        return DRY if linux.errno == linux.EAGAIN else SOURCE_FAILED
    if n == 0:
        return OVER
    w.streak = min(w.streak + 1, 255) if n >= c.limits.bulk_read else 0
    if w.flags & PROMISED:
        shrink(c, w, source)
    memcpy(data, k.line, k.kept)
    out = take_chunks(c, w, k, data, k.kept + n, data, behind)
    if out.size == 0:
        return SHORT
    sent = send_or_hold(c, w, target, out.at, out.size)
    # A read of tiny chunks takes ten times as long as one of payload alone: it is all of a turn.
    if sent == SHORT and <size_t>n == want and out.size >= want // 2:
        return MORE
    if sent == BLOCKED and w.streak >= c.limits.promote_after and not w.flags & NARROW:
        narrow(c, w, source, target)  # a way that copies gains nothing by large buffers
    return sent


cdef inline Moved chunks_turn(
    Core *c, Way *w, Chunks *k, int source, int target, bint readable, Text *behind
) noexcept nogil:
    """What a way may do at one event, as `turn`. Where `behind` has a size afterwards, that is in
    the buffer which all share: it is to be kept at once. Nothing more is read then."""
    cdef int moves = c.limits.turn_moves
    cdef int64_t budget = c.moved + c.limits.turn_bytes
    cdef Moved r = SHORT
    behind.size = 0
    if pending(w):
        r = flush(c, w, target)
    while r == SHORT or r == MORE:
        if w.flags & (ENDED | STOPPED) or w.left == 0 or k.odd or moves == 0 or c.moved >= budget:
            break
        if r == SHORT and moves != c.limits.turn_moves:
            break
        moves -= 1
        if w.left > 0:
            r = fill(c, w, source, target, readable)
            k.taken += <uint64_t>(k.rest - w.left)
            k.rest = w.left
            if w.left == 0:
                w.left = -1
        else:
            r = chunks_step(c, w, k, source, target, behind)
        readable = False
    return r
