"""Connections to origins for plain exchanges: opened, kept while idle, closed.

An idle connection is watched: one whose origin says anything, FIN included, is closed.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strcmp

from core cimport linux
from core.flow cimport (
    Core, Flow, Link, ORIGIN, Q_KEPT, UNREGISTERED, enter_queue, leave_queue, slot_free,
    slot_take,
)
from lane.routes cimport ADDRESS_MAX, NOWHERE, Origin, PEER_MAX, Route
from core.service cimport watch

cdef enum:
    KEEPALIVE_IDLE = 60     # seconds, as of the other sockets (spliceproxy/tcp.py)
    KEEPALIVE_INTERVAL = 15
    KEEPALIVE_COUNT = 4


cdef inline void set_option(int fd, int level, int name, int value) noexcept nogil:
    linux.setsockopt(fd, level, name, &value, sizeof(value))


cdef inline void probe(int fd) noexcept nogil:
    """Lets the kernel ask a peer that says nothing whether it is there (TCP keep-alive), as
    spliceproxy/tcp.py does: a dead one is found, and a NAT does not forget the connection.
    Four calls are as much as a tenth of a tunnel's, and most connections do not live to need
    them. So they are made for one that has rested for a while, and for one that leaves."""
    set_option(fd, linux.SOL_SOCKET, linux.SO_KEEPALIVE, 1)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_KEEPCNT, KEEPALIVE_COUNT)


cdef inline void bind(Core *c, int32_t slot, int32_t link) noexcept nogil:
    """The connection serves this client."""
    cdef Link *k = c.flows[link].link
    c.flows[slot].x.link = link
    k.client = slot
    k.since = c.now
    if k.origin != NOWHERE:
        c.routes.origins[k.origin].busy += 1


cdef inline void unbind(Core *c, Link *k) noexcept nogil:
    """It serves nobody any more."""
    if k.client != NOWHERE and k.origin != NOWHERE:
        c.routes.origins[k.origin].busy -= 1
    k.client = NOWHERE


cdef inline void link_free(Core *c, int32_t slot) noexcept nogil:
    """The slot alone: the descriptor has another owner, or is closed."""
    cdef Flow *f = &c.flows[slot]
    leave_queue(c, slot)
    unbind(c, f.link)
    free(f.link)
    f.link = NULL
    slot_free(c, slot)


cdef inline void link_drop(Core *c, int32_t slot) noexcept nogil:
    """Closes a connection that is not idle."""
    linux.close(c.flows[slot].fd[0])
    link_free(c, slot)


cdef inline int link_take_out(Core *c, int32_t slot) noexcept nogil:
    """Its descriptor, out of epoll and with keep-alive: the caller's from now on."""
    cdef int fd = c.flows[slot].fd[0]
    if not c.flows[slot].link.probed:
        probe(fd)
    watch(c, slot, 0, <uint32_t>UNREGISTERED)
    link_free(c, slot)
    return fd


cdef inline void unstack(Core *c, int32_t slot) noexcept nogil:
    """Takes an idle connection out of its origin's stack."""
    cdef Link *k = c.flows[slot].link
    cdef Origin *o = &c.routes.origins[k.origin]
    if k.above != NOWHERE:
        c.flows[k.above].link.below = k.below
    else:
        o.top = k.below
    if k.below != NOWHERE:
        c.flows[k.below].link.above = k.above
    o.idle -= 1
    c.kept_count -= 1


cdef inline void kept_drop(Core *c, int32_t slot) noexcept nogil:
    """Closes an idle connection."""
    unstack(c, slot)
    link_drop(c, slot)


cdef inline bint is_silent(int fd) noexcept nogil:
    """Whether the peer has said nothing, not even FIN, since the last receive."""
    cdef char byte
    cdef ssize_t n = linux.recv(fd, &byte, 1, linux.MSG_PEEK | linux.MSG_DONTWAIT)
    return n < 0 and linux.errno == linux.EAGAIN


cdef inline bint kept_use(Core *c, int32_t slot) noexcept nogil:
    """Takes an idle connection into use; false, and it is closed, if its origin has just
    said something, maybe a 408 on its way to close, and would answer wrongly."""
    unstack(c, slot)
    leave_queue(c, slot)
    if is_silent(c.flows[slot].fd[0]):
        return True
    link_drop(c, slot)
    return False


cdef inline int32_t kept_take(Core *c, int32_t origin, const char *peer) noexcept nogil:
    """The idle connection to this address that was used last; NOWHERE if there is none."""
    cdef int32_t slot = c.routes.origins[origin].top
    cdef int32_t below
    while slot != NOWHERE:
        below = c.flows[slot].link.below
        if strcmp(c.flows[slot].link.peer, peer) == 0 and kept_use(c, slot):
            return slot
        slot = below
    return NOWHERE


cdef inline void kept_put(Core *c, int32_t slot) noexcept nogil:
    """Keeps a connection between two messages; closes it if there is no room."""
    cdef Flow *f = &c.flows[slot]
    cdef Link *k = f.link
    cdef Origin *o
    if k.origin == NOWHERE or c.kept_count >= c.kept_most or c.draining:
        link_drop(c, slot)
        return
    o = &c.routes.origins[k.origin]
    if o.idle >= c.kept_each or watch(c, slot, 0, linux.EPOLLIN) < 0:
        link_drop(c, slot)
        return
    unbind(c, k)
    k.fresh = False
    k.above = NOWHERE
    k.below = o.top
    if o.top != NOWHERE:
        c.flows[o.top].link.above = slot
    o.top = slot
    o.idle += 1
    c.kept_count += 1
    f.way[0].active = c.now
    enter_queue(c, slot, Q_KEPT)


cdef inline int32_t link_new(Core *c, int fd, int32_t origin, const char *peer) noexcept nogil:
    """A slot for a connection, not yet watched; NOWHERE if there is none to be had."""
    cdef int32_t slot = slot_take(c, fd, NOWHERE, ORIGIN)
    cdef Flow *f
    if slot == NOWHERE:
        return NOWHERE
    f = &c.flows[slot]
    f.link = <Link *>calloc(1, sizeof(Link))
    if f.link == NULL:
        slot_free(c, slot)
        return NOWHERE
    f.link.client = f.link.above = f.link.below = NOWHERE
    f.link.origin = origin
    memcpy(f.link.peer, peer, PEER_MAX)
    return slot


cdef inline int32_t link_dial(Core *c, const Route *r) noexcept nogil:
    """Begins to connect; NOWHERE if that fails at once."""
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
    slot = link_new(c, fd, r.origin, r.peer)
    if slot == NOWHERE:
        linux.close(fd)
        return NOWHERE
    c.flows[slot].link.fresh = True
    if watch(c, slot, 0, linux.EPOLLOUT) < 0:
        link_drop(c, slot)
        return NOWHERE
    return slot


cdef inline bint is_self(Core *c, int fd, const Route *r) noexcept nogil:
    """Whether a socket is connected to itself: one that dials a port for outgoing
    connections of its own machine may get that same port (RFC 9293 section 3.5)."""
    cdef char name[ADDRESS_MAX]
    cdef linux.socklen_t size = ADDRESS_MAX
    cdef int port = (<uint8_t>r.address[2] << 8) | <uint8_t>r.address[3]
    if port < c.first_port or port > c.last_port:
        return False
    memset(name, 0, ADDRESS_MAX)
    if linux.getsockname(fd, <linux.sockaddr *>name, &size) < 0:
        return True
    return size == r.address_size and memcmp(name, r.address, 8) == 0 and (
        size < ADDRESS_MAX or memcmp(name + 8, r.address + 8, 16) == 0)
