"""Chunked bodies (RFC 9112 section 7.1): their payload, as it comes, and framed anew.

What is *plain* in one: a size of 1 to 16 hexadecimal digits and CRLF, so much payload and CRLF,
and in the end a size of 0 with two CRLF. Anything else is *odd*: extensions, blanks, trailers, and
whatever is wrong. It is left where it stands, and so is a line that is not all there. spliceproxy/http1/chunked.py
goes on from there, and says what is wrong.

The sender's framing goes no further: what is sent on is framed as there, so no second reader can
see another message in it.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove

from http.plain cimport Text, is_digit

cdef enum:
    SIZE_DIGITS = 16
    SIZE_LINE = 18          # bytes of the line with a size
    LINE_KEPT = 20          # bytes of a line that is not all there: a last chunk, but for its LF
    FRONT = 32              # bytes before payload in which `frame` writes: CRLF, a size, CRLF
    BACK = 24               # the same behind it: CRLF, and a size or a last chunk

# Chunks.rest, where it is no number of bytes
cdef enum:
    CHUNK_ENDS = 0          # the CRLF behind a payload comes next
    SIZE_NEXT = -1          # a size
    WHOLE = -2              # nothing: the body is over

cdef struct Chunks:         # of a body on its way
    int64_t rest            # of the payload of the sender's chunk
    uint64_t taken          # bytes of the body, as its sender has framed it
    char line[LINE_KEPT]    # the beginning of the next line
    uint8_t kept            # bytes of that
    uint8_t on              # the body is chunked
    uint8_t odd
    uint8_t open            # the receiver has been told of `rest` bytes that are still to come


cdef inline void chunks_begin(Chunks *k, bint on) noexcept nogil:
    k.rest = SIZE_NEXT
    k.taken = 0
    k.kept = 0
    k.on = on
    k.odd = k.open = False


cdef inline int hex_value(char b) noexcept nogil:
    if is_digit(b):
        return b - c'0'
    if c'A' <= b <= c'F':
        return b - c'A' + 10
    return b - c'a' + 10 if c'a' <= b <= c'f' else -1


cdef inline int line_end(const char *p, const char *end) noexcept nogil:
    """2 for CRLF at `p`, 0 where it is not all there, -1 for anything else."""
    if p == end:
        return 0
    if p[0] != c'\r':
        return -1
    if end - p < 2:
        return 0
    return 2 if p[1] == c'\n' else -1


cdef inline int read_size(const char *p, const char *end, int64_t *size) noexcept nogil:
    """Reads the line with a chunk's size at `p`, and the empty line of a last chunk with it; its
    bytes, 0 where it is not all there, -1 if it is odd."""
    cdef const char *start = p
    cdef uint64_t value = 0
    cdef int line
    while p < end and hex_value(p[0]) >= 0:
        if p - start == SIZE_DIGITS:
            return -1
        value = value << 4 | <uint64_t>hex_value(p[0])
        p += 1
    line = line_end(p, end)
    if p == start or value > <uint64_t>INT64_MAX:
        return -1
    if line > 0 and value == 0:
        p += line
        line = line_end(p, end)
    if line <= 0:
        return line
    size[0] = <int64_t>value
    return <int>(p + line - start)


cdef inline size_t unchunk(
    Chunks *k, const char *data, size_t n, char *to, size_t *used
) noexcept nogil:
    """Moves the payload in the next `n` bytes of a body to `to`, which may be `data`; returns its
    size. The first `used` bytes are done with; what follows them is odd, or behind the body, or the
    beginning of a line."""
    cdef const char *p = data
    cdef const char *end = data + n
    cdef char *at = to
    cdef int64_t size = 0
    cdef size_t part
    cdef int line
    while p < end and k.rest != WHOLE:
        if k.rest > 0:
            part = <size_t>min(k.rest, <int64_t>(end - p))
            if at != p:
                memmove(at, p, part)
            at += part
            p += part
            k.rest -= part
            continue
        line = line_end(p, end) if k.rest == CHUNK_ENDS else read_size(p, end, &size)
        if line <= 0:
            k.odd = line < 0
            break
        p += line
        if k.rest == CHUNK_ENDS:
            k.rest = SIZE_NEXT
        else:
            k.rest = size if size else <int64_t>WHOLE
    used[0] = p - data
    k.taken += used[0]
    return at - to


cdef inline char *put_size(char *end, uint64_t size) noexcept nogil:
    """Writes the line before a chunk, which is not empty, so that it ends at `end`; where it
    begins."""
    end -= 2
    memcpy(end, b"\r\n", 2)
    while size:
        end -= 1
        end[0] = b"0123456789abcdef"[size & 15]
        size >>= 4
    return end


cdef inline Text frame(Chunks *k, char *payload, size_t n, int64_t least) noexcept nogil:
    """What is to be sent on for the `n` bytes of payload that `unchunk` has found, which are one
    chunk of it. What is left of the sender's chunk is announced if that is `least` bytes or more.
    There must be room around the payload."""
    cdef Text out
    cdef char *end = payload + n
    cdef char text[SIZE_LINE]
    cdef char *line
    cdef bint was_open = k.open
    out.at = payload
    k.open = k.rest >= least
    if n:
        out.at = put_size(payload, n)
        memcpy(end, b"\r\n", 2)
        end += 2
    if was_open:
        out.at -= 2
        memcpy(<char *>out.at, b"\r\n", 2)
    if k.open:
        line = put_size(text + SIZE_LINE, k.rest)
        memcpy(end, line, text + SIZE_LINE - line)
        end += text + SIZE_LINE - line
    elif k.rest == WHOLE:
        memcpy(end, b"0\r\n\r\n", 5)
        end += 5
    out.size = end - out.at
    return out
