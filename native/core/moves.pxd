"""The work of a way: bytes from a source socket to a target socket, by copy or splice.

Invariants (the traps are in splice(2)'s two meanings of EAGAIN):

* A source is read only while nothing is pending, so that EAGAIN from the read side always
  means "no data" and EAGAIN from the write side always means "target full".
* The pipe is asked for exactly the bytes known to be in it. Asking for more makes the
  kernel (>= 6.5) mark the last of 16 pages with MSG_MORE, and the tail waits 200 ms.
* No SPLICE_F_MORE: it corks the tail the same way.
* Only a read of 0 with nothing pending is an end, and only when recv(2) agrees.

`fill`, `flush` and `turn` return one of `Moved`, never a byte count, so that "0 bytes" and "no
bytes yet" cannot be taken for each other.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from core cimport linux
from core.counts cimport K_PIPE_STARVED, K_SPLICE_FALLBACKS, K_URGENT, count_up, count_bytes
from core.crowd cimport fit, narrow, shrink
from core.pipes cimport pool_get, pool_kill, pool_put
from core.types cimport COPY_ONLY, Core, ENDED, NARROW, PROMISED, SPLICING, STOPPED, Way

cdef enum:
    PACED_READ = 65536      # bytes that a way takes at a time whose target is paced

cdef enum Moved:
    MORE                    # moved, and the source probably has more
    SHORT                   # moved, and the source is probably dry now
    DRY                     # the source has nothing to say yet
    BLOCKED                 # the target takes no more; the rest is pending
    OVER                    # the source said FIN
    SOURCE_FAILED           # errno says how
    TARGET_FAILED


cdef inline bint pending(const Way *w) noexcept nogil:
    """Whether bytes are read and not yet sent."""
    return w.in_pipe > 0 or w.held != NULL


cdef inline bint splice_refused(int error) noexcept nogil:
    """Not an error of the connection: splice does not work on these descriptors."""
    return error == linux.EINVAL or error == linux.ENOSYS or error == linux.EPERM


cdef inline void drop_pending(Core *c, Way *w) noexcept nogil:
    """Forgets what waits for a target that will never take it."""
    free(w.held)
    w.held = NULL
    if w.pipe_r >= 0:
        pool_kill(c, w)


cdef inline void account(Core *c, Way *w, ssize_t n, bint spliced) noexcept nogil:
    """n bytes have reached the target's socket."""
    if spliced:
        w.spliced += n
    else:
        w.copied += n
    count_bytes(c, w, n, spliced)
    c.moved += n
    w.active = c.now


cdef inline bint hold(Way *w, const char *data, size_t n) noexcept nogil:
    """Keeps n bytes until the target takes them; false without memory."""
    w.held = <char *>malloc(n)
    if w.held == NULL:
        return False
    memcpy(w.held, data, n)
    w.held_at = 0
    w.held_end = <uint32_t>n
    return True


cdef inline Moved send_or_hold(
    Core *c, Way *w, int target, const char *data, size_t n
) noexcept nogil:
    """Sends what the target takes and holds the rest: SHORT, BLOCKED or TARGET_FAILED."""
    cdef ssize_t m
    while True:
        m = linux.send(target, data, n, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
        if m >= 0 or linux.errno != linux.EINTR:
            break
    if m < 0:
        if linux.errno != linux.EAGAIN:
            return TARGET_FAILED
        m = 0
    account(c, w, m, False)
    if <size_t>m == n:
        return SHORT
    if not hold(w, data + m, n - m):
        linux.errno = linux.ENOMEM
        return TARGET_FAILED
    return BLOCKED


cdef inline Moved flush_held(Core *c, Way *w, int target) noexcept nogil:
    cdef ssize_t m
    while w.held_at < w.held_end:
        m = linux.send(target, w.held + w.held_at, w.held_end - w.held_at,
                       linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
        if m >= 0:
            w.held_at += <uint32_t>m
            account(c, w, m, False)
        elif linux.errno == linux.EAGAIN:
            return BLOCKED
        elif linux.errno != linux.EINTR:
            return TARGET_FAILED
    free(w.held)
    w.held = NULL
    return SHORT


cdef inline void give_up_splice(Core *c, Way *w) noexcept nogil:
    w.flags = (w.flags & ~<uint8_t>SPLICING) | <uint8_t>COPY_ONLY
    count_up(c, K_SPLICE_FALLBACKS)


cdef inline bint empty_pipe(Way *w) noexcept nogil:
    """Takes the bytes out of the pipe, which stays where it is, by read(2); false on error."""
    cdef char *data = <char *>malloc(w.in_pipe)
    cdef size_t got = 0
    cdef ssize_t n
    if data == NULL:
        linux.errno = linux.ENOMEM
        return False
    while got < w.in_pipe:
        n = linux.read(w.pipe_r, data + got, w.in_pipe - got)
        if n <= 0:
            if n < 0 and linux.errno == linux.EINTR:
                continue
            free(data)
            return False
        got += n
    w.held = data
    w.held_at = 0
    w.held_end = w.in_pipe
    w.in_pipe = 0
    return True


cdef inline bint unpipe(Core *c, Way *w) noexcept nogil:
    """Takes the bytes out of the pipe, for splice refused to, and gives it back; false on error."""
    if not empty_pipe(w):
        return False
    pool_put(c, w)
    return True


cdef inline Moved flush(Core *c, Way *w, int target) noexcept nogil:
    """Sends what is pending: SHORT when nothing is left, BLOCKED, or TARGET_FAILED."""
    cdef ssize_t m
    if w.held != NULL:
        return flush_held(c, w, target)
    while w.in_pipe > 0:
        m = linux.splice(w.pipe_r, NULL, target, NULL, w.in_pipe,
                         linux.SPLICE_F_MOVE | linux.SPLICE_F_NONBLOCK)
        if m > 0:
            w.in_pipe -= <uint32_t>m
            account(c, w, m, True)
        elif m < 0 and linux.errno == linux.EAGAIN:
            return BLOCKED
        elif m < 0 and splice_refused(linux.errno):
            give_up_splice(c, w)
            if not unpipe(c, w):
                return TARGET_FAILED
            return flush_held(c, w, target)
        elif m == 0 or linux.errno != linux.EINTR:
            return TARGET_FAILED
    pool_put(c, w)
    return SHORT


cdef inline size_t ask(const Way *w, size_t most) noexcept nogil:
    """How much to read: `most`, or what is left of the length."""
    return <size_t>w.left if 0 <= w.left < <int64_t>most else most


cdef inline Moved copy_step(Core *c, Way *w, int source, int target) noexcept nogil:
    cdef size_t want = ask(w, c.limits.chunk)
    cdef ssize_t n
    cdef Moved sent
    while True:
        n = linux.recv(source, c.buffer, want, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0:
        return DRY if linux.errno == linux.EAGAIN else SOURCE_FAILED
    if n == 0:
        return OVER
    w.stalls = 0
    if w.left > 0:
        w.left -= n
    if n < c.limits.bulk_read:
        w.streak = 0
    elif not w.flags & COPY_ONLY:
        w.streak += 1
        if w.streak >= c.limits.promote_after:
            w.flags |= SPLICING
            w.streak = 0
    elif w.flags & PROMISED:
        shrink(c, w, source)
    sent = send_or_hold(c, w, target, c.buffer, n)
    if sent == SHORT and <size_t>n == want:
        return MORE
    return sent


cdef inline Moved copy_for_good(Core *c, Way *w, int source, int target) noexcept nogil:
    give_up_splice(c, w)
    if not w.flags & NARROW:
        narrow(c, w, source, target)  # copying gains nothing by large buffers
    return copy_step(c, w, source, target)


cdef inline Moved stalled(Core *c, Way *w, int source, int target) noexcept nogil:
    """epoll says readable, splice said EAGAIN from an empty pipe. Once it can be a stale
    event; twice in a row it is an urgent byte, which splice cannot pass and recv can."""
    w.stalls += 1
    if w.stalls < 2:
        return DRY
    count_up(c, K_URGENT)
    return copy_for_good(c, w, source, target)


cdef inline void judge(Core *c, Way *w, ssize_t n) noexcept nogil:
    """Demotes a way that has turned chatty."""
    if n >= c.limits.chatty_read:
        w.streak = 0
        return
    w.streak += 1
    if w.streak >= c.limits.demote_after:
        w.flags &= ~<uint8_t>SPLICING
        w.streak = 0


cdef inline Moved splice_step(
    Core *c, Way *w, int source, int target, bint readable
) noexcept nogil:
    cdef size_t want
    cdef ssize_t n
    cdef char byte
    cdef Moved sent
    fit(c, w, source, target)
    if not pool_get(c, w):
        count_up(c, K_PIPE_STARVED)
        return copy_step(c, w, source, target)
    want = <size_t>c.pool.size
    if w.paced:
        want = min(<size_t>PACED_READ, want)
    elif w.flags & NARROW:
        want = min(c.limits.narrow_read, want)
    want = ask(w, want)
    while True:
        n = linux.splice(source, NULL, w.pipe_w, NULL, want,
                         linux.SPLICE_F_MOVE | linux.SPLICE_F_NONBLOCK)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n > 0:
        w.stalls = 0
        w.in_pipe = <uint32_t>n
        if w.left > 0:
            w.left -= n
        if readable or n >= c.limits.chatty_read:  # else it has come during this turn
            judge(c, w, n)
        sent = flush(c, w, target)
        # Sending this much took long enough for the source to have the next bytes by now. A
        # turn that takes them, too, leaves it less often for epoll.
        if sent == SHORT and (<size_t>n == want or n >= <ssize_t>c.limits.chunk):
            return MORE
        return sent
    pool_put(c, w)
    if n == 0:
        n = linux.recv(source, &byte, 1, linux.MSG_PEEK | linux.MSG_DONTWAIT)
        if n == 0:
            return OVER
        if n > 0:
            return copy_for_good(c, w, source, target)
    if linux.errno == linux.EAGAIN:
        return stalled(c, w, source, target) if readable else DRY
    if splice_refused(linux.errno):
        return copy_for_good(c, w, source, target)
    return SOURCE_FAILED


cdef inline bint splices(const Core *c, const Way *w) noexcept nogil:
    """It is promoted, and has not rested since."""
    return w.flags & SPLICING and c.now - w.active <= c.limits.rest


cdef inline Moved fill(
    Core *c, Way *w, int source, int target, bint readable
) noexcept nogil:
    """Reads once and sends at once. Only with nothing pending. `readable`: epoll says
    that the source has data."""
    if splices(c, w):
        return splice_step(c, w, source, target, readable)
    if w.flags & SPLICING:
        w.flags &= ~<uint8_t>SPLICING
        w.streak = 0
    return copy_step(c, w, source, target)


cdef inline Moved turn(
    Core *c, Way *w, int source, int target, bint readable
) noexcept nogil:
    """What a way may do at one event, bounded so that no other waits for long. `readable`:
    epoll says that the source has data."""
    cdef int moves = c.limits.turn_moves
    cdef int64_t budget = c.moved + c.limits.turn_bytes
    cdef Moved r = SHORT
    if pending(w):
        r = flush(c, w, target)
    while r == SHORT or r == MORE:
        if w.flags & (ENDED | STOPPED) or w.left == 0 or moves == 0 or c.moved >= budget:
            break
        if r == SHORT and moves != c.limits.turn_moves:
            break
        moves -= 1
        r = fill(c, w, source, target, readable)
        readable = False
    return r
