"""A line of the access log, as spliceproxy/observe/native_line.py has it (`format_line`): what can
be said of an exchange of the lane, or of the tunnel that it became.

The owner names the bytes that stay as they are, and the longest texts. Each line has an upper
bound, so it is written where there is room for the longest.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy, strlen

from core.types cimport (
    R_DONE, R_HALF_CLOSE, R_IDLE, R_LIMIT, R_NONE, R_TARGET_IDLE, found_words,
)
from http.plain cimport CONNECT, Text
from lane.types cimport Exchange, Facts, L_NATIVE, LineForm

cdef enum:
    # Bytes of the longest line with its LF: one write(2) to a pipe (PIPE_BUF).
    LINE_MOST = 4096
    LINE_REST = 256         # for all but the texts of variable length


cdef inline char *add_text(char *to, const char *text, size_t n) noexcept nogil:
    memcpy(to, text, n)
    return to + n


cdef inline char *add_number(char *to, uint64_t number, int width, char fill) noexcept nogil:
    """Decimal, with at least `width` characters."""
    cdef char digits[20]
    cdef int at = 20
    if number < 10 and width < 2:
        to[0] = <char>(c'0' + number)
        return to + 1
    while True:
        at -= 1
        digits[at] = <char>(c'0' + number % 10)
        number //= 10
        if number == 0:
            break
    while width > 20 - at:
        to[0] = fill
        to += 1
        width -= 1
    return add_text(to, digits + at, 20 - at)


cdef inline char *add_byte(char *to, uint8_t byte) noexcept nogil:
    to[0] = c'%'
    to[1] = b"0123456789ABCDEF"[byte >> 4]
    to[2] = b"0123456789ABCDEF"[byte & 15]
    return to + 3


cdef inline char *add_field(
    char *to, const char *text, size_t n, const uint8_t *safe, size_t most, bint latin
) noexcept nogil:
    """A field: %XX for what could end it, "-" for nothing, cut at `most` characters, of which
    there is room for a few more. `latin`: the text is ISO 8859-1, else it is written byte by
    byte."""
    cdef char *start = to
    cdef char *end = to + most
    cdef size_t i = 0
    cdef uint8_t b
    if n == 0:
        to[0] = c'-'
        return to + 1
    while i < n and to < end:
        b = <uint8_t>text[i]
        i += 1
        if safe[b]:
            to[0] = <char>b
            to += 1
        elif latin and b >= 128:  # its UTF-8
            to = add_byte(add_byte(to, 192 | (b >> 6)), 128 | (b & 63))
        else:
            to = add_byte(to, b)
    return min(to, start + most)


cdef inline bint is_space(uint8_t b) noexcept nogil:
    """Of ISO 8859-1, where a field's value may have it."""
    return b == c' ' or b == c'\t' or b == 0x85 or b == 0xA0


cdef inline size_t type_size(const Exchange *x) noexcept nogil:
    """Of a Content-Type without its parameters."""
    cdef const char *end = <const char *>memchr(x.type, c';', x.type_size)
    cdef size_t n = end - <const char *>x.type if end != NULL else x.type_size
    while n > 0 and is_space(<uint8_t>x.type[n - 1]):
        n -= 1
    return n


cdef inline Text word_at(const char *at) noexcept nogil:
    """Of the first line of a head: up to the next space."""
    cdef Text word
    word.at = at
    word.size = 0
    while at[word.size] != c' ':
        word.size += 1
    return word


cdef inline char *add_result(char *to, const Exchange *x, uint8_t reason) noexcept nogil:
    """squid's word for what became of it."""
    if x.peer[0] == 0:
        to = add_text(to, "TCP_HIT", 7) if x.status else add_text(to, "NONE", 4)
    elif x.method == CONNECT:
        to = add_text(to, "TCP_TUNNEL", 10)
    else:
        to = add_text(to, "TCP_MISS", 8)
    if reason == R_NONE or reason == R_DONE:
        return to
    if reason == R_IDLE or reason == R_TARGET_IDLE or reason == R_HALF_CLOSE:
        return add_text(to, "_TIMEDOUT", 9)
    if reason == R_LIMIT:
        return add_text(to, "_LIMITED", 8)
    return add_text(to, "_ABORTED", 8)


cdef inline size_t write_line(
    char *to, const LineForm *form, const Exchange *x, const Facts *facts
) noexcept nogil:
    """The line with its LF, for which there are LINE_MOST bytes; its size."""
    cdef int64_t ended = (facts.ended + 500) // 1000
    cdef char *at = to
    cdef const char *query
    cdef Text method = word_at(x.data)
    cdef Text target = word_at(method.at + method.size + 1)
    if not form.query:
        query = <const char *>memchr(target.at, c'?', target.size)
        if query != NULL:
            target.size = query - target.at + 1
    at = add_number(at, ended // 1000, 0, 0)
    at = add_text(at, ".", 1)
    at = add_number(at, ended % 1000, 3, c'0')
    at = add_text(at, " ", 1)
    at = add_number(at, facts.took // 1000, 6, c' ')
    at = add_text(at, " ", 1)
    at = add_field(at, x.address, strlen(x.address), form.target, form.address_most, False)
    at = add_text(at, " ", 1)
    at = add_result(at, x, facts.reason)
    at = add_text(at, "/", 1)
    at = add_number(at, facts.status, 3, c'0')
    at = add_text(at, " ", 1)
    at = add_number(at, facts.sent, 0, 0)
    at = add_text(at, " ", 1)
    at = add_field(at, method.at, method.size, form.target, form.method_most, False)
    at = add_text(at, " ", 1)
    at = add_field(at, target.at, target.size, form.target, form.target_most, False)
    at = add_text(at, " ", 1)
    at = add_field(at, x.user, strlen(x.user), form.user, form.user_most, False)
    if x.peer[0] == 0:
        at = add_text(at, " HIER_NONE/", 11)
    elif x.hop != NULL:
        at = add_text(at, " FIRSTUP_PARENT/", 16)
    else:
        at = add_text(at, " HIER_DIRECT/", 13)
    at = add_field(at, x.peer, strlen(x.peer), form.target, form.address_most, False)
    at = add_text(at, " ", 1)
    at = add_field(at, x.type, type_size(x), form.target, form.type_most, True)
    if form.kind == L_NATIVE:
        at = add_text(at, " in=", 4)
        at = add_number(at, facts.received, 0, 0)
        if x.socks:
            at = add_number(add_text(at, " socks=", 7), x.socks, 0, 0)
        if facts.found:
            at = add_text(at, " tls=", 5)
            at = add_text(at, found_words[facts.found], strlen(found_words[facts.found]))
        if x.hop != NULL:
            at = add_text(add_text(at, " route=", 7), x.hop.name, x.hop.size)
            at = add_text(at, " by=", 4)
            at = add_text(at, "name" if x.hop.by_name else "address", 4 if x.hop.by_name else 7)
    at = add_text(at, "\n", 1)
    return at - to
