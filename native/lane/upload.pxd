"""The body of a request on its way to its origin: way 0 of its client, while the answer is awaited
or comes already.

    not all there      EPOLLIN on the client while nothing is pending, EPOLLOUT on the origin while
                       something is
    all sent           the time for the response begins; the client is listened to as without a body
    client ends early  before an answer: the request is cut, and so is the client (SOURCE_EOF);
                       behind the head of an answer the rest of the body is not missed
    client fails       the same, but an answer that has begun is cut, too (SOURCE_ERROR)
    origin takes none  it may have answered before: nothing more is sent, its answer is awaited
    time is up         its owner says who was late (G_UNANSWERED)

An answer that begins before all is sent is the last on its client's connection, and on its
origin's, unless the rest has been sent when it ends.
"""

from libc.stdint cimport int32_t, uint32_t

from core cimport linux
from core.moves cimport (
    Moved, OVER, SOURCE_FAILED, TARGET_FAILED, account, hold, pending, turn,
)
from core.service cimport watch
from core.types cimport (
    Core, ENDED, Flow, R_ABORTED, R_LIMIT, R_SOURCE_EOF, R_SOURCE_ERROR, SPLICING, STOPPED, UNREGISTERED,
    Way,
)
from core.waits cimport after_turn, begin_wait, end_wait
from http.plain cimport Text
from lane.chunked cimport chunks_turn
from lane.ends cimport cut, cut_by, give_back, leave_answer
from lane.pacing cimport spend
from lane.received cimport drop_body, keep, room_left
from lane.types cimport Exchange, G_BODY, G_RESPONSE, Lane, P_BODY, P_WAIT, exchange_of


cdef inline bint uploaded(const Flow *f) noexcept nogil:
    """All of the request's body, if it has one, has been sent."""
    return f.way[0].left == 0 and not pending(&f.way[0])


cdef inline bint uploading(const Flow *f) noexcept nogil:
    """Some of it is still to be sent, and can be."""
    return not uploaded(f) and not f.way[0].flags & (ENDED | STOPPED)


cdef inline uint32_t or_none(uint32_t mask) noexcept nogil:
    """Epoll cannot mask HUP: a side that nothing is wanted of is taken out."""
    return mask if mask else <uint32_t>UNREGISTERED


cdef inline void watch_both(Lane *lane, int32_t slot) noexcept nogil:
    """What epoll should watch while a body is on its way, or just after."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef bint up_waits = pending(&f.way[0])
    cdef bint down_waits = pending(&f.way[1])
    cdef uint32_t client = linux.EPOLLOUT if down_waits else 0
    cdef uint32_t origin = 0
    if uploading(f):
        if up_waits:
            origin = linux.EPOLLOUT
        else:
            client |= linux.EPOLLIN
    elif uploaded(f) and room_left(x):
        client |= linux.EPOLLIN
    if not down_waits and (x.phase == P_WAIT or f.way[1].left != 0):
        origin |= linux.EPOLLIN
    if watch(c, slot, 0, or_none(client)) < 0 or watch(c, x.connection, 0, or_none(origin)) < 0:
        cut_by(lane, slot, R_SOURCE_ERROR, c'P')


cdef inline void move_upload(Lane *lane, int32_t slot, bint readable) noexcept nogil:
    """The turn of a request's body. Where it ends the client, that is in Q_FINISHED."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[0]
    cdef int fd = c.flows[x.connection].fd[0]
    cdef Text behind
    cdef Moved r
    behind.size = 0
    end_wait(c, w, &f.way[1], True, True)
    if x.up.on:
        r = chunks_turn(c, w, &x.up, f.fd[0], fd, readable, &behind)
    else:
        r = turn(c, w, f.fd[0], fd, readable)
    after_turn(c, w, r)
    if x.each_turn and spend(lane, slot):
        cut(lane, slot, R_LIMIT)
        return
    if behind.size and not keep(x, behind.at, behind.size):
        cut(lane, slot, R_ABORTED)
        return
    if r == SOURCE_FAILED or (r == OVER and x.phase == P_WAIT):
        cut_by(lane, slot, R_SOURCE_EOF if r == OVER else R_SOURCE_ERROR, c'C')
        return
    if r == OVER:
        w.flags |= ENDED
    elif r == TARGET_FAILED:
        if linux.errno == linux.ENOMEM:
            cut(lane, slot, R_ABORTED)
            return
        w.flags |= STOPPED
        if w.left == 0:
            w.left = 1  # not all was taken, whatever was lost on its way
    if x.up.odd and not w.flags & STOPPED:
        # The beginning of a line of the answer's goes along with its connection.
        if x.down.on and x.down.kept:
            if not leave_answer(lane, slot, x.down.line, x.down.kept):
                return
            x.down.kept = 0
        give_back(lane, slot, G_RESPONSE if x.phase == P_WAIT else G_BODY)
        return
    if x.phase == P_BODY:
        # The answer has a limit of its own, which the upload does not put off.
        w.active = f.way[1].active
    elif not uploading(f):
        w.active = c.now  # the time for the answer begins
        begin_wait(c, &f.way[1])
    watch_both(lane, slot)


cdef inline void begin_chunks(
    Lane *lane, int32_t slot, Text body, size_t n, size_t sent
) noexcept nogil:
    """The head is sent, and of `body`, which was made from the `n` bytes behind it, `sent`."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[0]
    account(c, w, sent, False)
    w.streak = w.stalls = 0
    if sent < body.size and not hold(w, body.at + sent, body.size - sent):
        cut(lane, slot, R_ABORTED)
        return
    drop_body(x, n)
    if not uploaded(f):
        f.way[1].mark = 0  # no answer is due
        begin_wait(c, w)
    if x.up.odd:
        give_back(lane, slot, G_RESPONSE)
    elif w.held != NULL:
        watch_both(lane, slot)
    elif w.left != 0:
        move_upload(lane, slot, False)  # more of it has probably come by now


cdef inline void begin_upload(Lane *lane, int32_t slot, size_t body, size_t sent) noexcept nogil:
    """The head is sent, and of `body` bytes behind it, which were there, `sent`."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[0]
    account(c, w, sent, False)
    w.left = x.length - body
    w.flags = SPLICING if w.left >= c.limits.splice_min else 0
    w.streak = w.stalls = 0
    if sent < body and not hold(w, x.data + x.head + sent, body - sent):
        cut(lane, slot, R_ABORTED)
        return
    drop_body(x, body)
    if w.held != NULL or w.left > 0:
        f.way[1].mark = 0  # no answer is due
        begin_wait(c, w)
    if w.held != NULL:
        watch_both(lane, slot)
    elif w.left > 0:
        move_upload(lane, slot, False)  # more of it has probably come by now
