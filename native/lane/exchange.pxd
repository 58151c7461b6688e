"""Plain exchanges: a client's request goes to its origin and the answer comes back, again
and again, without the owner.

    P_IDLE ── a whole head ──► an idle connection ───────► P_WAIT
      ▲                   ├──► P_DIAL ── connected ────────► │
      │                   └──► P_QUEUE ── one is idle ─────► │
      └──────── all of the body sent ◄── P_BODY ◄── a head ──┘

Whatever is not plain (plain.pxd), or for which there is no route (routes.pxd), is handed
over: the owner gets the descriptors and every byte that was received and not consumed, as
if it had received them itself. Nothing is sent to the client before that can no longer
happen. A CONNECT on a route becomes a tunnel in the same slot.

Here is what an event or a time limit means in each phase; the work is in request.pxd,
waiting.pxd and response.pxd, the end of it in ends.pxd.
"""

from libc.stdint cimport int32_t, uint32_t

from core cimport linux
from lane.ends cimport close_client, cut, hand_over
from core.flow cimport (
    Core, Exchange, Flow, H_REQUEST, H_UNANSWERED, P_BODY, P_DIAL, P_IDLE, P_QUEUE, P_WAIT,
    Q_FINISHED, R_CLIENT_GONE, R_IDLE, R_TARGET_IDLE, pending,
)
from lane.origins cimport kept_drop
from lane.received cimport keep, room_left
from lane.request cimport dialled, queued_long, read_next
from lane.response cimport move_body, read_answer
from lane.routes cimport NOWHERE
from core.service cimport watch

cdef inline void overhear(Core *c, int32_t slot) noexcept nogil:
    """The client says something during an exchange: a further request, or that it is gone."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef size_t room = min(c.limits.chunk, room_left(x))
    cdef ssize_t n = 0
    while room > 0:
        n = linux.recv(f.fd[0], c.buffer, room, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n < 0 or (n == 0 and x.have == x.head) or not keep(x, c.buffer, n):
        cut(c, slot, R_CLIENT_GONE)
    elif n == 0 or room_left(x) == 0:
        if watch(c, slot, 0, f.mask[0] & ~<uint32_t>linux.EPOLLIN) < 0:
            cut(c, slot, R_CLIENT_GONE)


cdef inline void client_event(Core *c, int32_t slot, uint32_t events) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    if f.x.phase == P_IDLE:
        read_next(c, slot)
        return
    if events & linux.EPOLLOUT and f.x.phase == P_BODY:
        move_body(c, slot, False)
        if f.queue == Q_FINISHED or f.x.phase != P_BODY:
            return
    if events & linux.EPOLLIN:
        overhear(c, slot)
    elif events & (linux.EPOLLERR | linux.EPOLLHUP):
        cut(c, slot, R_CLIENT_GONE)


cdef inline void origin_event(Core *c, int32_t link, uint32_t events) noexcept nogil:
    cdef int32_t slot = c.flows[link].link.client
    if slot == NOWHERE:
        kept_drop(c, link)
    elif c.flows[slot].queue == Q_FINISHED:
        return
    elif c.flows[slot].x.phase == P_DIAL:
        dialled(c, slot, events)
    elif c.flows[slot].x.phase == P_WAIT:
        read_answer(c, slot)
    else:
        move_body(c, slot, (events & linux.EPOLLIN) != 0)


cdef inline void exchange_late(Core *c, int32_t slot) noexcept nogil:
    """The time limit of a client's phase is over."""
    cdef Exchange *x = c.flows[slot].x
    if x.phase == P_IDLE:
        close_client(c, slot)
    elif x.phase == P_QUEUE:
        queued_long(c, slot)
    elif x.phase == P_DIAL:
        hand_over(c, slot, H_REQUEST)
    elif x.phase == P_WAIT:
        hand_over(c, slot, H_UNANSWERED)
    else:
        cut(c, slot, R_TARGET_IDLE if pending(&c.flows[slot].way[1]) else R_IDLE)
