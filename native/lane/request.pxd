"""A plain request: read, rewritten, and sent as soon as there is a connection to its origin, with
what is there of its body; the rest of that is upload.pxd's. A CONNECT becomes a tunnel in the same
slot."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, strlen

from core cimport linux
from core.counts cimport count_up
from core.queues cimport enter_queue, leave_queue
from core.service cimport watch
from core.slots cimport list_take
from core.types cimport Core, DOWN, Flow, IN_LANE, NOWHERE, Q_YOUNG
from core.waits cimport begin_wait, forget_waits
from http.chunks cimport FRONT, chunks_begin
from http.plain cimport (
    CONNECT, Field, GET, HEAD, Head, OTHER, Out, PLAIN_FIELDS, Text, full, head_end,
)
from http.plain_request cimport read_request, write_request
from lane.asking cimport begin_asking, end_asking, may_ask
from lane.chunked cimport take_chunks
from lane.counts cimport K_DIALS, K_DIAL_SECONDS, K_REUSES, K_ROUTE_HITS, count_time
from lane.dialling cimport attempt, attempt_failed, dial, error_of
from lane.ends cimport close_client, give_back, lose_client
from lane.facts cimport begin_stages, now_us, question_over, stage_over
from lane.hops cimport is_passed_on, take_hop
from lane.meters cimport Unfit, admit
from lane.notes cimport take_note
from lane.origins cimport (
    attempt_drop, attempts_drop, bind, idle_drop, idle_take, is_self, own_take,
)
from lane.pacing cimport begin_watched, pace_connection
from lane.received cimport body_at_hand, keep, replied
from lane.records cimport record_begin, record_for
from lane.routes cimport (
    KEY_MAX, NAMED_MAX, address_of, client_named, group_of, let_go, route_find, route_key,
)
from lane.socks cimport begin_socks
from lane.sums cimport sum_user
from lane.types cimport (
    Connection, Exchange, GREETED, G_REQUEST, G_RETRY, Lane, ONLY_SOCKS, Origin, PEER_MAX,
    PLACE_UNKNOWN, P_WAIT, Q_QUEUE, Route, Target, Token, V5, connection_of, exchange_of,
)
from lane.tunnels cimport ask_parent, become_tunnel, take_check
from lane.upload cimport begin_chunks, begin_upload
from lane.waiting cimport begin_waiting, end_waiting, may_have_more

cdef enum:
    PLAIN_OUT = 16384       # a rewritten head, with room for Host and Via
    # Bytes of the first read of a request: what is read of a body is copied, and the rest of a
    # large one need not be.
    FIRST_READ = 16384


cdef inline bint token(Text text, const char *name, size_t n) noexcept nogil:
    """Whether `text` is `name`; methods have a case."""
    return text.size == n and memcmp(text.at, name, n) == 0


cdef inline uint8_t kind_of(const Head *head) noexcept nogil:
    """The letter of a method and a form of the target, absolute (or CONNECT's) or origin form:
    the owner's letters are the same (KINDS of spliceproxy/forward/lane.py)."""
    if head.method == CONNECT:
        return c'C'
    if head.method == OTHER:
        return c'M' if head.authority.size else c'm'
    if head.method == GET:
        return c'G' if head.authority.size else c'g'
    return c'H' if head.authority.size else c'h'


cdef inline bint with_method(char *text, const Head *head, Text *authority) noexcept nogil:
    """What a route is found by has the method in front of the authority where its letter does
    not say which one it is. False where `text` (KEY_MAX bytes) has no room for that."""
    if head.method != OTHER:
        return True
    if head.name.size + 1 + authority.size > KEY_MAX:
        return False
    memcpy(text, head.name.at, head.name.size + 1)  # with the space
    memcpy(text + head.name.size + 1, authority.at, authority.size)
    authority.at = text
    authority.size += head.name.size + 1
    return True


cdef inline bint is_idempotent(const Head *head) noexcept nogil:
    """RFC 9110 section 9.2.2: as IDEMPOTENT of spliceproxy/forward/exchange.py."""
    if head.method == GET or head.method == HEAD:
        return True
    if head.method == CONNECT:
        return False
    return token(head.name, b"PUT", 3) or token(head.name, b"DELETE", 6) or token(
        head.name, b"OPTIONS", 7) or token(head.name, b"TRACE", 5)


cdef inline void learn(
    Exchange *x, const Head *head, const Field *fields, int count
) noexcept nogil:
    """What is known of a request beyond its way."""
    x.method = head.method
    x.passed_on = head.method == CONNECT and is_passed_on(fields, count)
    x.length = head.length
    # As spliceproxy/forward/exchange.py has it: nothing with a body, be it empty, is sent again.
    x.final = head.length >= 0 or head.chunked or not is_idempotent(head)
    chunks_begin(&x.up, head.chunked)
    x.close = head.close


cdef inline Route *route_of(
    Lane *lane, const Exchange *x, const Head *head
) noexcept nogil:
    """The route of a request, NULL without one that is valid."""
    cdef char key[KEY_MAX]
    cdef char text[KEY_MAX]
    cdef char named[NAMED_MAX]
    cdef size_t size
    cdef int64_t now = lane.core.now
    cdef Route *r
    cdef Text client
    cdef Text authority = head.authority
    if authority.size == 0:
        authority = head.host
    elif head.host.size != authority.size or memcmp(
        head.host.at, authority.at, authority.size
    ):
        return NULL  # maybe not even a valid one
    client = client_named(x, named)
    if not group_of(&lane.routes, &client) or not with_method(text, head, &authority):
        return NULL
    size = route_key(key, kind_of(head), client, head.credentials, authority)
    if size == 0:
        return NULL
    r = route_find(&lane.routes, key, size)
    if r == NULL or now >= r.until:
        return NULL
    if now >= r.renew and not r.asked:
        # One request asks the owner in time. If all did, when the time is up, there would be
        # as many questions at once as there are clients.
        r.asked = True
        return NULL
    return r


cdef inline bint write_for(
    Lane *lane, const Target *t, const Head *head, const Field *fields, int count, Out *out
) noexcept nogil:
    """Writes the head for the origin to lane.out; false if that has no room for it."""
    cdef Text host
    out.at = lane.out
    out.end = lane.out + PLAIN_OUT
    if head.method == CONNECT:
        return True
    host.at = t.host
    host.size = t.host_size
    write_request(out, &lane.plain, head, fields, count, host)
    return not full(out)


cdef inline bint prepare(Lane *lane, const Exchange *x, const Target *t, Out *out) noexcept nogil:
    """Reads the head of a request again whose way is known, and writes the origin's to lane.out;
    false if that has no room for it. A CONNECT has none."""
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef int count
    if x.method == CONNECT:
        return True
    count = read_request(&lane.plain, x.data, x.head, &head, fields)
    return count >= 0 and write_for(lane, t, &head, fields, count, out)


cdef inline void send_request(Lane *lane, int32_t slot, const Out *out) noexcept nogil:
    """Sends what `prepare` wrote to the origin."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef size_t size = out.at - lane.out
    cdef Text body, behind
    cdef int fd = c.flows[x.connection].fd[0]
    cdef ssize_t n
    x.reused = not connection_of(&c.flows[x.connection]).fresh
    if x.reused:
        count_up(c, K_REUSES)
    pace_connection(connection_of(&c.flows[x.connection]), fd, x.pace)
    body.at = behind.at = x.data + x.head
    body.size = body_at_hand(x)
    behind.size = 0
    if x.up.on and x.have - x.head > c.limits.chunk:
        give_back(lane, slot, G_REQUEST)
        return
    if x.up.on:
        body = take_chunks(
            c, &f.way[0], &x.up, body.at, x.have - x.head, c.buffer + FRONT, &behind)
    if body.size == 0:
        n = linux.send(fd, lane.out, size, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
    else:
        n = linux.send_two(fd, lane.out, size, body.at, body.size)
    if n < <ssize_t>size:
        # Nobody can act on a part of a head: even what may not be repeated is sent again.
        give_back(lane, slot, G_RETRY if x.reused and not x.final else G_REQUEST)
        return
    x.phase = P_WAIT
    f.way[1].active = c.now
    begin_wait(c, &f.way[1])
    enter_queue(c, slot, Q_YOUNG)
    if x.up.on:
        begin_chunks(lane, slot, body, x.have - x.head - behind.size, n - size)
    elif x.length > 0:
        begin_upload(lane, slot, body.size, n - size)


cdef inline void reached(Lane *lane, int32_t slot) noexcept nogil:
    """Its origin is there: the log has the address from here on."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    memcpy(x.peer, connection_of(&c.flows[x.connection]).peer, PEER_MAX)


cdef inline void put_user(Lane *lane, Exchange *x, Text user) noexcept nogil:
    """Whom the log names, in less than USER_MAX bytes, and a NUL behind them."""
    sum_user(lane, x, user.at)
    memcpy(x.user, user.at, user.size)
    x.user[user.size] = 0


cdef inline int32_t idle_for(Lane *lane, int32_t slot, const Target *t) noexcept nogil:
    """An idle connection that a client's request may be sent on; NOWHERE if there is none."""
    if exchange_of(&lane.core.flows[slot]).final:
        return own_take(lane, slot, t)
    return idle_take(lane, t)


cdef inline void start(Lane *lane, int32_t slot, Target *t, const Out *out) noexcept nogil:
    """Sends the request that `prepare` wrote, as soon as there is a connection to the target."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    cdef bint tunnel = x.method == CONNECT
    cdef int32_t connection = NOWHERE
    cdef Text user
    user.at = t.user
    user.size = strlen(t.user)
    put_user(lane, x, user)
    take_note(x, t.note)
    x.decision = t.decision
    x.generation = t.generation
    if x.watched != NULL:
        begin_watched(lane, slot)
    if t.hop != NULL and x.passed_on:
        give_back(lane, slot, G_REQUEST)  # its parent is to be told by whom
        return
    if t.hop != NULL:
        take_hop(x, t.hop)
        count_up(&lane.core, t.hop.sent)
    take_check(x, t.check)
    if not tunnel:
        connection = idle_for(lane, slot, t)
    if connection != NOWHERE:
        bind(lane, slot, connection)
        reached(lane, slot)
        send_request(lane, slot, out)
        return
    t.holders += 1
    x.target = t
    if tunnel or may_have_more(lane, t.origin):
        dial(lane, slot)
    else:
        begin_waiting(lane, slot)


cdef inline void send_waiting(Lane *lane, int32_t slot) noexcept nogil:
    """Sends a request that has waited for the connection that it has now."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    cdef Out out
    reached(lane, slot)
    x.dial = stage_over(lane, x)
    if not prepare(lane, x, x.target, &out):
        give_back(lane, slot, G_REQUEST)
        return
    let_go(&lane.routes, x)
    send_request(lane, slot, &out)


cdef inline bint take_turn(Lane *lane, int32_t slot) noexcept nogil:
    """Goes on with a client that waits; false, and it waits on, if there is no connection for it
    and none may be made. There must be a free slot."""
    cdef const Target *t = exchange_of(&lane.core.flows[slot]).target
    cdef int32_t connection = idle_for(lane, slot, t)
    if connection != NOWHERE:
        end_waiting(lane, slot)
        bind(lane, slot, connection)
        send_waiting(lane, slot)
        return True
    if not may_have_more(lane, t.origin):
        if t.origin.idle.first == NOWHERE:
            return False
        # It may not be sent on the one that is idle now, but it keeps its turn: a new one takes
        # the place of that.
        idle_drop(lane, t.origin.idle.first)
    end_waiting(lane, slot)
    dial(lane, slot)
    return True


cdef inline void start_next(Lane *lane, Origin *origin) noexcept nogil:
    """A connection to this origin is idle, or one may be made in the place of one that is closed:
    the client that has waited longest has its turn."""
    if origin.waiting.last != NOWHERE:
        take_turn(lane, origin.waiting.last)


cdef inline void queued_long(Lane *lane, int32_t slot) noexcept nogil:
    """A client has waited for a while."""
    cdef Core *c = &lane.core
    if not take_turn(lane, slot):
        c.flows[slot].way[1].active = c.now
        leave_queue(c, slot)
        enter_queue(c, slot, Q_QUEUE)


cdef inline void begin_exchange(Lane *lane, int32_t slot) noexcept nogil:
    """Nothing is known of the request whose head is there."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    begin_stages(lane, x)
    x.status = x.decision = 0
    x.generation = lane.generation
    x.uncounted = True
    x.type_size = 0
    x.peer[0] = 0
    x.summed = False
    x.summed_received = x.summed_sent = 0
    take_note(x, NULL)
    take_hop(x, NULL)
    take_check(x, NULL)
    c.flows[slot].way[0].copied = c.flows[slot].way[0].spliced = 0
    c.flows[slot].way[1].copied = c.flows[slot].way[1].spliced = 0
    c.flows[slot].way[1].copied = replied(x)
    c.flows[slot].way[0].flags = 0
    c.flows[slot].way[1].flags = DOWN
    forget_waits(&c.flows[slot].way[0])
    forget_waits(&c.flows[slot].way[1])


cdef inline void begin(Lane *lane, int32_t slot, const char *data, size_t n) noexcept nogil:
    """What was received and not consumed may be the next request; `data` is either x.data,
    or has yet to be kept. Part of a head is for the owner: it can tell early whether the
    rest is worth waiting for."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef const Route *r
    cdef Out out
    cdef Unfit unfit
    cdef int count = -1
    cdef ssize_t end
    if (<uint8_t>data[0] <= V5 or x.ways) and x.requests == 0 and data != x.data:
        if not begin_socks(lane, slot, data, n):
            return
        if not x.spelled and (x.socks or x.ways & ONLY_SOCKS):
            give_back(lane, slot, G_REQUEST)
            return
        data = x.data
        n = x.have
    end = head_end(data, n)
    if data != x.data and not keep(x, data, n):
        lose_client(lane, slot)
        return
    if end > 0:
        x.head = <uint32_t>end
        count = read_request(&lane.plain, x.data, x.head, &head, fields)
    if count < 0 or x.place == PLACE_UNKNOWN:
        give_back(lane, slot, G_REQUEST)
        return
    r = route_of(lane, x, &head)
    learn(x, &head, fields, count)
    if r != NULL and r.target.meters != NULL and not admit(lane, x, r.target.meters, &unfit):
        r = NULL  # who is asked says no, or finds another entry
    if r != NULL and write_for(lane, r.target, &head, fields, count, &out) and (
        record_for(x, r.target.token, lane.heads)
    ):
        count_up(c, K_ROUTE_HITS)
        begin_exchange(lane, slot)
        start(lane, slot, r.target, &out)
    elif r == NULL and may_ask(lane, &head, kind_of(&head)) and (
        not lane.recorded or record_begin(x, lane.heads)
    ):
        begin_exchange(lane, slot)
        begin_asking(lane, slot, &head, kind_of(&head))
    else:
        give_back(lane, slot, G_REQUEST)


cdef inline void go_on(Lane *lane, int32_t slot, Target *t, Token *known) noexcept nogil:
    """The owner has said where a request may go, and what is `known` of it, for its record; NULL:
    nobody wants one."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    cdef Out out
    question_over(lane, x)
    end_asking(lane, slot)
    if prepare(lane, x, t, &out) and record_for(x, known, lane.heads):
        start(lane, slot, t, &out)
    else:
        give_back(lane, slot, G_REQUEST)


cdef inline void read_next(Lane *lane, int32_t slot) noexcept nogil:
    """The client of no exchange has something to say."""
    cdef Core *c = &lane.core
    cdef ssize_t n
    while True:
        n = linux.recv(c.flows[slot].fd[0], c.buffer, FIRST_READ, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n > 0:
        begin(lane, slot, c.buffer, n)
    elif exchange_of(&c.flows[slot]).ways & GREETED:
        give_back(lane, slot, G_REQUEST)  # who tells of it
    else:
        close_client(lane, slot)


cdef inline void connected(Lane *lane, int32_t slot, int32_t connection) noexcept nogil:
    """An attempt to connect has succeeded: the others are given up."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    count_up(c, K_DIALS)
    if x.started:
        count_time(lane, K_DIAL_SECONDS, now_us() - x.dialling)
    list_take(c, &x.attempts, IN_LANE, connection)
    attempts_drop(lane, x)
    x.failures = 0  # whoever goes on with this client is told of those only if all have failed
    x.connection = connection
    if x.hop != NULL:
        reached(lane, slot)
        ask_parent(lane, slot)
    elif x.method == CONNECT:
        reached(lane, slot)
        x.dial = stage_over(lane, x)
        let_go(&lane.routes, x)
        become_tunnel(lane, slot, NULL, 0)
    elif watch(c, connection, 0, linux.EPOLLIN) < 0:
        give_back(lane, slot, G_REQUEST)
    else:
        send_waiting(lane, slot)


cdef inline void attempt_over(
    Lane *lane, int32_t slot, int32_t connection, uint32_t events
) noexcept nogil:
    """An attempt to connect is over; epoll says how."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef const Connection *k = connection_of(&c.flows[connection])
    cdef int fd = c.flows[connection].fd[0]
    cdef int error = 0
    if events & (linux.EPOLLERR | linux.EPOLLHUP):
        error = error_of(fd)
    if error == 0 and is_self(lane, fd, address_of(x.target, k.address)):
        error = linux.ECONNREFUSED
    if error == 0:
        connected(lane, slot, connection)
        return
    attempt_failed(lane, x, k.address, error)
    attempt_drop(lane, x, connection)
    attempt(lane, slot)
