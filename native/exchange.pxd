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

Functions that end a client leave its slot in Q_FINISHED; nothing may touch it afterwards.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

cimport linux
from flow cimport (
    CLIENT, Core, Exchange, Flow, H_CLOSED, H_LINGER, H_REFUSED, H_REQUEST, H_RESPONSE,
    H_RETRY, H_UNANSWERED, Link, P_BODY, P_DIAL, P_IDLE, P_QUEUE, P_WAIT, Q_DIAL,
    Q_FINISHED, Q_HEAD, Q_IDLE, Q_QUEUE, Q_RACE, Q_YOUNG, R_CLIENT_GONE, R_HANDED_OVER, R_IDLE, R_SIDE1,
    R_SOURCE_EOF, R_TARGET_IDLE, SPLICING, TUNNEL, UNREGISTERED, Way, enter_queue,
    leave_queue, pending, slot_free, slot_take, slots_reserve,
)
from log cimport log_put, now_us
from moves cimport (
    END, MORE, Moved, SHORT, SOURCE_FAILED, TARGET_FAILED, drop_pending, fill, flush, hold,
    send_or_hold,
)
from origins cimport (
    bind, connected, is_silent, kept_drop, kept_put, kept_take, link_dial, link_drop, link_free,
    link_take_out, set_option,
)
from plain cimport (
    CONNECT, Field, GET, HEAD, Head, Out, PLAIN_FIELDS, PLAIN_HEAD, Text, full, head_end,
    join_chunks, put, put_chunk_size, read_request, read_response, write_request, write_response,
)
from routes cimport KEY_MAX, NOWHERE, Origin, PEER_MAX, Route, USER_MAX, route_find, route_key
from service cimport finish, send_queue, settle, side_failed, watch

cdef enum:
    PLAIN_OUT = 16384       # a rewritten head, with room for Host and Via
    ROOM_FOR_SIZE = 32      # of a chunk behind it
    BUSY = 512              # connections in use to one origin, beyond which clients wait
    QUEUE_MS = 100          # ms after which such a client looks whether it must
    EXTRA = 128             # connections beyond BUSY that are made in such a time
    PIPELINED = 65536       # bytes of further requests that are read during an exchange
    ACCEPTS = 16            # new clients in one turn
    REFUSALS = 64           # beyond the limit, that the owner answers at the same time
    RESERVE = 64            # slots, at least as many as step.pxd serves in a batch


# ---- the end -----------------------------------------------------------------------------

cdef inline void dequeue(Core *c, int32_t slot) noexcept nogil:
    cdef Exchange *x = c.flows[slot].x
    cdef Origin *o = &c.routes.origins[x.origin]
    if x.before != NOWHERE:
        c.flows[x.before].x.after = x.after
    else:
        o.first = x.after
    if x.after != NOWHERE:
        c.flows[x.after].x.before = x.before
    else:
        o.last = x.before
    x.phase = P_IDLE


cdef inline void hand_over(Core *c, int32_t slot, uint8_t cause) noexcept nogil:
    """The owner goes on with this client, and with its origin if that has the request."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    x.cause = cause
    if x.phase == P_QUEUE:
        dequeue(c, slot)
    if x.link != NOWHERE and cause != H_RESPONSE and cause != H_UNANSWERED:
        link_drop(c, x.link)
        x.link = NOWHERE
    if cause != H_CLOSED:
        c.counters.handed_over += 1
    finish(c, slot, R_HANDED_OVER)


cdef inline void close_client(Core *c, int32_t slot) noexcept nogil:
    hand_over(c, slot, H_CLOSED)


cdef inline void note(Core *c, int32_t slot, uint8_t reason) noexcept nogil:
    """The exchange in work is over: a line for the log."""
    cdef Flow *f = &c.flows[slot]
    log_put(c, f.x, f.x.head, f.way[1].copied + f.way[1].spliced, reason)


cdef inline void cut(Core *c, int32_t slot, uint8_t reason) noexcept nogil:
    """Ends an exchange in the middle, visibly: the client's connection is closed."""
    note(c, slot, reason)
    close_client(c, slot)


# ---- requests ----------------------------------------------------------------------------

cdef inline bint keep(Exchange *x, const char *data, size_t n) noexcept nogil:
    """Adds to what was received; false without memory."""
    cdef char *at
    if n == 0:
        return True
    at = <char *>realloc(x.data, x.have + n)
    if at == NULL:
        return False
    memcpy(at + x.have, data, n)
    x.data = at
    x.have += <uint32_t>n
    return True


cdef inline void keep_head(Exchange *x) noexcept nogil:
    """Forgets what was received behind the head in work; that is for the log."""
    cdef char *at = <char *>realloc(x.data, x.head)
    x.have = x.head
    if at != NULL:  # else it stays where it is
        x.data = at


cdef inline uint8_t kind_of(const Head *head) noexcept nogil:
    """The method, and the form of the target: the owner's letters are the same."""
    if head.method == CONNECT:
        return 67  # "C"
    if head.method == GET:
        return 71 if head.authority.size else 103  # "G" absolute, "g" origin form
    return 72 if head.authority.size else 104  # "H", "h"


cdef inline const Route *route_of(Core *c, const Exchange *x, const Head *head) noexcept nogil:
    """The route of a request, NULL without a valid one."""
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
    size = route_key(key, kind_of(head), client, head.credentials, authority)
    if size == 0:
        return NULL
    found = route_find(&c.routes, key, size)
    if found == NOWHERE:
        return NULL
    r = &c.routes.all[found]
    return r if c.now < r.until else NULL


cdef inline const Route *prepare(Core *c, Exchange *x, const char *data, Out *out) noexcept nogil:
    """Reads the request head at `data` (x.head bytes) and writes the origin's to c.out;
    returns its route, NULL if it is not plain."""
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef Text host
    cdef const Route *r
    cdef int count = read_request(&c.plain, data, x.head, &head, fields)
    if count < 0:
        return NULL
    r = route_of(c, x, &head)
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
    enter_queue(c, slot, Q_IDLE)


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
    if c.flows[slot].x.started == 0:  # its owner must know, to go on within the limit
        c.flows[slot].x.started = now_us()
    c.flows[slot].x.phase = P_DIAL
    c.flows[slot].way[1].active = c.now
    # With another address to try, its owner begins with that before long (RFC 8305).
    enter_queue(c, slot, Q_DIAL if r.single else Q_RACE)


# ---- waiting for a connection ------------------------------------------------------------
#
# An origin that answers soon is best served through few connections: thousands of clients
# would otherwise open thousands. Where each of BUSY connections answers once a second, a
# client waits for one of them; where they do not, their number grows.

cdef inline void count_answer(Core *c, Origin *o) noexcept nogil:
    if c.now - o.second >= 1000:
        o.answers_before = o.answers if c.now - o.second < 2000 else 0
        o.answers = 0
        o.second = c.now
    o.answers += 1


cdef inline bint answers_soon(Core *c, const Origin *o) noexcept nogil:
    if c.now - o.second >= 2000:
        return False
    return o.answers + o.answers_before >= BUSY


cdef inline bint may_have_more(Core *c, Origin *o) noexcept nogil:
    """Whether one more connection may be made now."""
    if answers_soon(c, o):
        return False
    if c.now - o.spell >= QUEUE_MS:
        o.spell = c.now
        o.extra = 0
    o.extra += 1
    return o.extra <= EXTRA


cdef inline void enqueue(Core *c, int32_t slot, int32_t origin) noexcept nogil:
    cdef Exchange *x = c.flows[slot].x
    cdef Origin *o = &c.routes.origins[origin]
    x.phase = P_QUEUE
    x.origin = origin
    x.before = o.last
    x.after = NOWHERE
    if o.last != NOWHERE:
        c.flows[o.last].x.after = slot
    else:
        o.first = slot
    o.last = slot
    c.flows[slot].way[1].active = c.now
    enter_queue(c, slot, Q_QUEUE)


cdef inline void start(Core *c, int32_t slot, const Route *r, const Out *out) noexcept nogil:
    """Sends the request that `prepare` wrote, as soon as there is a connection."""
    cdef const Origin *o = &c.routes.origins[r.origin]
    cdef int32_t link = NOWHERE
    if c.flows[slot].x.method != CONNECT:
        link = kept_take(c, r.origin, r.peer)
    if link != NOWHERE:
        bind(c, slot, link)
        reached(c, slot)
        send_request(c, slot, out)
    elif c.flows[slot].x.method != CONNECT and o.busy >= BUSY:
        enqueue(c, slot, r.origin)
    else:
        dial(c, slot, r)


cdef inline void start_next(Core *c, int32_t origin) noexcept nogil:
    """An exchange with this origin is over: a client that waits for one has its turn."""
    cdef int32_t slot = c.routes.origins[origin].first
    cdef const Route *r
    cdef Out out
    if slot == NOWHERE:
        return
    dequeue(c, slot)
    r = prepare(c, c.flows[slot].x, c.flows[slot].x.data, &out)
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
    r = prepare(c, x, x.data, &out)
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
    x.started = 0
    if data != x.data and not keep(x, data, n):
        close_client(c, slot)
        return
    if end > 0:
        x.head = <uint32_t>end
        r = prepare(c, x, x.data, &out)
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


# ---- the origin is there -----------------------------------------------------------------

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


cdef inline void dialled(Core *c, int32_t slot) noexcept nogil:
    """The attempt to connect is over."""
    cdef Exchange *x = c.flows[slot].x
    cdef Out out
    cdef const Route *r = prepare(c, x, x.data, &out)
    if r == NULL or not connected(c, c.flows[x.link].fd[0], r):
        hand_over(c, slot, H_REQUEST)  # its owner tries again, and says what is wrong
        return
    reached(c, slot)
    if x.method == CONNECT:
        become_tunnel(c, slot)
    elif watch(c, x.link, 0, linux.EPOLLIN) < 0:
        hand_over(c, slot, H_REQUEST)
    else:
        send_request(c, slot, &out)


# ---- responses ---------------------------------------------------------------------------

cdef inline void answered(Core *c, int32_t slot) noexcept nogil:
    """All of the response is sent."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef int32_t link = x.link
    cdef int32_t origin = c.flows[link].link.origin
    c.counters.exchanges += 1
    note(c, slot, 0)
    x.started = 0
    x.link = NOWHERE
    x.requests += 1
    if x.spent:
        link_drop(c, link)
    else:
        kept_put(c, link)
    if origin != NOWHERE:
        count_answer(c, &c.routes.origins[origin])
        start_next(c, origin)
    x.have -= x.head
    if x.have:
        memmove(x.data, x.data + x.head, x.have)
    else:
        free(x.data)
        x.data = NULL
    x.phase = P_IDLE
    if x.close:
        if x.have or send_queue(f.fd[0]) or not is_silent(f.fd[0]):
            hand_over(c, slot, H_LINGER)
        else:
            close_client(c, slot)
        return
    if c.draining and not x.have and is_silent(f.fd[0]):
        close_client(c, slot)
        return
    if c.draining or watch(c, slot, 0, linux.EPOLLIN) < 0:
        hand_over(c, slot, H_REQUEST)
        return
    f.way[1].active = c.now
    leave_queue(c, slot)
    enter_queue(c, slot, Q_HEAD)
    if x.have:
        begin(c, slot, x.data, x.have)


cdef inline void after_move(Core *c, int32_t slot) noexcept nogil:
    """What epoll should watch while a body is on its way, or that it has arrived."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef Way *w = &f.way[1]
    cdef bint blocked = pending(w)
    cdef uint32_t mask = f.mask[0] & linux.EPOLLIN
    if w.left == 0 and not blocked:
        answered(c, slot)
        return
    if blocked:
        mask |= linux.EPOLLOUT
    # Epoll cannot mask HUP: an origin that nothing is wanted of is taken out.
    if watch(c, slot, 0, mask) < 0 or watch(
        c, x.link, 0,
        <uint32_t>UNREGISTERED if blocked or w.left == 0 else linux.EPOLLIN) < 0:
        cut(c, slot, R_SIDE1)


cdef inline void move_body(Core *c, int32_t slot, bint readable) noexcept nogil:
    """The turn of a body: bounded, so that no other waits for long."""
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[1]
    cdef int source = c.flows[f.x.link].fd[0]
    cdef int moves = c.limits.turn_moves
    cdef int64_t budget = c.moved + c.limits.turn_bytes
    cdef Moved r = SHORT
    if pending(w):
        r = flush(c, w, f.fd[0])
    while (r == SHORT or r == MORE) and w.left > 0 and moves > 0 and c.moved < budget:
        if r == SHORT and moves != c.limits.turn_moves:
            break
        moves -= 1
        r = fill(c, w, source, f.fd[0], readable)
        readable = False
    if r == END:
        cut(c, slot, R_SOURCE_EOF)
    elif r == SOURCE_FAILED:
        cut(c, slot, R_SIDE1)
    elif r == TARGET_FAILED:
        cut(c, slot, R_CLIENT_GONE)
    else:
        after_move(c, slot)


cdef inline void send_response(
    Core *c, int32_t slot, const Out *out, char *body, size_t n
) noexcept nogil:
    """The first part of the answer: the head in c.out and `n` bytes of the body."""
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[1]
    cdef linux.iovec parts[2]
    cdef linux.msghdr message
    cdef size_t size = out.at - c.out
    cdef ssize_t m
    parts[0].iov_base = c.out
    parts[0].iov_len = size
    parts[1].iov_base = body
    parts[1].iov_len = n
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = 2
    m = linux.sendmsg(f.fd[0], &message, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
    if m < 0:
        if linux.errno != linux.EAGAIN:
            cut(c, slot, R_CLIENT_GONE)
            return
        m = 0
    w.copied = m
    w.active = c.now
    c.counters.copied += m
    if <size_t>m == size + n:
        after_move(c, slot)
        return
    w.held = <char *>malloc(size + n - m)
    if w.held == NULL:
        cut(c, slot, R_CLIENT_GONE)
        return
    w.held_at = 0
    w.held_end = <uint32_t>(size + n - m)
    if <size_t>m < size:
        memcpy(w.held, c.out + m, size - m)
        memcpy(w.held + size - m, body, n)
    else:
        memcpy(w.held, body + (m - size), n - (m - size))
    after_move(c, slot)


cdef inline bint has_body(const Exchange *x) noexcept nogil:
    return x.method != HEAD and x.status != 204 and x.status != 304


cdef inline ssize_t body_of(
    Exchange *x, const Head *head, char *body, size_t n, Out *out, int64_t *left
) noexcept nogil:
    """How many of the `n` bytes behind the head go to the client; `left` are still to come.
    What goes before them is added to the head. -1 where the owner must frame this body."""
    cdef int64_t length = head.length
    cdef size_t used = 0
    cdef ssize_t size
    left[0] = 0
    if not has_body(x):
        if head.chunked or (head.status == 204 and length >= 0):
            return -1
        length = 0
    elif head.chunked:
        size = join_chunks(body, n, &used)
        if size < 0:
            return -1
        x.spent |= n > used
        if size == 0:
            put(out, b"0\r\n\r\n", 5)
            return 0
        put_chunk_size(out, size)
        memcpy(body + size, b"\r\n0\r\n\r\n", 7)  # it had more of its own
        return size + 7
    if length < 0:
        return -1
    x.spent |= <int64_t>n > length
    size = min(<int64_t>n, length)
    left[0] = length - size
    return size


cdef inline bint answer(Core *c, int32_t slot, ssize_t n) noexcept nogil:
    """The first `n` bytes of the origin's answer are in c.buffer; false if its head is not
    plain, or not all there, or its body not for us: nothing has changed then."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef Way *w = &f.way[1]
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef Out out
    cdef int count
    cdef ssize_t size = head_end(c.buffer, n)
    if size < 0:
        return False
    count = read_response(&c.plain, c.buffer, size, &head, fields)
    if count < 0:
        return False
    x.status = <uint16_t>head.status
    x.spent = head.close
    x.close |= c.draining
    out.at = c.out
    out.end = c.out + PLAIN_OUT
    write_response(&out, &c.plain, c.buffer, &head, fields, count, x.close)
    x.type_size = <uint8_t>min(head.type.size, sizeof(x.type))
    if x.type_size:
        memcpy(x.type, head.type.at, x.type_size)
    if out.end - out.at < ROOM_FOR_SIZE:
        return False
    n = body_of(x, &head, c.buffer + size, n - size, &out, &w.left)
    if n < 0:
        return False
    w.flags = SPLICING if w.left >= c.limits.splice_min else 0
    w.streak = w.strikes = 0
    x.phase = P_BODY
    send_response(c, slot, &out, c.buffer + size, n)
    return True


cdef inline void read_answer(Core *c, int32_t slot) noexcept nogil:
    """The origin of a waiting client has something to say."""
    cdef Exchange *x = c.flows[slot].x
    cdef int fd = c.flows[x.link].fd[0]
    cdef ssize_t n
    while True:
        n = linux.recv(fd, c.buffer, c.limits.chunk, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n <= 0:
        # Its owner finds the end that is still in the socket, and says what it means.
        hand_over(c, slot, H_RETRY if x.reused else H_RESPONSE)
        return
    if not answer(c, slot, n):
        x.status = 0
        x.answer = <char *>malloc(n)
        if x.answer == NULL:
            close_client(c, slot)
            return
        memcpy(x.answer, c.buffer, n)
        x.answer_size = <uint32_t>n
        hand_over(c, slot, H_RESPONSE)


# ---- new clients -------------------------------------------------------------------------

cdef inline void address_text(const linux.sockaddr *address, char *text) noexcept nogil:
    """The client's IP address, "" for a Unix socket. IPv4 on a socket for both families is
    written as IPv4."""
    cdef const char *raw = <const char *>address
    cdef uint16_t family
    memcpy(&family, raw, sizeof(family))
    if family == linux.AF_INET:
        linux.inet_ntop(linux.AF_INET, raw + 4, text, PEER_MAX)
    elif family == linux.AF_INET6 and memcmp(raw + 8, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
        linux.inet_ntop(linux.AF_INET, raw + 20, text, PEER_MAX)
    elif family == linux.AF_INET6:
        linux.inet_ntop(linux.AF_INET6, raw + 8, text, PEER_MAX)


cdef inline int32_t client_new(Core *c, int fd) noexcept nogil:
    """A client between two requests; NOWHERE and errno if it cannot be, and it is still the
    caller's."""
    cdef int32_t slot
    cdef Exchange *x = <Exchange *>calloc(1, sizeof(Exchange))
    # Whoever serves an event relies on as many slots as there are events in a batch.
    if x == NULL or not slots_reserve(c, RESERVE):
        free(x)
        linux.errno = linux.ENOMEM
        return NOWHERE
    slot = slot_take(c, fd, NOWHERE, CLIENT)
    if watch(c, slot, 0, linux.EPOLLIN) < 0:
        free(x)
        slot_free(c, slot)
        return NOWHERE
    c.flows[slot].x = x
    c.clients += 1
    x.link = x.origin_fd = NOWHERE
    x.phase = P_IDLE
    enter_queue(c, slot, Q_HEAD)
    return slot


cdef inline bint is_transient(int error) noexcept nogil:
    """Of accept(2): an error of the new connection, not of the listening socket."""
    return not (
        error == linux.EAGAIN or error == linux.EMFILE or error == linux.ENFILE
        or error == linux.ENOBUFS or error == linux.ENOMEM or error == linux.EINVAL
    )


cdef inline void accept_clients(Core *c, int32_t listener) noexcept nogil:
    """A batch of new clients, so that no other waits for long."""
    cdef int fd = c.flows[listener].fd[0]
    cdef int client, i, taken
    cdef int32_t slot
    cdef char address[128]
    cdef linux.socklen_t size
    for i in range(ACCEPTS):
        taken = c.clients + c.tunnels + c.others
        if c.most and taken >= c.most + REFUSALS:
            c.accept_error = linux.EAGAIN
            return
        size = sizeof(address)
        memset(address, 0, 32)
        client = linux.accept4(
            fd, <linux.sockaddr *>address, &size, linux.SOCK_NONBLOCK | linux.SOCK_CLOEXEC)
        if client < 0 and is_transient(linux.errno):
            continue
        if client < 0:
            c.accept_error = 0 if linux.errno == linux.EAGAIN else linux.errno
            return
        slot = client_new(c, client)
        if slot == NOWHERE:
            c.accept_error = linux.errno
            linux.close(client)
            return
        address_text(<linux.sockaddr *>address, c.flows[slot].x.address)
        if c.most and taken >= c.most:
            hand_over(c, slot, H_REFUSED)
        else:
            read_next(c, slot)


# ---- events ------------------------------------------------------------------------------

cdef inline void overhear(Core *c, int32_t slot) noexcept nogil:
    """The client says something during an exchange: a further request, or that it is gone."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef ssize_t n
    while True:
        n = linux.recv(f.fd[0], c.buffer, c.limits.chunk, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n < 0 or (n == 0 and x.have == x.head) or not keep(x, c.buffer, n):
        cut(c, slot, R_CLIENT_GONE)
    elif n == 0 or x.have - x.head >= PIPELINED:
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
        dialled(c, slot)
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
