"""The answer to a plain request: read, rewritten, and its body moved to the client."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from core cimport linux
from core.counts cimport count_up, count_bytes
from core.crowd cimport widen
from core.moves cimport Moved, OVER, SOURCE_FAILED, TARGET_FAILED, pending, turn
from core.queues cimport enter_queue, leave_queue
from core.resets cimport send_queue
from core.service cimport watch
from core.types cimport (
    Core, DOWN, Flow, NARROW, NOWHERE, Q_FINISHED, R_ABORTED, R_CLIENT_RESET, R_LIMIT, R_NONE, R_SOURCE_EOF,
    R_SOURCE_ERROR, SPLICING, UNREGISTERED, Way,
)
from core.waits cimport after_turn, end_wait
from http.chunks cimport chunks_begin
from http.dates cimport date_line
from http.plain cimport Field, HEAD, Head, Out, PLAIN_FIELDS, Text, full, head_end
from http.plain_response cimport read_response, write_response
from lane.asking cimport end_asking, forget_decision, hold_decision
from lane.chunked cimport chunks_turn, take_chunks
from lane.counts cimport K_FIRST_BYTE_SECONDS, K_LANE_REQUESTS, count_time
from lane.ends cimport close_client, cut, cut_by, give_back, leave_answer, note
from lane.facts cimport question_over, stage_over, wall_us
from lane.meters cimport account, request_unmetered
from lane.origins cimport connection_drop, idle_put, is_silent
from lane.pacing cimport spend
from lane.received cimport RESUME, consume, received, replied
from lane.request cimport PLAIN_OUT, begin, start_next
from lane.records cimport record_drop
from lane.routes cimport origin_release
from lane.types cimport (
    Exchange, G_BODY, G_LINGER, G_REQUEST, G_RESPONSE, G_RETRY, Lane, Origin, P_BODY, P_HEAD, Q_HEAD,
    Token, connection_of, exchange_of,
)
from lane.upload cimport uploaded, watch_both
from lane.waiting cimport count_answer

cdef enum:
    UNREAD = 8192           # bytes that a client has not taken: the owner sends what is interim


cdef inline void next_request(Lane *lane, int32_t slot, bint careful) noexcept nogil:
    """All of an answer is sent: the client may ask again, or its connection is closed.
    `careful`: only with care, for the client may say more before it has read the answer."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef uint32_t mask = f.mask[0] & linux.EPOLLIN
    x.number = x.started = x.dialling = 0
    x.requests += 1
    if lane.meters.tags != NULL:
        if x.watched != NULL:
            x.past_up += received(f)
            x.past_down += f.way[1].copied + f.way[1].spliced
            account(lane, x, x.past_up + x.past_down)  # there may have been no turn
        request_unmetered(lane, x)
    forget_decision(x)
    consume(x)
    x.phase = P_HEAD
    if x.close:
        careful = careful or f.way[0].left > 0
        if careful or x.have or send_queue(f.fd[0]) or not is_silent(f.fd[0]):
            give_back(lane, slot, G_LINGER)
        else:
            close_client(lane, slot)
        return
    if lane.draining and not lane.moving and not x.have and is_silent(f.fd[0]):
        close_client(lane, slot)
        return
    # With much at hand nothing is read: as many requests as that are served first.
    if x.have < RESUME:
        mask |= linux.EPOLLIN
    if lane.draining or watch(c, slot, 0, mask) < 0:
        give_back(lane, slot, G_REQUEST)
        return
    f.way[1].active = c.now
    leave_queue(c, slot)
    enter_queue(c, slot, Q_HEAD)
    if x.have:
        begin(lane, slot, x.data, x.have)


cdef inline void answered(Lane *lane, int32_t slot) noexcept nogil:
    """All of the response is sent."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef int32_t connection = x.connection
    cdef Origin *origin = connection_of(&c.flows[connection]).origin
    if f.way[1].flags & NARROW:
        widen(&f.way[1], c.flows[connection].fd[0], f.fd[0])
    if f.way[0].flags & NARROW:
        widen(&f.way[0], f.fd[0], c.flows[connection].fd[0])
    count_up(c, K_LANE_REQUESTS)
    note(lane, slot, R_NONE, 0)
    x.connection = NOWHERE
    if origin != NULL:
        origin.holders += 1  # the connection may be the last that does
    if not uploaded(f):
        x.spent = True
        f.way[0].left = max(f.way[0].left, 1)  # also where what is left was read already
    if x.spent:
        connection_drop(lane, connection)
    else:
        idle_put(lane, connection)
    if origin != NULL:
        count_answer(lane, origin)
        start_next(lane, origin)
        origin_release(&lane.routes, origin)
    next_request(lane, slot, False)


cdef inline ssize_t refuse(
    Lane *lane, int32_t slot, const char *data, size_t n, bint keep, Token *decided
) noexcept nogil:
    """Sends the owner's answer to a request that it has been asked about; the client may ask
    again if `keep`. Returns `n` where all of it was sent, and 0 where the client has left. -1: it
    has not taken all, and the owner goes on, with what it has `decided` and the number of bytes
    that were sent. It has to write the record in any case."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef ssize_t sent = 0
    if not send_queue(f.fd[0]):  # else it has much to read yet
        sent = linux.send(f.fd[0], data, n, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
        if sent < 0 and linux.errno == linux.EAGAIN:
            sent = 0
    x.uncounted = False
    if 0 <= sent < <ssize_t>n:
        question_over(lane, x)
    end_asking(lane, slot)
    record_drop(x)
    if sent < 0:
        close_client(lane, slot)
        return 0
    if sent < <ssize_t>n:
        f.way[1].copied = sent + replied(x)
        hold_decision(x, decided)
        give_back(lane, slot, G_REQUEST)
        return -1
    x.close |= not keep
    next_request(lane, slot, True)
    return sent


cdef inline void after_move(Lane *lane, int32_t slot) noexcept nogil:
    """What epoll should watch while a body is on its way, or that it has arrived."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[1]
    cdef bint blocked = pending(w)
    cdef uint32_t mask = f.mask[0] & linux.EPOLLIN
    if w.left == 0 and not blocked:
        answered(lane, slot)
        return
    if not uploaded(f):
        watch_both(lane, slot)
        return
    if blocked:
        mask |= linux.EPOLLOUT
    # Epoll cannot mask HUP: an origin that nothing is wanted of is taken out.
    if watch(c, slot, 0, mask) < 0 or watch(
        c, x.connection, 0,
        <uint32_t>UNREGISTERED if blocked or w.left == 0 else linux.EPOLLIN) < 0:
        cut_by(lane, slot, R_SOURCE_ERROR, c'P')


cdef inline void move_body(Lane *lane, int32_t slot, bint readable) noexcept nogil:
    """The turn of a body."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef int fd = c.flows[x.connection].fd[0]
    cdef Text behind
    cdef Moved r
    behind.size = 0
    end_wait(c, &f.way[1], &f.way[0], True, True)
    if x.down.on:
        r = chunks_turn(c, &f.way[1], &x.down, fd, f.fd[0], readable, &behind)
    else:
        r = turn(c, &f.way[1], fd, f.fd[0], readable)
    after_turn(c, &f.way[1], r)
    if x.each_turn and spend(lane, slot):
        cut(lane, slot, R_LIMIT)
        return
    x.spent |= behind.size > 0 and not x.down.odd
    if r == OVER:
        cut(lane, slot, R_SOURCE_EOF)
    elif r == SOURCE_FAILED:
        cut(lane, slot, R_SOURCE_ERROR)
    elif r == TARGET_FAILED:
        cut(lane, slot, R_CLIENT_RESET)
    elif x.down.odd:
        if leave_answer(lane, slot, behind.at, behind.size):
            give_back(lane, slot, G_BODY)
    else:
        after_move(lane, slot)


cdef inline void send_response(
    Lane *lane, int32_t slot, const Out *out, const char *body, size_t n
) noexcept nogil:
    """The first part of the answer: the head in lane.out and `n` bytes of the body."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[1]
    cdef size_t size = out.at - lane.out
    cdef ssize_t m = linux.send_two(f.fd[0], lane.out, size, body, n)
    end_wait(c, w, &f.way[0], True, True)
    if m < 0:
        if linux.errno != linux.EAGAIN:
            cut(lane, slot, R_CLIENT_RESET)
            return
        m = 0
    w.copied += m
    w.active = c.now
    count_bytes(c, w, m, False)
    if <size_t>m == size + n:
        after_move(lane, slot)
        return
    w.held = <char *>malloc(size + n - m)
    if w.held == NULL:
        cut(lane, slot, R_ABORTED)
        return
    w.held_at = 0
    w.held_end = <uint32_t>(size + n - m)
    if <size_t>m < size:
        memcpy(w.held, lane.out + m, size - m)
        memcpy(w.held + size - m, body, n)
    else:
        memcpy(w.held, body + (m - size), n - (m - size))
    after_move(lane, slot)


cdef inline bint has_body(const Exchange *x) noexcept nogil:
    return x.method != HEAD and x.status != 204 and x.status != 304


cdef inline bint has_frame(const Exchange *x, Head *head) noexcept nogil:
    """Whether it is known where the body ends; one without any has no framing afterwards. False
    where the owner must frame it."""
    if has_body(x):
        return head.chunked or head.length >= 0
    if x.status == 204 and (head.chunked or head.length >= 0):
        return False
    head.chunked = False
    return True


cdef inline Text body_of(
    Core *c, Way *w, Exchange *x, const Head *head, char *body, size_t n, Text *behind
) noexcept nogil:
    """What of the `n` bytes behind the head goes to the client, and what is `behind` the body, or
    odd in it. There is room of a head before it, and AROUND behind."""
    cdef int64_t length = head.length if has_body(x) else 0
    cdef Text part
    w.flags = DOWN
    w.streak = w.stalls = 0
    chunks_begin(&x.down, head.chunked)
    if head.chunked:
        return take_chunks(c, w, &x.down, body, n, body, behind)
    part.at = body
    part.size = <size_t>min(<int64_t>n, length)
    behind.at = body + part.size
    behind.size = n - part.size
    w.left = length - part.size
    if w.left >= c.limits.splice_min:
        w.flags |= SPLICING
    return part


cdef inline bint pass_interim(Lane *lane, int32_t slot, const Out *out) noexcept nogil:
    """Passes on the interim response in lane.out (RFC 9110 section 15.2); false where the client
    does not take it at once, and nothing has changed. It does not put off the limit of the
    response."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef ssize_t size = out.at - lane.out
    cdef ssize_t n
    if send_queue(f.fd[0]) > UNREAD:
        return False  # maybe there is room for a part of it only
    n = linux.send(f.fd[0], lane.out, size, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL)
    if n == size:
        f.way[1].copied += n
        count_bytes(c, &f.way[1], n, False)
    elif n < 0 and linux.errno == linux.EAGAIN:
        return False
    else:
        cut(lane, slot, R_CLIENT_RESET)
    return True


cdef inline ssize_t answer(Lane *lane, int32_t slot, char *data, ssize_t n) noexcept nogil:
    """Takes the message at the front of `n` bytes of the origin's answer at `data`: returns its
    size if it was an interim response, 0 if the answer has begun, or the client has ended. -1 if
    its head is not plain, or not all there, or its body not for us: nothing has changed then."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[1]
    cdef Field fields[PLAIN_FIELDS]
    cdef Head head
    cdef Out out
    cdef Text body, behind
    cdef bint close
    cdef int count
    cdef ssize_t size = head_end(data, n)
    if size < 0:
        return -1
    count = read_response(&lane.plain, data, size, &head, fields)
    if count < 0:
        return -1
    out.at = lane.out
    out.end = lane.out + PLAIN_OUT
    if head.status < 200:
        write_response(&out, &lane.plain, &head, fields, count, False)
        return size if not full(&out) and pass_interim(lane, slot, &out) else -1
    x.status = <uint16_t>head.status
    if not has_frame(x, &head):
        return -1
    if not head.dated:
        date_line(&lane.plain.date, wall_us() // 1000000)
    # Behind an answer that overtakes the request's body nobody could tell what is the next
    # request.
    close = x.close or lane.draining and not lane.moving or not uploaded(f)
    write_response(&out, &lane.plain, &head, fields, count, close)
    if full(&out):
        return -1
    x.close = close
    x.spent = head.close
    x.type_size = <uint8_t>min(head.type.size, sizeof(x.type))
    if x.type_size:
        memcpy(x.type, head.type.at, x.type_size)
    body = body_of(c, w, x, &head, data + size, n - size, &behind)
    x.spent |= behind.size > 0 and not x.down.odd
    x.phase = P_BODY
    if x.started:
        count_time(lane, K_FIRST_BYTE_SECONDS, x.lap - x.started)
    if not x.down.odd:
        send_response(lane, slot, &out, body.at, body.size)
    elif leave_answer(lane, slot, behind.at, behind.size):
        send_response(lane, slot, &out, body.at, body.size)
        if f.queue != Q_FINISHED:
            give_back(lane, slot, G_BODY)
    return 0


cdef inline void read_answer(Lane *lane, int32_t slot) noexcept nogil:
    """The origin of a waiting client has something to say."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef int fd = c.flows[x.connection].fd[0]
    cdef char *data = c.buffer
    cdef ssize_t n, size
    cdef bint again
    while True:
        n = linux.recv(fd, c.buffer, c.limits.chunk, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n <= 0:
        # Its owner finds the end that is still in the socket, and says what it means.
        again = x.reused and not x.final and c.flows[slot].way[1].copied == 0
        give_back(lane, slot, G_RETRY if again else G_RESPONSE)
        return
    if x.first_byte == 0:
        x.first_byte = stage_over(lane, x)
    while n > 0:
        size = answer(lane, slot, data, n)
        if size == 0 or c.flows[slot].queue == Q_FINISHED:
            return
        if size < 0:
            break
        data += size
        n -= size
    if n > 0:
        x.status = 0
        if leave_answer(lane, slot, data, n):
            give_back(lane, slot, G_RESPONSE)
