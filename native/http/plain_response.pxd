"""Plain responses: the head of one read, and written for its client."""

from libc.string cimport memcmp, memset

from http.dates cimport DATE_SIZE
from http.plain cimport (
    CODING, CONNECTION, DATE, DROP, Field, Head, LENGTH, Out, PASS, PLAIN_HEAD, Plain, TYPE,
    is_chunked, is_digit, number, put, put_field, read_fields, read_option, text_end,
)

cdef inline const char *status_line(
    const Plain *plain, const char *p, const char *end, Head *head
) noexcept nogil:
    """Reads a status-line; returns what is behind it, NULL if it is not plain: the status
    code is one of 100 to 599, and not 101, which makes a tunnel."""
    if end - p < 17 or memcmp(p, b"HTTP/1.1 ", 9) != 0 or p[12] != c' ':
        return NULL
    if not c'1' <= p[9] <= c'5' or not is_digit(p[10]) or not is_digit(p[11]):
        return NULL
    head.status = (p[9] - c'0') * 100 + (p[10] - c'0') * 10 + p[11] - c'0'
    if head.status == 101:
        return NULL
    p += 13
    p = text_end(plain, p, end)
    return p + 2 if p[0] == c'\r' and p[1] == c'\n' else NULL


cdef inline int read_response(
    const Plain *plain, const char *data, size_t n, Head *head, Field *fields
) noexcept nogil:
    """Takes a response head of `n` bytes apart; returns the number of its fields, -1 if it
    is not plain."""
    cdef const char *end = data + n - 2
    cdef const char *behind
    cdef int option = -1
    cdef int count, i
    cdef Field *field
    if n > PLAIN_HEAD:
        return -1
    memset(head, 0, sizeof(Head))
    head.length = -1
    behind = status_line(plain, data, end, head)
    head.line.at = data
    head.line.size = behind - data if behind != NULL else 0
    count = read_fields(plain, plain.response, behind, end, fields)
    for i in range(count):
        field = &fields[i]
        if field.action == PASS or field.action == DROP:
            continue
        elif field.action == LENGTH:
            if head.length >= 0:
                return -1
            head.length = number(field.value)
            if head.length < 0:
                return -1
        elif field.action == CONNECTION:
            if not read_option(field.value, &option):
                return -1
        elif field.action == CODING:
            if head.chunked or not is_chunked(field.value):
                return -1
            head.chunked = True
            field.action = DROP
        elif field.action == DATE:
            head.dated = True
        elif field.action == TYPE:
            if head.type.size == 0:
                head.type = field.value
        else:
            return -1
    if count < 0 or (head.chunked and head.length >= 0):
        return -1
    if head.status < 200:
        # Framing means nothing here, and an origin that writes it may mean something else.
        if head.chunked or head.length >= 0 or option >= 0:
            return -1
    head.close = option == 1
    return count


cdef inline void write_response(
    Out *out, const Plain *plain, const Head *head, const Field *fields, int count, bint close
) noexcept nogil:
    """The head for the client; `close` says that its connection ends. `plain.date` is for one
    without a date (RFC 9110 section 6.6.1)."""
    cdef int i
    put(out, head.line.at, head.line.size)
    for i in range(count):
        if fields[i].action != DROP and fields[i].action != CONNECTION:
            put_field(out, &fields[i])
    if head.chunked:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)
    if head.status >= 200 and not head.dated:
        put(out, plain.date.line, DATE_SIZE)
    if close:
        put(out, b"Connection: close\r\n", 19)
    put(out, plain.via, plain.via_size)
    put(out, b"\r\n", 2)
