"""Parent proxies, by way of which tunnels go: who they are, and whether they have said yes.

Who is asked, and in which words, the owner says with the target. What a parent says that is not a
plain yes is the owner's to read, with the connection on which it was asked: it goes on from there,
and nobody is asked twice.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from http.plain cimport (
    Field, PLAIN_FIELDS, PLAIN_HEAD, Plain, Text, is_digit, read_fields, same, text_end,
)
from lane.types cimport Exchange, Hop


cdef inline Hop *hop_new(Text name) noexcept nogil:
    """Held once; NULL without memory. The caller fills in the rest."""
    cdef Hop *hop = <Hop *>malloc(sizeof(Hop) + name.size)
    if hop != NULL:
        hop.holders = 1
        hop.size = <uint8_t>name.size
        hop.name = <char *>(hop + 1)
        memcpy(hop.name, name.at, name.size)
    return hop


cdef inline void hop_release(Hop *hop) noexcept nogil:
    if hop == NULL:
        return
    hop.holders -= 1
    if hop.holders == 0:
        free(hop)


cdef inline void take_hop(Exchange *x, Hop *hop) noexcept nogil:
    """That of the request in work, which may have none."""
    if hop != NULL:
        hop.holders += 1
    hop_release(x.hop)
    x.hop = hop


cdef inline bint is_passed_on(const Field *fields, int count) noexcept nogil:
    """Whether a head has a Via, which a parent is to be told, too."""
    cdef int i
    for i in range(count):
        if same(fields[i].name, b"via", 3):
            return True
    return False


cdef inline bint grants(const Plain *plain, const char *data, size_t n) noexcept nogil:
    """Whether a head of `n` bytes is plain, and says that the tunnel is there: any 2xx (RFC 9110
    section 9.3.6). Old proxies say so in HTTP/1.0. Framing means nothing there."""
    cdef Field fields[PLAIN_FIELDS]
    cdef const char *end = data + n - 2
    cdef const char *p = data + 13
    if n < 17 or n > PLAIN_HEAD or memcmp(data, b"HTTP/1.", 7) != 0:
        return False
    if (data[7] != c'0' and data[7] != c'1') or data[8] != c' ' or data[9] != c'2':
        return False
    if not is_digit(data[10]) or not is_digit(data[11]) or data[12] != c' ':
        return False
    p = text_end(plain, p, end)
    if p[0] != c'\r' or p[1] != c'\n':
        return False
    return read_fields(plain, plain.response, p + 2, end, fields) >= 0
