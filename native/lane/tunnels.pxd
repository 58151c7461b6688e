"""A CONNECT that becomes a tunnel, in the slot of its client."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from core cimport linux
from core.counts cimport K_TUNNELS_BEGUN, count_up
from core.moves cimport TARGET_FAILED, send_or_hold
from core.queues cimport enter_queue
from core.service cimport settle, side_failed
from core.types cimport Core, Flow, NOWHERE, Q_YOUNG, TUNNEL
from core.waits cimport begin_wait
from lane.asking cimport forget_decision
from lane.counts cimport count_request
from lane.ends cimport give_back
from lane.live cimport begin_life
from lane.origins cimport connection_free
from lane.received cimport keep_head
from lane.socks cimport granted
from lane.types cimport Exchange, G_REQUEST, Lane, exchange_of


cdef inline void become_tunnel(Lane *lane, int32_t slot) noexcept nogil:
    """CONNECT has succeeded. The exchange stays, as what is known of the tunnel."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef linux.epoll_event event
    cdef int fd = c.flows[x.connection].fd[0]
    cdef const char *reply = lane.established
    cdef size_t size = lane.established_size
    event.events = linux.EPOLLIN
    event.data.u64 = (<uint64_t>f.generation << 32) | <uint32_t>(slot * 2 + 1)
    if linux.epoll_ctl(c.epfd, linux.EPOLL_CTL_MOD, fd, &event) < 0:
        give_back(lane, slot, G_REQUEST)
        return
    connection_free(lane, x.connection)
    x.connection = NOWHERE
    x.status = 200
    count_request(lane, f)
    count_up(c, K_TUNNELS_BEGUN)
    forget_decision(x)
    f.kind = TUNNEL
    f.fd[1] = fd
    f.mask[1] = linux.EPOLLIN
    f.way[0].left = f.way[1].left = -1
    f.way[0].active = f.way[1].active = c.now
    begin_wait(c, &f.way[0])
    begin_wait(c, &f.way[1])
    f.spoke = x.have == x.head  # else what came with the head is the last
    lane.clients -= 1
    c.tunnels += 1
    enter_queue(c, slot, Q_YOUNG)
    if x.socks:
        reply = granted(x, &size)
    if send_or_hold(c, &f.way[1], f.fd[0], reply, size) == TARGET_FAILED:
        side_failed(c, f, 0, linux.errno)
    elif x.have > x.head:
        if send_or_hold(
            c, &f.way[0], fd, x.data + x.head, x.have - x.head) == TARGET_FAILED:
            side_failed(c, f, 1, linux.errno)
    keep_head(x)
    begin_life(lane, slot)
    settle(c, slot, -1)
