"""Clients that speak SOCKS, where what they say is plain: it becomes the head of a CONNECT, and then
nothing tells it from one but the reply.

    P_HEAD ── a greeting ──► P_HEAD, which has been replied to ── a request ──► as of begin() of request.pxd
      └────────────────── both in one piece, or a request of SOCKS4 ──────────►

Plain is a greeting that offers "no authentication" where nobody has a password, and a request for a
CONNECT to an address, or to a name of letters, digits, dots, hyphens and underscores; each in one
piece. Any other is the owner's: it gets the client back, with the bytes that have come behind the
greeting that was replied to (spliceproxy/front/socks.py). What is read here, is read there in the same
way (spliceproxy/socks/reading.py).
"""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t
from libc.string cimport memchr, memcmp, memcpy, strlen

from core cimport linux
from core.addresses cimport ip_text
from core.counts cimport K_BYTES
from core.types cimport Core
from lane.ends cimport close_client, lose_client
from lane.line cimport add_number, add_text
from lane.received cimport keep
from lane.types cimport (
    Exchange, GREETED, Lane, ONLY_HTTP, PEER_MAX, V4, V5, exchange_of,
)

cdef enum:
    SOCKS_TEXT = 255        # bytes of a name, and of the user of SOCKS4
    TARGET_ROOM = SOCKS_TEXT + 8    # a name or an address in brackets, a colon and a port
    HEAD_ROOM = 2 * TARGET_ROOM + 64

cdef extern from *:
    """
    static const char *const socks5_granted = "\\5\\0\\0\\1\\0\\0\\0\\0\\0\\0";
    static const char *const socks4_granted = "\\0\\x5a\\0\\0\\0\\0\\0\\0";
    """
    const char *socks5_granted
    const char *socks4_granted


cdef inline const char *granted(const Exchange *x, size_t *size) noexcept nogil:
    """The reply that says that the tunnel is there; as of replies.py."""
    size[0] = 8 if x.socks == V4 else 10
    return socks4_granted if x.socks == V4 else socks5_granted


cdef inline bint plain_name(const char *name, size_t n) noexcept nogil:
    """Whether it is a name whatever it means: what is a number may be one of many spellings, but is
    read as that of a CONNECT is."""
    cdef size_t i
    cdef char b
    for i in range(n):
        b = name[i]
        if not (c'a' <= b <= c'z' or c'0' <= b <= c'9' or c'A' <= b <= c'Z' or b == c'.'
                or b == c'-' or b == c'_'):
            return False
    return n > 0


cdef inline char *add_place(
    char *to, int family, const char *host, size_t n, uint16_t port
) noexcept nogil:
    """HOST:PORT; a family of 0 is a name."""
    cdef char text[PEER_MAX]
    if family == 0:
        to = add_text(to, host, n)
    else:
        ip_text(family, host, text, PEER_MAX)
        if family == linux.AF_INET6:
            to = add_text(to, "[", 1)
        to = add_text(to, text, strlen(text))
        if family == linux.AF_INET6:
            to = add_text(to, "]", 1)
    return add_number(add_text(to, ":", 1), port, 0, 0)


cdef inline uint16_t port_at(const char *at) noexcept nogil:
    return <uint16_t>((<uint8_t>at[0] << 8) | <uint8_t>at[1])


cdef inline size_t greeting_size(const char *data, size_t n) noexcept nogil:
    """The bytes of a plain greeting in front of `data`; 0 if it is not plain."""
    cdef size_t size
    if n < 3:
        return 0
    size = 2 + <uint8_t>data[1]
    if n < size or memchr(data + 2, 0, size - 2) == NULL:
        return 0
    return size


cdef inline size_t read_socks_5(
    const char *data, size_t n, char **to
) noexcept nogil:
    """The bytes of a plain request in front of `data`, whose place is written behind `to`; 0 if it
    is not plain."""
    cdef size_t host, size
    cdef int family
    if n < 8 or data[0] != V5 or data[1] != 1:
        return 0
    if data[3] == 3:
        host, size, family = 5, <uint8_t>data[4], 0
    elif data[3] == 1:
        host, size, family = 4, 4, linux.AF_INET
    elif data[3] == 4:
        host, size, family = 4, 16, linux.AF_INET6
    else:
        return 0
    if n < host + size + 2 or port_at(data + host + size) == 0:
        return 0
    if family == 0 and not plain_name(data + host, size):
        return 0
    to[0] = add_place(to[0], family, data + host, size, port_at(data + host + size))
    return host + size + 2


cdef inline size_t read_socks_4(
    const char *data, size_t n, char **to
) noexcept nogil:
    """The same of SOCKS4, with a name if the address is 0.0.0.x."""
    cdef const char *end
    cdef const char *name
    if n < 9 or data[1] != 1 or port_at(data + 2) == 0:
        return 0
    end = <const char *>memchr(data + 8, 0, min(n - 8, <size_t>SOCKS_TEXT + 1))
    if end == NULL:
        return 0
    if memcmp(data + 4, b"\0\0\0", 3) != 0 or data[7] == 0:
        to[0] = add_place(to[0], linux.AF_INET, data + 4, 4, port_at(data + 2))
        return end + 1 - data
    name = end + 1
    end = <const char *>memchr(name, 0, min(<size_t>(data + n - name), <size_t>SOCKS_TEXT + 1))
    if end == NULL or not plain_name(name, end - name):
        return 0
    to[0] = add_place(to[0], 0, name, end - name, port_at(data + 2))
    return end + 1 - data


cdef inline bint spell_head(
    Exchange *x, const char *data, size_t n
) noexcept nogil:
    """Puts the head of a CONNECT in the place of a plain request in front of `data`, and what
    follows behind it. Where the request is not plain, `data` is kept as it is. False without
    memory."""
    cdef char head[HEAD_ROOM]
    cdef char place[TARGET_ROOM]
    cdef char *end = place
    cdef char *at = head
    cdef size_t used = read_socks_4(data, n, &end) if x.socks == V4 else read_socks_5(
        data, n, &end)
    if used == 0:
        return keep(x, data, n)
    at = add_text(at, "CONNECT ", 8)
    at = add_text(at, place, end - place)
    at = add_text(at, " HTTP/1.1\r\nHost: ", 17)
    at = add_text(at, place, end - place)
    at = add_text(at, "\r\n\r\n", 4)
    x.more += <int16_t>(<ssize_t>used - (at - head))
    x.spelled = True
    return keep(x, head, at - head) and keep(x, data + used, n - used)


cdef inline bint reply_to_greeting(Lane *lane, int32_t slot, size_t size) noexcept nogil:
    """No password is wanted. False where the client does not take that, and is closed."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    if linux.send(
        c.flows[slot].fd[0], <const char *>b"\5\0", 2, linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL
    ) != 2:
        close_client(lane, slot)
        return False
    c.row[K_BYTES + 2] += 2
    x.ways |= GREETED
    x.more = <int16_t>size
    return True


cdef inline bint begin_socks(
    Lane *lane, int32_t slot, const char *data, size_t n
) noexcept nogil:
    """What a client of no exchange has said, which begins like SOCKS or comes in where not everything
    may be spoken. True: x.data has a request, or what is the owner's to read, as x.spelled says.
    False: there is nothing more to do now."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef size_t size
    if not x.ways & GREETED:
        if (
            (data[0] != V4 and data[0] != V5) or x.ways & ONLY_HTTP or x.requests
            or not lane.socks or lane.heads or lane.draining
        ):
            if keep(x, data, n):
                return True
            lose_client(lane, slot)
            return False
        x.socks = <uint8_t>data[0]
        if x.socks == V5:
            size = greeting_size(data, n)
            if size == 0:
                x.socks = 0
                if keep(x, data, n):
                    return True
                lose_client(lane, slot)
                return False
            if not reply_to_greeting(lane, slot, size) or n == size:
                return False
            data += size
            n -= size
    if spell_head(x, data, n):
        return True
    lose_client(lane, slot)
    return False
