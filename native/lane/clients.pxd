"""New clients of the lane: accepted, or handed over by their owner."""

from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from core cimport linux
from core.addresses cimport ip_text
from core.counts cimport count_up
from core.queues cimport enter_queue
from core.service cimport watch
from core.slots cimport list_init, slot_free, slot_take, slots_reserve
from core.types cimport Core, Flow, NOWHERE
from lane.counts cimport K_CONNECTIONS_BEGUN
from lane.ends cimport give_back
from lane.header cimport await_header, read_header
from lane.request cimport read_next
from lane.types cimport (
    CLIENT, ERRNOS, Exchange, G_HEADER, G_REFUSED, Lane, PEER_MAX, P_HEAD, Q_HEAD, RESERVE, exchange_of,
)

cdef enum:
    ACCEPTS = 16            # new clients in one turn
    PROXIED = 128           # beside Exchange.ways


cdef inline void address_text(const linux.sockaddr *address, char *text) noexcept nogil:
    """The client's IP address, "" for a Unix socket. IPv4 on a socket for both families is
    written as IPv4."""
    cdef const char *raw = <const char *>address
    cdef uint16_t family
    memcpy(&family, raw, sizeof(family))
    if family == linux.AF_INET:
        ip_text(linux.AF_INET, raw + 4, text, PEER_MAX)
    elif family == linux.AF_INET6 and memcmp(raw + 8, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
        ip_text(linux.AF_INET, raw + 20, text, PEER_MAX)
    elif family == linux.AF_INET6:
        ip_text(linux.AF_INET6, raw + 8, text, PEER_MAX)


cdef inline bint is_proxied(const Flow *listener) noexcept nogil:
    """Whether a balancer brings its clients. A listener has no sides that speak, and this there,
    beside what its clients may speak."""
    return listener.spoke & PROXIED


cdef inline uint16_t place_of(const Flow *listener) noexcept nogil:
    """As of Exchange. A listener has no send queue either."""
    return <uint16_t>listener.outq


cdef inline int32_t client_new(Lane *lane, int fd) noexcept nogil:
    """A client between two requests; NOWHERE and errno if it cannot be, and it is still the
    caller's."""
    cdef Core *c = &lane.core
    cdef int32_t slot
    cdef Exchange *x = <Exchange *>calloc(1, sizeof(Exchange))
    # The other events of a batch rely on the slots that were reserved for them.
    if x == NULL or not slots_reserve(c, RESERVE):
        free(x)
        linux.errno = linux.ENOMEM
        return NOWHERE
    slot = slot_take(c, fd, NOWHERE, CLIENT)
    if watch(c, slot, 0, linux.EPOLLIN) < 0:
        free(x)
        slot_free(c, slot)
        return NOWHERE
    c.flows[slot].attached = x
    lane.clients += 1
    x.connection = x.own = x.origin_fd = NOWHERE
    list_init(&x.attempts)
    x.phase = P_HEAD
    c.flows[slot].way[0].left = 0
    enter_queue(c, slot, Q_HEAD)
    return slot


cdef inline void accept_clients(Lane *lane, int32_t listener) noexcept nogil:
    """A batch of new clients, so that no other waits for long."""
    cdef Core *c = &lane.core
    cdef int fd = c.flows[listener].fd[0]
    cdef int client, i, taken
    cdef int32_t slot
    cdef char address[128]
    cdef linux.socklen_t size
    for i in range(ACCEPTS):
        taken = lane.clients + c.tunnels - c.ended + lane.others
        if lane.most and taken >= lane.most + lane.refusals:
            lane.accept_error = linux.EAGAIN
            return
        size = sizeof(address)
        memset(address, 0, 32)
        client = linux.accept4(
            fd, <linux.sockaddr *>address, &size, linux.SOCK_NONBLOCK | linux.SOCK_CLOEXEC)
        if client < 0 and 0 < linux.errno < ERRNOS and lane.transient[linux.errno]:
            continue
        if client < 0:
            if linux.errno != linux.EAGAIN:
                lane.accept_error = linux.errno
            return
        slot = client_new(lane, client)
        if slot == NOWHERE:
            lane.accept_error = linux.errno
            linux.close(client)
            return
        count_up(c, K_CONNECTIONS_BEGUN)
        exchange_of(&c.flows[slot]).ways = c.flows[listener].spoke & ~<uint8_t>PROXIED
        exchange_of(&c.flows[slot]).place = place_of(&c.flows[listener])
        address_text(<linux.sockaddr *>address, exchange_of(&c.flows[slot]).address)
        if is_proxied(&c.flows[listener]):
            await_header(lane, slot)
            if lane.most and taken >= lane.most:
                give_back(lane, slot, G_HEADER)
            else:
                read_header(lane, slot)
        elif lane.most and taken >= lane.most:
            give_back(lane, slot, G_REFUSED)
        else:
            read_next(lane, slot)
