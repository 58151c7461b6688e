"""Clients that a balancer brings: the header of the PROXY protocol in front of a connection, where it
is plain.

Plain is a header that comes in one piece from a balancer that the owner knows, of version 1 with an
IPv4 or IPv6 address, or of version 2 with these and no TLV. Any other is the owner's: it gets the
client back, with the bytes that have come, and decides (spliceproxy/front/brought.py). So nothing is
refused here, and what is read here, is read there in the same way (proxy_header.py beside it).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from core cimport linux
from core.addresses cimport ip_text
from core.counts cimport count_up
from core.queues cimport enter_queue
from core.types cimport Core, Flow
from lane.counts cimport K_PROXY_HEADERS
from lane.ends cimport give_back, lose_client
from lane.facts cimport now_us
from lane.received cimport keep
from lane.request cimport FIRST_READ, begin
from lane.types cimport (
    BALANCERS, Exchange, G_HEADER, Lane, Note, PEER_MAX, Q_HEAD, Q_HEADER, exchange_of,
)

cdef enum:
    LINE_MOST_V1 = 107      # bytes of a line of version 1 with its CRLF
    ADDRESS_WORD = 46       # of an address in it, with a NUL


cdef inline bint mapped(const char *raw) noexcept nogil:
    """Whether an IPv6 address is one of IPv4 on a socket for both families."""
    return memcmp(raw, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef inline void raw_text(int family, const char *raw, char *text) noexcept nogil:
    """An address as it is written everywhere, in PEER_MAX bytes."""
    memset(text, 0, PEER_MAX)
    if family == linux.AF_INET6 and mapped(raw):
        ip_text(linux.AF_INET, raw + 12, text, PEER_MAX)
    else:
        ip_text(family, raw, text, PEER_MAX)


cdef inline const char *take_address(
    const char *at, const char *end, int family, char *raw
) noexcept nogil:
    """Reads a word that is an address of this family; what is behind its blank, or NULL."""
    cdef char word[ADDRESS_WORD]
    cdef const char *blank = <const char *>memchr(at, c' ', end - at)
    if blank == NULL or blank - at >= ADDRESS_WORD:
        return NULL
    memcpy(word, at, blank - at)
    word[blank - at] = 0
    if strlen(word) != <size_t>(blank - at) or linux.inet_pton(family, word, raw) != 1:
        return NULL
    return blank + 1


cdef inline const char *take_port(const char *at, const char *end) noexcept nogil:
    """Reads a number from 0 to 65535 without leading zeros; what is behind it, or NULL."""
    cdef int port = 0
    cdef const char *first = at
    while at < end and c'0' <= at[0] <= c'9' and at - first < 5:
        port = port * 10 + at[0] - c'0'
        at += 1
    if at == first or port > 65535 or (first[0] == c'0' and at - first > 1):
        return NULL
    return at


cdef inline size_t line_header(const char *data, size_t n, char *address) noexcept nogil:
    """Version 1; as of `plain_header`."""
    cdef char raw[16]
    cdef char other[16]
    cdef int family = linux.AF_INET if data[9] == c'4' else linux.AF_INET6
    cdef const char *end = <const char *>memchr(data, c'\n', min(n, <size_t>LINE_MOST_V1))
    cdef const char *at
    if end == NULL or end[-1] != c'\r':
        return 0
    end -= 1
    at = take_address(data + 11, end, family, raw)
    if at != NULL:
        at = take_address(at, end, family, other)
    if at != NULL:
        at = take_port(at, end)
    if at == NULL or at >= end or at[0] != c' ':
        return 0
    at = take_port(at + 1, end)
    if at != end:
        return 0
    raw_text(family, raw, address)
    return end + 2 - data


cdef inline size_t plain_header(
    const char *data, size_t n, char *address, uint8_t *version
) noexcept nogil:
    """The bytes of a plain header in front of `data`, whose client is put into `address` (PEER_MAX
    bytes); 0 if it is not plain, or not all there."""
    if n >= 28 and memcmp(data, b"\r\n\r\n\0\r\nQUIT\n\x21", 13) == 0:
        version[0] = 2
        if memcmp(data + 13, b"\x11\0\x0c", 3) == 0:
            raw_text(linux.AF_INET, data + 16, address)
            return 28
        if n >= 52 and memcmp(data + 13, b"\x21\0\x24", 3) == 0:
            raw_text(linux.AF_INET6, data + 16, address)
            return 52
        return 0
    version[0] = 1
    if n > 11 and (memcmp(data, b"PROXY TCP4 ", 11) == 0 or memcmp(data, b"PROXY TCP6 ", 11) == 0):
        return line_header(data, n, address)
    return 0


cdef inline Note *balancer_of(Lane *lane, const char *address) noexcept nogil:
    """What is said of clients of the balancer with this address, "" for a Unix socket; NULL if the
    owner has not said that it is one."""
    cdef const char *text = "unix"
    cdef size_t size
    cdef Note *note
    cdef int i
    if address[0]:
        text = address
    size = strlen(text)
    for i in range(BALANCERS):
        note = lane.balancers[i]
        if note != NULL and note.size == size + 1 and memcmp(note.text + 1, text, size) == 0:
            return note
    return NULL


cdef inline void read_header(Lane *lane, int32_t slot) noexcept nogil:
    """The balancer of a new client has something to say."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef char address[PEER_MAX]
    cdef uint8_t version
    cdef size_t size = 0
    cdef Note *note = balancer_of(lane, x.address)
    cdef ssize_t n = 0
    while note != NULL:
        n = linux.recv(f.fd[0], c.buffer, FIRST_READ, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n < 0 and linux.errno == linux.EAGAIN:
        return
    if n > 0:
        size = plain_header(c.buffer, n, address, &version)
    if size == 0:
        if keep(x, c.buffer, max(n, 0)):
            give_back(lane, slot, G_HEADER)
        else:
            lose_client(lane, slot)
        return
    note.holders += 1
    x.via = note
    memcpy(x.address, address, PEER_MAX)
    x.header = False
    x.started = 0
    count_up(c, K_PROXY_HEADERS + version - 1)
    f.way[0].active = c.now
    enter_queue(c, slot, Q_HEAD)
    if <size_t>n > size:
        begin(lane, slot, c.buffer + size, n - size)


cdef inline void await_header(Lane *lane, int32_t slot) noexcept nogil:
    """A client that has just been accepted is brought by a balancer."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    x.header = True
    x.started = now_us()
    enter_queue(&lane.core, slot, Q_HEADER)
