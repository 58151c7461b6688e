"""A CONNECT that becomes a tunnel, in the slot of its client; by way of a parent proxy, once that
has said yes. What the client sends before that waits, and what comes behind it is the client's.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy

from core cimport linux
from core.counts cimport K_TUNNELS_BEGUN, count_up
from core.gate cimport check_release, gate_put
from core.moves cimport TARGET_FAILED, send_or_hold
from core.queues cimport enter_queue, leave_queue
from core.service cimport hear_first, settle, side_failed, watch
from core.types cimport Core, Flow, NOWHERE, NameCheck, Q_FINISHED, Q_YOUNG, TUNNEL
from core.waits cimport begin_wait
from http.plain cimport head_end
from lane.asking cimport forget_decision
from lane.counts cimport count_request
from lane.ends cimport give_back, leave_answer
from lane.facts cimport stage_over
from lane.hops cimport grants
from lane.live cimport begin_life
from lane.origins cimport connection_free
from lane.pacing cimport pace_way
from lane.received cimport keep_head
from lane.routes cimport let_go
from lane.socks cimport granted
from lane.types cimport (
    Exchange, G_PARENT, G_REQUEST, Lane, P_PARENT, Q_DIAL, Target, exchange_of,
)

cdef enum:
    # Bytes of the first read of a parent's answer: with our own in front they fit into Lane.out.
    ANSWER_READ = 8192


cdef inline void take_check(Exchange *x, NameCheck *check) noexcept nogil:
    """That of the request in work, which may have none."""
    if check != NULL:
        check.holders += 1
    check_release(x.check)
    x.check = check


cdef inline void become_tunnel(
    Lane *lane, int32_t slot, const char *data, size_t n
) noexcept nogil:
    """CONNECT has succeeded, and the origin has said `n` bytes, ANSWER_READ at most. The exchange
    stays, as what is known of the tunnel."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef linux.epoll_event event
    cdef int fd = c.flows[x.connection].fd[0]
    cdef const char *reply = lane.established
    cdef size_t size = lane.established_size
    if x.check != NULL and not gate_put(c, f, x.check):
        give_back(lane, slot, G_REQUEST)
        return
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
    x.became = c.now
    f.fd[1] = fd
    if x.pace:
        pace_way(c, &f.way[0], f.fd[0], fd, x.pace)
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
    if n > 0:
        memcpy(lane.out, reply, size)
        memcpy(lane.out + size, data, n)
        reply = lane.out
        size += n
    if send_or_hold(c, &f.way[1], f.fd[0], reply, size) == TARGET_FAILED:
        side_failed(c, f, 0, linux.errno)
    elif x.have > x.head and f.gate != NULL:
        hear_first(c, slot, x.data + x.head, x.have - x.head)
    elif x.have > x.head:
        if send_or_hold(
            c, &f.way[0], fd, x.data + x.head, x.have - x.head) == TARGET_FAILED:
            side_failed(c, f, 1, linux.errno)
    keep_head(x)
    begin_life(lane, slot)
    if f.queue != Q_FINISHED:
        settle(c, slot, -1)


cdef inline void ask_parent(Lane *lane, int32_t slot) noexcept nogil:
    """The parent is there: it is asked for the tunnel."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef const Target *t = x.target
    cdef int fd = c.flows[x.connection].fd[0]
    cdef ssize_t n = -1
    if watch(c, x.connection, 0, linux.EPOLLIN) == 0:
        n = linux.send(fd, t.host, t.host_size, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
    if n < 0 and (linux.errno == linux.ECONNRESET or linux.errno == linux.EPIPE):
        n = t.host_size  # who reads its answer finds that
    if n != <ssize_t>t.host_size:
        give_back(lane, slot, G_REQUEST)
        return
    let_go(&lane.routes, x)
    x.phase = P_PARENT
    f.way[0].active = f.way[1].active = x.dialling // 1000
    leave_queue(c, slot)
    enter_queue(c, slot, Q_DIAL)


cdef inline void hear_parent(Lane *lane, int32_t slot) noexcept nogil:
    """The parent that was asked has said something, or is gone."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef int fd = c.flows[x.connection].fd[0]
    cdef ssize_t n, size
    while True:
        n = linux.recv(fd, c.buffer, ANSWER_READ, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n <= 0:
        give_back(lane, slot, G_PARENT)  # its owner finds the end that is still in the socket
        return
    size = head_end(c.buffer, n)
    if size > 0 and grants(&lane.plain, c.buffer, size):
        x.dial = stage_over(lane, x)
        count_up(c, x.hop.granted)
        become_tunnel(lane, slot, c.buffer + size, n - size)
    elif leave_answer(lane, slot, c.buffer, n):
        give_back(lane, slot, G_PARENT)
