"""Plain heads: those that can be passed on without a decision, recognised and rewritten.

A head is *plain* if its text is beyond doubt and each of its fields is one that goes on as
it is or has a rule in the owner's table. Everything else, right or wrong, is not plain and
left to the owner's parser: nothing is refused here, and nothing decided. What becomes of
which field is the owner's table; here are only the actions.

What requests and responses share is here, what is of one alone in plain_request.pxd and
plain_response.pxd.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from http.dates cimport Date

cdef enum:
    PLAIN_HEAD = 8192       # a longer head is not plain
    PLAIN_FIELDS = 100      # nor one with more fields
    SLOTS = 256             # of a field table, at least four times its names
    NAME_MAX = 32           # of a name with a rule
    METHOD_MAX = 32         # bytes of a method
    LENGTH_DIGITS = 18      # always fits an int64_t

cdef extern from *:
    """
    #define ONES 0x0101010101010101ULL          /* in each of eight bytes */
    #define HIGHEST 0x8080808080808080ULL
    """
    const uint64_t ONES
    const uint64_t HIGHEST


cdef enum Action:
    PASS                    # goes on as it is
    DROP                    # does not go on
    NOT_PLAIN               # with it the head is not plain
    HOST                    # written anew from the route
    CONNECTION              # keep-alive or close, does not go on
    PROXY_CONNECTION        # the same where there is no Connection
    VIA                     # goes on if our own name is not in it
    AUTHORIZATION           # goes on if its scheme is one of the owner's
    CREDENTIALS             # part of what a route is found by; does not go on
    LENGTH                  # Content-Length
    CODING                  # chunked, and nothing else; written anew
    DATE                    # Date: where there is none one is written
    TYPE                    # Content-Type: goes on, and into the log

cdef enum Method:
    GET, HEAD, CONNECT
    OTHER                   # its text says which

cdef struct Rule:
    uint32_t hash
    uint8_t size            # of the name; 0: no rule here
    uint8_t action
    char name[NAME_MAX]     # letters in lower case, digits, "-"

cdef struct Text:
    const char *at
    size_t size

cdef struct Field:
    Text name               # as spelled
    Text value              # without outer whitespace
    Action action

cdef struct Head:
    Method method
    Text name               # of an OTHER method
    int status
    Text line               # the status-line, with CRLF
    Text authority          # of an absolute target, or of CONNECT; empty for an origin form
    Text path               # starts with "/"
    Text host               # the value of Host
    Text credentials        # of the client, for us
    Text type               # of Content-Type
    int64_t length          # Content-Length, -1 without one
    bint chunked
    bint close              # the sender ends its connection behind this message
    bint dated

cdef struct Out:
    char *at                # where the next byte goes
    char *end

cdef struct Plain:
    uint8_t lower[256]      # a token's byte in lower case; 0 for any other byte
    uint8_t text[256]       # 1 for a byte of a field value
    Rule request[SLOTS]
    Rule response[SLOTS]
    Rule schemes[SLOTS]     # of AUTHORIZATION that are plain: PASS
    char *name              # ours in Via, lower case
    char *via               # our Via line; empty without a name
    size_t name_size
    size_t via_size
    Date date


cdef inline void put(Out *out, const char *data, size_t n) noexcept nogil:
    """Appends; what does not fit is seen by `full`."""
    if <size_t>(out.end - out.at) >= n:
        memcpy(out.at, data, n)
        out.at += n
    else:
        out.at = out.end


cdef inline bint full(const Out *out) noexcept nogil:
    return out.at == out.end


cdef inline bint is_digit(char b) noexcept nogil:
    return c'0' <= b <= c'9'


cdef inline int64_t number(Text text) noexcept nogil:
    """A Content-Length in its shortest form, -1 for anything else."""
    cdef int64_t value = 0
    cdef size_t i
    if text.size == 0 or text.size > LENGTH_DIGITS or (text.size > 1 and text.at[0] == c'0'):
        return -1
    for i in range(text.size):
        if not is_digit(text.at[i]):
            return -1
        value = value * 10 + text.at[i] - c'0'
    return value


cdef inline bint same(Text text, const char *lower, size_t n) noexcept nogil:
    """Whether `text` is `lower`, in any case."""
    cdef size_t i
    cdef char b
    if text.size != n:
        return False
    for i in range(n):
        b = text.at[i]
        if c'A' <= b <= c'Z':
            b += c'a' - c'A'
        if b != lower[i]:
            return False
    return True


cdef inline bint is_chunked(Text value) noexcept nogil:
    """Whether the value of a Transfer-Encoding says this alone. Behind it not even a blank is plain:
    some readers take a tab there for a part of the coding."""
    return same(value, b"chunked", 7) and value.at[7] == c'\r'


cdef inline bint contains(Text text, const char *lower, size_t n) noexcept nogil:
    """Whether `lower` stands anywhere in `text`, in any case."""
    cdef size_t i
    cdef Text part
    part.size = n
    if n == 0:
        return False
    for i in range(text.size - n + 1 if text.size >= n else 0):
        part.at = text.at + i
        if same(part, lower, n):
            return True
    return False


cdef inline ssize_t head_end(const char *data, size_t n) noexcept nogil:
    """Bytes of the head at the front of `data`, -1 while its empty line is not there."""
    cdef const char *at = data
    cdef const char *end = data + n
    while True:
        at = <const char *>memchr(at, c'\n', end - at)
        if at == NULL:
            return -1
        at += 1
        if end - at < 2:
            return -1
        if at[0] == c'\r' and at[1] == c'\n':
            return at + 2 - data


cdef inline bint is_named(Text name, const Rule *rule) noexcept nogil:
    """Whether a token is the name of this rule, in any case. With the bit of lower case each byte
    of a token that it makes one of a rule's name (letters, digits, "-") is that byte."""
    cdef uint64_t eight, known
    cdef size_t i = 0
    if name.size != rule.size:
        return False
    while i + 8 <= name.size:
        memcpy(&eight, name.at + i, 8)
        memcpy(&known, rule.name + i, 8)
        if (eight | (0x20 * ONES)) != known:
            return False
        i += 8
    while i < name.size:
        if (name.at[i] | 0x20) != rule.name[i]:
            return False
        i += 1
    return True


cdef inline const Rule *rule_at(const Rule *rules, uint32_t hash, Text name) noexcept nogil:
    """The rule of a name, or one without a size."""
    cdef uint32_t i = hash % SLOTS
    while rules[i].size:
        if rules[i].hash == hash and is_named(name, &rules[i]):
            break
        i = (i + 1) % SLOTS
    return &rules[i]


cdef inline Action rule_of(const Rule *rules, uint32_t hash, Text name) noexcept nogil:
    cdef const Rule *rule = rule_at(rules, hash, name)
    return <Action>rule.action if rule.size else PASS


cdef inline bint has_scheme(const Plain *plain, Text value) noexcept nogil:
    """Whether the scheme of these credentials, which ends with them or at a space, is one of
    `schemes`."""
    cdef Text name
    cdef uint32_t hash = 0
    cdef uint8_t b
    name.at = value.at
    name.size = 0
    while name.size < value.size and value.at[name.size] != c' ':
        b = plain.lower[<uint8_t>value.at[name.size]]
        if b == 0:
            return False
        hash = hash * 31 + b
        name.size += 1
    return rule_at(plain.schemes, hash, name).size != 0


cdef inline uint64_t controls(uint64_t eight, uint64_t least) noexcept nogil:
    """Of eight bytes at once: the highest bit of each that is below `least` or DEL, and maybe that of
    another one where there is such a byte; else 0."""
    cdef uint64_t low = eight - least * ONES
    cdef uint64_t delete = (eight ^ (0x7F * ONES)) - ONES
    return (low | delete) & ~eight & HIGHEST


cdef inline const char *text_end(const Plain *plain, const char *p, const char *end) noexcept nogil:
    """Behind the bytes of a field value at `p`. There is one that is none before `end`."""
    cdef uint64_t eight
    while end - p >= 8:
        memcpy(&eight, p, 8)
        if controls(eight, c' '):  # a tab is one of them
            break
        p += 8
    while plain.text[<uint8_t>p[0]]:
        p += 1
    return p


cdef inline const char *next_field(
    const Plain *plain, const Rule *rules, const char *p, const char *end, Field *field
) noexcept nogil:
    """Reads the field line at `p`, which is not the empty line at `end`; returns what is behind it,
    NULL if it is not plain. The head ends in CRLFCRLF, so nothing is read beyond it."""
    cdef const char *stop
    cdef uint32_t hash = 0
    cdef uint8_t b
    field.name.at = p
    while True:
        b = plain.lower[<uint8_t>p[0]]
        if b == 0:
            break
        hash = hash * 31 + b
        p += 1
    field.name.size = p - field.name.at
    if field.name.size == 0 or p[0] != c':':
        return NULL
    p += 1
    while p[0] == c' ' or p[0] == c'\t':
        p += 1
    field.value.at = p
    p = text_end(plain, p, end)
    if p[0] != c'\r' or p[1] != c'\n':
        return NULL
    stop = p
    while stop > field.value.at and (stop[-1] == c' ' or stop[-1] == c'\t'):
        stop -= 1
    field.value.size = stop - field.value.at
    field.action = rule_of(rules, hash, field.name)
    return p + 2


cdef inline int read_fields(
    const Plain *plain, const Rule *rules, const char *p, const char *end, Field *fields
) noexcept nogil:
    """Takes the field lines apart from `p` (NULL: the line before them is not plain) to the
    empty line at `end`; returns their number, -1 if one is not plain."""
    cdef int count = 0
    if p == NULL:
        return -1
    while p < end:
        if count == PLAIN_FIELDS:
            return -1
        p = next_field(plain, rules, p, end, &fields[count])
        if p == NULL:
            return -1
        count += 1
    return count


cdef inline bint is_tidy(const Field *field) noexcept nogil:
    """Whether its line is read as `put_field` would write it."""
    cdef const char *behind = field.name.at + field.name.size
    return behind[1] == c' ' and field.value.at == behind + 2 and (
        field.value.at[field.value.size] == c'\r')


cdef inline void put_field(Out *out, const Field *field) noexcept nogil:
    if is_tidy(field):
        put(out, field.name.at, field.name.size + field.value.size + 4)
        return
    put(out, field.name.at, field.name.size)
    put(out, b": ", 2)
    put(out, field.value.at, field.value.size)
    put(out, b"\r\n", 2)


cdef inline int connection_option(Text value) noexcept nogil:
    """1 for close, 0 for keep-alive, -1 for anything else."""
    if same(value, b"close", 5):
        return 1
    return 0 if same(value, b"keep-alive", 10) else -1


cdef inline bint read_option(Text value, int *option) noexcept nogil:
    """Takes the one Connection of a head, or its one Proxy-Connection; `option` is -1 before.
    False if it is not plain."""
    if option[0] >= 0:
        return False
    option[0] = connection_option(value)
    return option[0] >= 0
