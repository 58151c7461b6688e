"""The lane's connections to origins: opened, kept while idle, closed.

An idle connection is watched: one whose origin says anything, FIN included, is closed.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strcmp

from core cimport linux
from core.queues cimport enter_queue, leave_queue
from core.service cimport watch
from core.slots cimport list_add, list_take, slot_free, slot_take
from core.types cimport Core, Flow, IN_LANE, NOWHERE, UNREGISTERED
from lane.types cimport (
    ADDRESS_MAX, Connection, Lane, ORIGIN, Origin, PEER_MAX, Q_ORIGIN_IDLE, Route,
    connection_of, exchange_of,
)


cdef inline void set_option(int fd, int level, int name, int value) noexcept nogil:
    linux.setsockopt(fd, level, name, &value, sizeof(value))


cdef inline void probe(const Core *c, int fd) noexcept nogil:
    """Lets the kernel ask a peer that says nothing whether it is there (TCP keep-alive), as
    spliceproxy/net/tcp.py does: a dead one is found, and a NAT does not forget the connection.
    Four calls are as much as a tenth of a tunnel's, and most connections do not live to need
    them. So they are made for one that has rested for a while, and for one that leaves."""
    set_option(fd, linux.SOL_SOCKET, linux.SO_KEEPALIVE, 1)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPIDLE, c.limits.probe_idle)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPINTVL, c.limits.probe_interval)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPCNT, c.limits.probe_count)


cdef inline void bind(Lane *lane, int32_t slot, int32_t connection) noexcept nogil:
    """The connection serves this client."""
    cdef Core *c = &lane.core
    cdef Connection *k = connection_of(&c.flows[connection])
    exchange_of(&c.flows[slot]).connection = connection
    k.client = slot
    k.since = c.now
    if k.origin != NOWHERE:
        lane.routes.origins[k.origin].busy += 1


cdef inline void unbind(Lane *lane, Connection *k) noexcept nogil:
    """It serves nobody any more."""
    if k.client != NOWHERE and k.origin != NOWHERE:
        lane.routes.origins[k.origin].busy -= 1
    k.client = NOWHERE


cdef inline void connection_free(Lane *lane, int32_t slot) noexcept nogil:
    """The slot alone: the descriptor has another owner, or is closed."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    leave_queue(c, slot)
    unbind(lane, connection_of(f))
    free(f.attached)
    f.attached = NULL
    slot_free(c, slot)


cdef inline void connection_drop(Lane *lane, int32_t slot) noexcept nogil:
    """Closes a connection that is not idle."""
    cdef Core *c = &lane.core
    linux.close(c.flows[slot].fd[0])
    connection_free(lane, slot)


cdef inline int connection_take_out(Lane *lane, int32_t slot) noexcept nogil:
    """Its descriptor, out of epoll and with keep-alive: the caller's from now on."""
    cdef Core *c = &lane.core
    cdef int fd = c.flows[slot].fd[0]
    if not connection_of(&c.flows[slot]).probed:
        probe(c, fd)
    watch(c, slot, 0, <uint32_t>UNREGISTERED)
    connection_free(lane, slot)
    return fd


cdef inline void leave_idle(Lane *lane, int32_t slot) noexcept nogil:
    """Takes an idle connection out of those of its origin."""
    cdef Core *c = &lane.core
    cdef Origin *o = &lane.routes.origins[connection_of(&c.flows[slot]).origin]
    list_take(c, &o.idle, IN_LANE, slot)
    o.idle_count -= 1
    lane.idle_count -= 1


cdef inline void idle_drop(Lane *lane, int32_t slot) noexcept nogil:
    """Closes an idle connection."""
    leave_idle(lane, slot)
    connection_drop(lane, slot)


cdef inline bint is_silent(int fd) noexcept nogil:
    """Whether the peer has said nothing, not even FIN, since the last receive."""
    cdef char byte
    cdef ssize_t n = linux.recv(fd, &byte, 1, linux.MSG_PEEK | linux.MSG_DONTWAIT)
    return n < 0 and linux.errno == linux.EAGAIN


cdef inline bint idle_use(Lane *lane, int32_t slot) noexcept nogil:
    """Takes an idle connection into use; false, and it is closed, if its origin has just
    said something, maybe a 408 on its way to close, and would answer wrongly."""
    cdef Core *c = &lane.core
    leave_idle(lane, slot)
    leave_queue(c, slot)
    if is_silent(c.flows[slot].fd[0]):
        return True
    connection_drop(lane, slot)
    return False


cdef inline int32_t idle_take(Lane *lane, int32_t origin, const char *peer) noexcept nogil:
    """The idle connection to this address that was used last; NOWHERE if there is none."""
    cdef Core *c = &lane.core
    cdef int32_t slot = lane.routes.origins[origin].idle.first
    cdef int32_t following
    while slot != NOWHERE:
        following = c.flows[slot].near[IN_LANE].next
        if strcmp(connection_of(&c.flows[slot]).peer, peer) == 0 and idle_use(lane, slot):
            return slot
        slot = following
    return NOWHERE


cdef inline void idle_put(Lane *lane, int32_t slot) noexcept nogil:
    """Keeps a connection between two messages; closes it if there is no room."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Connection *k = connection_of(f)
    cdef Origin *o
    if k.origin == NOWHERE or lane.idle_count >= lane.idle_most or lane.draining:
        connection_drop(lane, slot)
        return
    o = &lane.routes.origins[k.origin]
    if o.idle_count >= lane.idle_each or watch(c, slot, 0, linux.EPOLLIN) < 0:
        connection_drop(lane, slot)
        return
    unbind(lane, k)
    k.fresh = False
    list_add(c, &o.idle, IN_LANE, slot)
    o.idle_count += 1
    lane.idle_count += 1
    f.way[0].active = c.now
    enter_queue(c, slot, Q_ORIGIN_IDLE)


cdef inline int32_t connection_new(
    Lane *lane, int fd, int32_t origin, const char *peer
) noexcept nogil:
    """A slot for a connection, not yet watched; NOWHERE if there is none to be had."""
    cdef Core *c = &lane.core
    cdef int32_t slot = slot_take(c, fd, NOWHERE, ORIGIN)
    cdef Connection *k
    if slot == NOWHERE:
        return NOWHERE
    k = <Connection *>calloc(1, sizeof(Connection))
    if k == NULL:
        slot_free(c, slot)
        return NOWHERE
    k.client = NOWHERE
    k.origin = origin
    memcpy(k.peer, peer, PEER_MAX)
    c.flows[slot].attached = k
    return slot


cdef inline int32_t connection_dial(Lane *lane, const Route *r) noexcept nogil:
    """Begins to connect; NOWHERE if that fails at once."""
    cdef Core *c = &lane.core
    cdef const linux.sockaddr *address = <const linux.sockaddr *>r.address
    cdef int family = linux.AF_INET if r.address_size < ADDRESS_MAX else linux.AF_INET6
    cdef int32_t slot
    cdef int fd = linux.socket(
        family, linux.SOCK_STREAM | linux.SOCK_NONBLOCK | linux.SOCK_CLOEXEC, 0)
    if fd < 0:
        return NOWHERE
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_NODELAY, 1)
    # An urgent byte stays in the stream.
    set_option(fd, linux.SOL_SOCKET, linux.SO_OOBINLINE, 1)
    if linux.connect(fd, address, r.address_size) < 0 and linux.errno != linux.EINPROGRESS:
        linux.close(fd)
        return NOWHERE
    slot = connection_new(lane, fd, r.origin, r.peer)
    if slot == NOWHERE:
        linux.close(fd)
        return NOWHERE
    connection_of(&c.flows[slot]).fresh = True
    if watch(c, slot, 0, linux.EPOLLOUT) < 0:
        connection_drop(lane, slot)
        return NOWHERE
    return slot


cdef inline bint is_self(Lane *lane, int fd, const Route *r) noexcept nogil:
    """Whether a socket is connected to itself: one that dials a port for outgoing
    connections of its own machine may get that same port (RFC 9293 section 3.5)."""
    cdef char name[ADDRESS_MAX]
    cdef linux.socklen_t size = ADDRESS_MAX
    cdef int port = (<uint8_t>r.address[2] << 8) | <uint8_t>r.address[3]
    if port < lane.first_port or port > lane.last_port:
        return False
    memset(name, 0, ADDRESS_MAX)
    if linux.getsockname(fd, <linux.sockaddr *>name, &size) < 0:
        return True
    return size == r.address_size and memcmp(name, r.address, 8) == 0 and (
        size < ADDRESS_MAX or memcmp(name + 8, r.address + 8, 16) == 0)
