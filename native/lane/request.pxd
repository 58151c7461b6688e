"""A plain request: read, rewritten, and sent as soon as there is a connection to its origin.
A CONNECT becomes a tunnel in the same slot."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from core cimport linux
from lane.ends cimport close_client, hand_over
from core.flow cimport (
    Core, Exchange, Flow, H_REQUEST, H_RETRY, P_DIAL, P_WAIT, Q_DIAL, Q_QUEUE, Q_RACE,
    Q_YOUNG, TUNNEL, enter_queue, leave_queue,
)
from lane.log cimport now_us
from core.moves cimport TARGET_FAILED, send_or_hold
from lane.origins cimport bind, is_self, kept_take, link_dial, link_free
from http.plain cimport CONNECT, Field, GET, Head, Out, PLAIN_FIELDS, Text, full, head_end
from http.plain_request cimport read_request, write_request
from lane.received cimport keep, keep_head
from lane.routes cimport (
    KEY_MAX, NOWHERE, PEER_MAX, Route, USER_MAX, class_of, route_find, route_key,
)
from core.service cimport settle, side_failed, watch
from lane.waiting cimport dequeue, enqueue, may_have_more

cdef enum:
    PLAIN_OUT = 16384       # a rewritten head, with room for Host and Via


cdef inline uint8_t kind_of(const Head *head) noexcept nogil:
    """The method, and the form of the target: the owner's letters are the same."""
    if head.method == CONNECT:
        return 67  # "C"
    if head.method == GET:
        return 71 if head.authority.size else 103  # "G" absolute, "g" origin form
    return 72 if head.authority.size else 104  # "H", "h"


cdef inline const Route *route_of(
    Core *c, const Exchange *x, const Head *head, int64_t at
) noexcept nogil:
    """The route of a request, NULL without one that is valid at `at`."""
    cdef char key[KEY_MAX]
    cdef size_t size
    cdef int32_t found
    cdef const Route *r
    cdef Text client
    cdef Text authority = head.authority
    if authority.size == 0:
        authority = head.host
    elif head.host.size != authority.size or memcmp(
        head.host.at, authority.at, authority.size
    ):
        return NULL  # maybe not even a valid one
    client.at = <const char *>x.address
    client.size = strlen(x.address)
    if not class_of(&c.routes, &client):
        return NULL
    size = route_key(key, kind_of(head), client, head.credentials, authority)
    if size == 0:
        return NULL
    found = route_find(&c.routes, key, size)
    if found == NOWHERE:
        return NULL
    r = &c.routes.all[found]
    if r.renew <= at < r.until and not r.asked:
        # One request asks the owner in time. If all did, when the time is up, there would be
        # as many as there are clients, and each costs ten times as much.
        c.routes.all[found].asked = True
        return NULL
    return r if at < r.until else NULL


cdef inline const Route *prepare(
    Core *c, Exchange *x, const char *data, Out *out, int64_t at
) noexcept nogil:
    """Reads the request head at `data` (x.head bytes) and writes the origin's to c.out;
    returns its route, NULL if it is not plain, or has no route at `at` (ms)."""
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef Text host
    cdef const Route *r
    cdef int count = read_request(&c.plain, data, x.head, &head, fields)
    if count < 0:
        return NULL
    r = route_of(c, x, &head, at)
    if r == NULL:
        return NULL
    x.method = head.method
    x.close = head.close
    memcpy(x.user, r.user, USER_MAX)
    out.at = c.out
    out.end = c.out + PLAIN_OUT
    if head.method != CONNECT:
        host.at = r.host
        host.size = r.host_size
        write_request(out, &c.plain, &head, fields, count, host)
        if full(out):
            return NULL
    return r


cdef inline void send_request(Core *c, int32_t slot, const Out *out) noexcept nogil:
    """Sends what `prepare` wrote to the origin."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef size_t size = out.at - c.out
    cdef ssize_t n
    x.reused = not c.flows[x.link].link.fresh
    n = linux.send(c.flows[x.link].fd[0], c.out, size, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
    if n != <ssize_t>size:
        hand_over(c, slot, H_RETRY if x.reused else H_REQUEST)
        return
    x.phase = P_WAIT
    f.way[1].active = c.now
    enter_queue(c, slot, Q_YOUNG)


cdef inline void reached(Core *c, int32_t slot) noexcept nogil:
    """Its origin is there: the log has the address from here on."""
    cdef Exchange *x = c.flows[slot].x
    memcpy(x.peer, c.flows[x.link].link.peer, PEER_MAX)


cdef inline void dial(Core *c, int32_t slot, const Route *r) noexcept nogil:
    cdef int32_t link
    if r.address_size == 0:
        hand_over(c, slot, H_REQUEST)
        return
    link = link_dial(c, r)
    if link == NOWHERE:
        hand_over(c, slot, H_REQUEST)
        return
    bind(c, slot, link)
    c.flows[slot].x.dialling = now_us()
    c.flows[slot].x.phase = P_DIAL
    c.flows[slot].way[1].active = c.now
    # With another address to try, its owner begins with that before long (RFC 8305).
    enter_queue(c, slot, Q_DIAL if r.single else Q_RACE)


cdef inline void start(Core *c, int32_t slot, const Route *r, const Out *out) noexcept nogil:
    """Sends the request that `prepare` wrote, as soon as there is a connection."""
    cdef int32_t link = NOWHERE
    if c.flows[slot].x.method != CONNECT:
        link = kept_take(c, r.origin, r.peer)
    if link != NOWHERE:
        bind(c, slot, link)
        reached(c, slot)
        send_request(c, slot, out)
    elif c.flows[slot].x.method == CONNECT or may_have_more(c, &c.routes.origins[r.origin]):
        dial(c, slot, r)
    else:
        enqueue(c, slot, r.origin)


cdef inline void start_next(Core *c, int32_t origin) noexcept nogil:
    """An exchange with this origin is over: a client that waits for one has its turn."""
    cdef int32_t slot = c.routes.origins[origin].first
    cdef const Route *r
    cdef Out out
    if slot == NOWHERE:
        return
    dequeue(c, slot)
    r = prepare(c, c.flows[slot].x, c.flows[slot].x.data, &out, 0)  # valid when it came
    if r == NULL:
        hand_over(c, slot, H_REQUEST)
    else:
        start(c, slot, r, &out)


cdef inline void queued_long(Core *c, int32_t slot) noexcept nogil:
    """A client has waited for a while."""
    cdef Exchange *x = c.flows[slot].x
    cdef const Route *r
    cdef Out out
    if not may_have_more(c, &c.routes.origins[x.origin]):
        c.flows[slot].way[1].active = c.now
        leave_queue(c, slot)
        enter_queue(c, slot, Q_QUEUE)
        return
    dequeue(c, slot)
    r = prepare(c, x, x.data, &out, 0)
    if r == NULL:
        hand_over(c, slot, H_REQUEST)
    else:
        dial(c, slot, r)


cdef inline void begin(Core *c, int32_t slot, const char *data, size_t n) noexcept nogil:
    """What was received and not consumed may be the next request; `data` is either x.data,
    or has yet to be kept. Part of a head is for the owner: it can tell early whether the
    rest is worth waiting for."""
    cdef Exchange *x = c.flows[slot].x
    cdef const Route *r = NULL
    cdef Out out
    cdef ssize_t end = head_end(data, n)
    if data != x.data and not keep(x, data, n):
        close_client(c, slot)
        return
    if end > 0:
        x.head = <uint32_t>end
        r = prepare(c, x, x.data, &out, c.now)
    if r == NULL:
        hand_over(c, slot, H_REQUEST)
        return
    if c.log.on:
        x.started = now_us()
    x.status = 0
    x.type_size = 0
    x.peer[0] = 0
    c.flows[slot].way[1].copied = c.flows[slot].way[1].spliced = 0
    c.flows[slot].way[1].flags = 0
    start(c, slot, r, &out)


cdef inline void read_next(Core *c, int32_t slot) noexcept nogil:
    """The client of no exchange has something to say."""
    cdef ssize_t n
    while True:
        n = linux.recv(c.flows[slot].fd[0], c.buffer, c.limits.chunk, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n <= 0:
        close_client(c, slot)
    else:
        begin(c, slot, c.buffer, n)


cdef inline void become_tunnel(Core *c, int32_t slot) noexcept nogil:
    """CONNECT has succeeded. The exchange stays, as what is known of the tunnel."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef linux.epoll_event event
    cdef int fd = c.flows[x.link].fd[0]
    event.events = linux.EPOLLIN
    event.data.u64 = (<uint64_t>f.generation << 32) | <uint32_t>(slot * 2 + 1)
    if linux.epoll_ctl(c.epfd, linux.EPOLL_CTL_MOD, fd, &event) < 0:
        hand_over(c, slot, H_REQUEST)
        return
    link_free(c, x.link)
    x.link = NOWHERE
    x.status = 200
    f.kind = TUNNEL
    f.fd[1] = fd
    f.mask[1] = linux.EPOLLIN
    f.way[0].left = f.way[1].left = -1
    f.way[0].active = f.way[1].active = c.now
    c.clients -= 1
    c.tunnels += 1
    enter_queue(c, slot, Q_YOUNG)
    if send_or_hold(c, &f.way[1], f.fd[0], c.established, c.established_size) == TARGET_FAILED:
        side_failed(c, f, 0, linux.errno)
    elif x.have > x.head:
        if send_or_hold(
            c, &f.way[0], fd, x.data + x.head, x.have - x.head) == TARGET_FAILED:
            side_failed(c, f, 1, linux.errno)
    keep_head(x)
    settle(c, slot, -1)


cdef inline void dialled(Core *c, int32_t slot, uint32_t events) noexcept nogil:
    """The attempt to connect is over; epoll says how."""
    cdef Exchange *x = c.flows[slot].x
    cdef Out out
    # It was valid when the attempt began, however long that took.
    cdef const Route *r = prepare(c, x, x.data, &out, 0)
    cdef bint failed = events & (linux.EPOLLERR | linux.EPOLLHUP)
    if r == NULL or failed or is_self(c, c.flows[x.link].fd[0], r):
        hand_over(c, slot, H_REQUEST)  # its owner tries again, and says what is wrong
        return
    reached(c, slot)
    if x.method == CONNECT:
        become_tunnel(c, slot)
    elif watch(c, x.link, 0, linux.EPOLLIN) < 0:
        hand_over(c, slot, H_REQUEST)
    else:
        send_request(c, slot, &out)
