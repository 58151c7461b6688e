"""Plain requests: the head of one read, and written for its origin."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from http.plain cimport (
    AUTHORIZATION, CODING, CONNECT, CONNECTION, CREDENTIALS, DROP, Field, GET, HEAD, HIGHEST, HOST,
    Head, LENGTH, METHOD_MAX, OTHER, Out, PASS, PLAIN_HEAD, PROXY_CONNECTION, Plain, Text, VIA,
    contains, controls, has_scheme, is_chunked, number, put, put_field, read_fields, read_option,
)


cdef inline const char *visible_end(const char *p, const char *end) noexcept nogil:
    """Behind the visible ASCII at `p`."""
    cdef uint64_t eight
    while end - p >= 8:
        memcpy(&eight, p, 8)
        if controls(eight, c'!') or eight & HIGHEST:
            break
        p += 8
    while p < end and c'!' <= p[0] <= c'~':
        p += 1
    return p


cdef inline const char *other_method(
    const Plain *plain, const char *p, const char *end, Head *head
) noexcept nogil:
    """Reads a method by its text; returns what is behind the space that ends it, NULL if it is no
    token, or a long one."""
    head.method = OTHER
    head.name.at = p
    if end - p <= 20:
        return NULL
    while head.name.size <= METHOD_MAX and plain.lower[<uint8_t>p[0]]:
        p += 1
        head.name.size += 1
    if head.name.size == 0 or head.name.size > METHOD_MAX or p[0] != c' ':
        return NULL
    return p + 1


cdef inline const char *request_line(
    const Plain *plain, const char *p, const char *end, Head *head
) noexcept nogil:
    """Reads a request-line; returns what is behind it, NULL if it is not plain."""
    cdef const char *stop
    cdef const char *slash
    if end - p > 20 and memcmp(p, b"GET ", 4) == 0:
        head.method = GET
        p += 4
    elif end - p > 20 and memcmp(p, b"HEAD ", 5) == 0:
        head.method = HEAD
        p += 5
    elif end - p > 20 and memcmp(p, b"CONNECT ", 8) == 0:
        head.method = CONNECT
        p += 8
    else:
        p = other_method(plain, p, end, head)
        if p == NULL:
            return NULL
    stop = visible_end(p, end)
    if end - stop < 13 or memcmp(stop, b" HTTP/1.1\r\n", 11) != 0:
        return NULL
    if head.method == CONNECT:
        head.authority.at = p
        head.authority.size = stop - p
        return stop + 11
    if memcmp(p, b"http://", 7) == 0:
        p += 7
        slash = <const char *>memchr(p, c'/', stop - p)
        if slash == NULL:
            return NULL
        head.authority.at = p
        head.authority.size = slash - p
        if head.authority.size == 0:
            return NULL
        p = slash
    if p[0] != c'/' or memchr(p, c'#', stop - p) != NULL:
        return NULL
    head.path.at = p
    head.path.size = stop - p
    return stop + 11


cdef inline int read_request(
    const Plain *plain, const char *data, size_t n, Head *head, Field *fields
) noexcept nogil:
    """Takes a request head of `n` bytes apart; returns the number of its fields, -1 if it is
    not plain."""
    cdef const char *end = data + n - 2
    cdef int option = -1
    cdef int proxy_option = -1
    cdef int count, i
    cdef Field *field
    if n > PLAIN_HEAD:
        return -1
    memset(head, 0, sizeof(Head))
    head.length = -1
    count = read_fields(
        plain, plain.request, request_line(plain, data, end, head), end, fields)
    for i in range(count):
        field = &fields[i]
        if field.action == PASS or field.action == DROP:
            continue
        elif field.action == HOST:
            if head.host.size or field.value.size == 0:
                return -1
            head.host = field.value
        elif field.action == CONNECTION:
            if not read_option(field.value, &option):
                return -1
        elif field.action == PROXY_CONNECTION:
            if not read_option(field.value, &proxy_option):
                return -1
        elif field.action == VIA:
            if contains(field.value, plain.name, plain.name_size):
                return -1
            field.action = PASS
        elif field.action == AUTHORIZATION:
            if not has_scheme(plain, field.value):
                return -1
            field.action = PASS
        elif field.action == CREDENTIALS:
            if head.credentials.size or field.value.size == 0:
                return -1
            head.credentials = field.value
        elif field.action == LENGTH:
            if head.length >= 0 or head.method == CONNECT:
                return -1
            head.length = number(field.value)
            if head.length < 0:
                return -1
            field.action = PASS
        elif field.action == CODING:
            # RFC 9112 section 6.1: one coding, and no length beside it.
            if head.chunked or head.method == CONNECT or not is_chunked(field.value):
                return -1
            head.chunked = True
            field.action = DROP
        else:
            return -1
    if count < 0 or head.host.size == 0 or (head.chunked and head.length >= 0):
        return -1
    head.close = (option if option >= 0 else proxy_option) == 1
    return count


cdef inline void write_request(
    Out *out, const Plain *plain, const Head *head, const Field *fields, int count, Text host
) noexcept nogil:
    """The head for the origin. `host` is the value of Host."""
    cdef int i
    if head.method == OTHER:
        put(out, head.name.at, head.name.size + 1)  # with the space
    else:
        put(out, b"GET " if head.method == GET else b"HEAD ", 4 if head.method == GET else 5)
    put(out, head.path.at, head.path.size)
    put(out, b" HTTP/1.1\r\n", 11)
    for i in range(count):
        if fields[i].action == PASS:
            put_field(out, &fields[i])
        elif fields[i].action == HOST:
            put(out, fields[i].name.at, fields[i].name.size)
            put(out, b": ", 2)
            put(out, host.at, host.size)
            put(out, b"\r\n", 2)
    if head.chunked:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)
    put(out, plain.via, plain.via_size)
    put(out, b"\r\n", 2)
