"""The answer to a plain request: read, rewritten, and its body moved to the client."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from core cimport linux
from lane.ends cimport close_client, cut, hand_over, note
from core.flow cimport (
    Core, Exchange, Flow, H_LINGER, H_REQUEST, H_RESPONSE, H_RETRY, P_BODY, P_IDLE, Q_HEAD,
    R_ABORTED, R_CLIENT_GONE, R_SIDE1, R_SOURCE_EOF, SPLICING, UNREGISTERED, Way, enter_queue,
    leave_queue, pending,
)
from core.moves cimport END, Moved, SOURCE_FAILED, TARGET_FAILED, turn
from lane.origins cimport is_silent, kept_put, link_drop
from http.plain cimport Field, HEAD, Head, Out, PLAIN_FIELDS, head_end, put
from http.plain_response cimport join_chunks, put_chunk_size, read_response, write_response
from lane.received cimport RESUME, consume
from lane.request cimport PLAIN_OUT, begin, start_next
from lane.routes cimport NOWHERE
from core.service cimport send_queue, watch
from lane.waiting cimport count_answer

cdef enum:
    ROOM_FOR_SIZE = 32      # of a chunk behind it


cdef inline void answered(Core *c, int32_t slot) noexcept nogil:
    """All of the response is sent."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    cdef int32_t link = x.link
    cdef int32_t origin = c.flows[link].link.origin
    cdef uint32_t mask = f.mask[0] & linux.EPOLLIN
    c.counters.exchanges += 1
    note(c, slot, 0)
    x.started = x.dialling = 0
    x.link = NOWHERE
    x.requests += 1
    if x.spent:
        link_drop(c, link)
    else:
        kept_put(c, link)
    if origin != NOWHERE:
        count_answer(c, &c.routes.origins[origin])
        start_next(c, origin)
    consume(x)
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
    # With much at hand nothing is read: as many requests as that are served first.
    if x.have < RESUME:
        mask |= linux.EPOLLIN
    if c.draining or watch(c, slot, 0, mask) < 0:
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
    """The turn of a body."""
    cdef Flow *f = &c.flows[slot]
    cdef Moved r = turn(c, &f.way[1], c.flows[f.x.link].fd[0], f.fd[0], readable)
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
            cut(c, slot, R_ABORTED)
            return
        memcpy(x.answer, c.buffer, n)
        x.answer_size = <uint32_t>n
        hand_over(c, slot, H_RESPONSE)
