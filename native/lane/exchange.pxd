"""The exchanges of the lane: a client's request goes to its origin and the answer comes back, again
and again, without the owner.

    P_HEAD ── a whole head ──► an idle connection ───────► P_WAIT
      ▲                   ├──► P_DIAL ── connected ────────► │
      │                   └──► P_QUEUE ── one is idle ─────► │
      └──────── all of the body sent ◄── P_BODY ◄── a head ──┘

A CONNECT by way of a parent proxy is in P_PARENT behind P_DIAL, until that has said yes.

A request without a route (routes.pxd) waits in P_ASK, before all this, until the owner says
where it may go (asking.pxd). Its body, if it has one, goes to the origin from P_WAIT on
(upload.pxd).

Whatever is not plain (plain.pxd) is given back: the owner gets the descriptors and every byte
that was received and not consumed, as if it had received them itself. No part of a final
response is sent to the client before that can no longer happen. A CONNECT on a route becomes a
tunnel in the same slot.

Here is what an event or a time limit means in each phase; the work is in request.pxd,
upload.pxd, waiting.pxd and response.pxd, the end of it in ends.pxd.
"""

from libc.stdint cimport int32_t, uint32_t

from core cimport linux
from core.moves cimport pending
from core.service cimport watch
from core.slots cimport slots_reserve
from core.types cimport Core, Flow, NOWHERE, Q_FINISHED, R_ABORTED, R_CLIENT_RESET, R_IDLE
from lane.dialling cimport attempts_late
from lane.ends cimport close_client, cut, cut_by, give_back
from lane.header cimport read_header
from lane.origins cimport idle_drop
from lane.received cimport keep, room_left
from lane.request cimport attempt_over, queued_long, read_next
from lane.response cimport move_body, read_answer
from lane.tunnels cimport hear_parent
from lane.types cimport (
    Exchange, GREETED, G_HEADER, G_PARENT, G_REQUEST, G_UNANSWERED, Lane, P_ASK, P_BODY, P_DIAL,
    P_HEAD, P_PARENT, P_QUEUE, P_WAIT, Q_RACE, connection_of, exchange_of,
)
from lane.upload cimport move_upload, uploaded, uploading

cdef inline void overhear(Lane *lane, int32_t slot) noexcept nogil:
    """The client says something during an exchange: a further request, or that it is gone."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef size_t room = min(c.limits.chunk, room_left(x))
    cdef ssize_t n = 0
    while room > 0:
        n = linux.recv(f.fd[0], c.buffer, room, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n < 0 or (n == 0 and x.have == x.head):
        cut(lane, slot, R_CLIENT_RESET)
    elif not keep(x, c.buffer, n):
        cut(lane, slot, R_ABORTED)
    elif n == 0 or room_left(x) == 0:
        if watch(c, slot, 0, f.mask[0] & ~<uint32_t>linux.EPOLLIN) < 0:
            cut_by(lane, slot, R_CLIENT_RESET, c'P')


cdef inline void client_event(Lane *lane, int32_t slot, uint32_t events) noexcept nogil:
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    if exchange_of(f).phase == P_HEAD:
        if exchange_of(f).header:
            read_header(lane, slot)
        else:
            read_next(lane, slot)
        return
    if events & linux.EPOLLOUT and exchange_of(f).phase == P_BODY:
        move_body(lane, slot, False)
        if f.queue == Q_FINISHED or exchange_of(f).phase != P_BODY:
            return
    if uploading(f):
        move_upload(lane, slot, (events & linux.EPOLLIN) != 0)
    elif events & linux.EPOLLIN and uploaded(f):  # else it would be read behind a part of a body
        overhear(lane, slot)
    elif events & (linux.EPOLLERR | linux.EPOLLHUP):
        cut(lane, slot, R_CLIENT_RESET)


cdef inline void origin_event(Lane *lane, int32_t connection, uint32_t events) noexcept nogil:
    cdef Core *c = &lane.core
    cdef int32_t slot = connection_of(&c.flows[connection]).client
    if slot == NOWHERE:
        idle_drop(lane, connection)
        return
    if c.flows[slot].queue == Q_FINISHED:
        return
    if exchange_of(&c.flows[slot]).phase == P_DIAL:
        attempt_over(lane, slot, connection, events)
        return
    if exchange_of(&c.flows[slot]).phase == P_PARENT:
        hear_parent(lane, slot)
        return
    if events != linux.EPOLLIN and uploading(&c.flows[slot]) and pending(&c.flows[slot].way[0]):
        move_upload(lane, slot, False)
        if c.flows[slot].queue == Q_FINISHED or events == linux.EPOLLOUT:
            return
    if exchange_of(&c.flows[slot]).phase == P_WAIT:
        read_answer(lane, slot)
    else:
        move_body(lane, slot, (events & linux.EPOLLIN) != 0)


cdef inline void exchange_late(Lane *lane, int32_t slot) noexcept nogil:
    """The time limit of a client's phase is over."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    if x.phase == P_HEAD and x.header:
        give_back(lane, slot, G_HEADER)
    elif x.phase == P_HEAD and x.ways & GREETED:
        give_back(lane, slot, G_REQUEST)
    elif x.phase == P_HEAD:
        close_client(lane, slot)
    elif x.phase == P_QUEUE:
        slots_reserve(c, 1)
        queued_long(lane, slot)
    elif x.phase == P_ASK:
        give_back(lane, slot, G_REQUEST)
    elif x.phase == P_DIAL:
        attempts_late(lane, slot, c.flows[slot].queue == Q_RACE)
    elif x.phase == P_PARENT:
        give_back(lane, slot, G_PARENT)
    elif x.phase == P_WAIT:
        give_back(lane, slot, G_UNANSWERED)
    else:
        cut(lane, slot, R_IDLE)
