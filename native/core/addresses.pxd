"""IP addresses as text."""

from libc.stdint cimport uint8_t

from core cimport linux


cdef inline void ipv4_text(const uint8_t *raw, char *text) noexcept nogil:
    """Four numbers with dots, and a NUL, without the detour by sprintf(3) that inet_ntop(3) takes."""
    cdef int i
    cdef uint8_t b
    for i in range(4):
        b = raw[i]
        if b >= 100:
            text[0] = <char>(c'0' + b // 100)
            text += 1
        if b >= 10:
            text[0] = <char>(c'0' + b // 10 % 10)
            text += 1
        text[0] = <char>(c'0' + b % 10)
        text[1] = c'.'
        text += 2
    text[-1] = 0


cdef inline void ip_text(int family, const void *raw, char *text, size_t room) noexcept nogil:
    """An address of a family, in network byte order, for which there is room."""
    if family == linux.AF_INET:
        ipv4_text(<const uint8_t *>raw, text)
    else:
        linux.inet_ntop(family, raw, text, <linux.socklen_t>room)
