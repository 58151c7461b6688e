"""The lane's connections to origins: opened, kept while idle, closed.

An idle connection is watched: one whose origin says anything, FIN included, is closed.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strcmp

from core cimport linux
from core.queues cimport enter_queue, leave_queue, wheel_of
from core.service cimport watch
from core.slots cimport list_add, list_take, slot_free, slot_take
from core.types cimport BUCKETS, Core, Flow, IN_LANE, NOWHERE, UNREGISTERED, Wheel
from lane.pacing cimport pace_connection
from lane.routes cimport address_of, origin_release
from lane.types cimport (
    ADDRESS_MAX, Address, Connection, Exchange, Lane, ORIGIN, Origin, PEER_MAX, Q_ORIGIN_IDLE,
    Target, connection_of, exchange_of,
)


cdef enum:
    OWN_MS = 5000           # ms since its last use, in which a client's connection is its own


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


cdef inline void serve_client(Lane *lane, int32_t connection, int32_t slot) noexcept nogil:
    """The connection is there for this client, maybe beside others that are being made."""
    cdef Core *c = &lane.core
    cdef Connection *k = connection_of(&c.flows[connection])
    k.client = slot
    k.since = c.now
    if k.origin != NULL:
        k.origin.busy += 1


cdef inline void bind(Lane *lane, int32_t slot, int32_t connection) noexcept nogil:
    """The connection serves this client."""
    serve_client(lane, connection, slot)
    exchange_of(&lane.core.flows[slot]).connection = connection


cdef inline void unbind(Connection *k) noexcept nogil:
    """It serves nobody any more."""
    if k.client != NOWHERE and k.origin != NULL:
        k.origin.busy -= 1
    k.client = NOWHERE


cdef inline void connection_free(Lane *lane, int32_t slot) noexcept nogil:
    """The slot alone: the descriptor has another owner, or is closed."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Connection *k = connection_of(f)
    leave_queue(c, slot)
    unbind(k)
    if k.origin != NULL:
        origin_release(&lane.routes, k.origin)
    free(k)
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
    cdef Origin *o = connection_of(&c.flows[slot]).origin
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


cdef inline bint leads_to(const Connection *k, const Target *t) noexcept nogil:
    """Whether a connection is to one of the target's addresses."""
    cdef int i
    for i in range(t.count):
        if strcmp(k.peer, address_of(t, i).text) == 0:
            return True
    return False


cdef inline int32_t idle_take(Lane *lane, const Target *t) noexcept nogil:
    """The idle connection to this target that was used last; NOWHERE if there is none."""
    cdef Core *c = &lane.core
    cdef int32_t slot = t.origin.idle.first
    cdef int32_t following
    while slot != NOWHERE:
        following = c.flows[slot].near[IN_LANE].next
        if leads_to(connection_of(&c.flows[slot]), t) and idle_use(lane, slot):
            return slot
        slot = following
    return NOWHERE


cdef inline int32_t idle_oldest(Lane *lane) noexcept nogil:
    """The idle connection that has not been used for longest; NOWHERE if there is none."""
    cdef const Wheel *wheel = wheel_of(&lane.core, Q_ORIGIN_IDLE)
    cdef int32_t slot
    cdef int i
    for i in range(BUCKETS + 2):
        slot = wheel.bucket[(wheel.now + i) % (BUCKETS + 2)].last
        if slot != NOWHERE:
            return slot
    return NOWHERE


cdef inline void idle_make_room(Lane *lane, const Origin *o) noexcept nogil:
    """For one more of this origin. The one that is closed is that which its own server, too, is
    most likely to close next."""
    if o.idle_count > 0 and o.idle_count >= lane.idle_each:
        idle_drop(lane, o.idle.last)
    elif lane.idle_count > 0 and lane.idle_count >= lane.idle_most:
        idle_drop(lane, idle_oldest(lane))


cdef inline int32_t own_take(Lane *lane, int32_t slot, const Target *t) noexcept nogil:
    """The idle connection that this client was the last to use, not long ago, if it leads there;
    NOWHERE if there is none. What may not be repeated can be sent on it: few origins close what
    has just been used."""
    cdef Core *c = &lane.core
    cdef int32_t own = exchange_of(&c.flows[slot]).own
    cdef const Flow *f
    cdef const Connection *k
    exchange_of(&c.flows[slot]).own = NOWHERE
    if own == NOWHERE:
        return NOWHERE
    f = &c.flows[own]
    if f.kind != ORIGIN or f.queue != Q_ORIGIN_IDLE or c.now - f.way[0].active > OWN_MS:
        return NOWHERE
    k = connection_of(f)
    if k.last != slot or k.last_generation != c.flows[slot].generation:
        return NOWHERE
    if k.origin != t.origin or not leads_to(k, t) or not idle_use(lane, own):
        return NOWHERE
    return own


cdef inline void idle_put(Lane *lane, int32_t slot) noexcept nogil:
    """Keeps a connection between two messages, if need be in the place of another."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Connection *k = connection_of(f)
    cdef Origin *o = k.origin
    if o == NULL or lane.draining:
        connection_drop(lane, slot)
        return
    idle_make_room(lane, o)
    if o.idle_count >= lane.idle_each or lane.idle_count >= lane.idle_most or (
        watch(c, slot, 0, linux.EPOLLIN) < 0
    ):
        connection_drop(lane, slot)
        return
    k.last = k.client
    if k.client != NOWHERE:
        k.last_generation = c.flows[k.client].generation
        exchange_of(&c.flows[k.client]).own = slot
    unbind(k)
    pace_connection(k, f.fd[0], 0)
    k.fresh = False
    list_add(c, &o.idle, IN_LANE, slot)
    o.idle_count += 1
    lane.idle_count += 1
    f.way[0].active = c.now
    enter_queue(c, slot, Q_ORIGIN_IDLE)


cdef inline int32_t connection_new(
    Lane *lane, int fd, Origin *origin, const char *peer
) noexcept nogil:
    """A slot for a connection, not yet watched; it holds its origin. NOWHERE if there is none to
    be had."""
    cdef Core *c = &lane.core
    cdef int32_t slot = slot_take(c, fd, NOWHERE, ORIGIN)
    cdef Connection *k
    if slot == NOWHERE:
        return NOWHERE
    k = <Connection *>calloc(1, sizeof(Connection))
    if k == NULL:
        slot_free(c, slot)
        return NOWHERE
    k.client = k.last = NOWHERE
    k.origin = origin
    if origin != NULL:
        origin.holders += 1
    memcpy(k.peer, peer, PEER_MAX)
    c.flows[slot].attached = k
    return slot


cdef inline int begin_connect(const Target *t, int i) noexcept nogil:
    """A socket that connects to an address of the target; -1 and errno."""
    cdef const Address *to = address_of(t, i)
    cdef const Address *source = address_of(t, t.count)
    cdef int error
    cdef int fd = linux.socket(
        linux.AF_INET if to.size < ADDRESS_MAX else linux.AF_INET6,
        linux.SOCK_STREAM | linux.SOCK_NONBLOCK | linux.SOCK_CLOEXEC, 0)
    if fd < 0:
        return -1
    set_option(fd, linux.IPPROTO_TCP, linux.TCP_NODELAY, 1)
    # An urgent byte stays in the stream.
    set_option(fd, linux.SOL_SOCKET, linux.SO_OOBINLINE, 1)
    if t.bound:
        # The port is chosen by connect(2): the same one may serve for several origins.
        set_option(fd, linux.IPPROTO_IP, linux.IP_BIND_ADDRESS_NO_PORT, 1)
    if (not t.bound or linux.bind(fd, <const linux.sockaddr *>source.raw, source.size) == 0) and (
        linux.connect(fd, <const linux.sockaddr *>to.raw, to.size) == 0
        or linux.errno == linux.EINPROGRESS
    ):
        return fd
    error = linux.errno
    linux.close(fd)
    linux.errno = error
    return -1


cdef inline int32_t connection_dial(Lane *lane, const Target *t, int i) noexcept nogil:
    """Begins to connect to an address of the target; NOWHERE and errno if that fails at once."""
    cdef Core *c = &lane.core
    cdef int error
    cdef int32_t slot
    cdef int fd = begin_connect(t, i)
    if fd < 0:
        return NOWHERE
    slot = connection_new(lane, fd, t.origin, address_of(t, i).text)
    if slot == NOWHERE:
        linux.close(fd)
        linux.errno = linux.ENOMEM
        return NOWHERE
    connection_of(&c.flows[slot]).fresh = True
    connection_of(&c.flows[slot]).address = <uint8_t>i
    if watch(c, slot, 0, linux.EPOLLOUT) < 0:
        error = linux.errno
        connection_drop(lane, slot)
        linux.errno = error
        return NOWHERE
    return slot


cdef inline void attempt_drop(Lane *lane, Exchange *x, int32_t connection) noexcept nogil:
    """Closes a connection that is being made."""
    list_take(&lane.core, &x.attempts, IN_LANE, connection)
    connection_drop(lane, connection)


cdef inline void attempts_drop(Lane *lane, Exchange *x) noexcept nogil:
    while x.attempts.first != NOWHERE:
        attempt_drop(lane, x, x.attempts.first)


cdef inline bint is_self(Lane *lane, int fd, const Address *to) noexcept nogil:
    """Whether a socket is connected to itself: one that dials a port for outgoing
    connections of its own machine may get that same port (RFC 9293 section 3.5)."""
    cdef char name[ADDRESS_MAX]
    cdef linux.socklen_t size = ADDRESS_MAX
    cdef int port = (<uint8_t>to.raw[2] << 8) | <uint8_t>to.raw[3]
    if port < lane.first_port or port > lane.last_port:
        return False
    memset(name, 0, ADDRESS_MAX)
    if linux.getsockname(fd, <linux.sockaddr *>name, &size) < 0:
        return True
    return size == to.size and memcmp(name, to.raw, 8) == 0 and (
        size < ADDRESS_MAX or memcmp(name + 8, to.raw + 8, 16) == 0)
