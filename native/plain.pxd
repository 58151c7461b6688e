"""Plain heads: those that can be passed on without a decision, recognised and rewritten.

A head is *plain* if its text is beyond doubt and each of its fields is one that goes on as
it is or has a rule in the owner's table. Everything else, right or wrong, is not plain and
left to the owner's parser: nothing is refused here, and nothing decided. What becomes of
which field is the owner's table; here are only the actions.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

cdef enum:
    PLAIN_HEAD = 8192       # a longer head is not plain
    PLAIN_FIELDS = 100      # nor one with more fields
    LENGTH_DIGITS = 18      # always fits an int64_t
    SLOTS = 256             # of a field table, at least four times its names
    NAME_MAX = 32           # of a name with a rule

cdef enum Action:
    PASS                    # goes on as it is
    DROP                    # does not go on
    NOT_PLAIN               # with it the head is not plain
    HOST                    # written anew from the route
    CONNECTION              # keep-alive or close, does not go on
    PROXY_CONNECTION        # the same where there is no Connection
    VIA                     # goes on if our own name is not in it
    CREDENTIALS             # part of what a route is found by; does not go on
    LENGTH                  # Content-Length
    CODING                  # chunked, and nothing else; written anew
    DATE                    # there must be one
    TYPE                    # Content-Type: goes on, and into the log

cdef enum Method:
    GET, HEAD, CONNECT

cdef struct Rule:
    uint32_t hash
    uint8_t size            # of the name; 0: no rule here
    uint8_t action
    char name[NAME_MAX]     # lower case

cdef struct Text:
    const char *at
    size_t size

cdef struct Field:
    Text name               # as spelled
    Text value              # without outer whitespace
    Action action

cdef struct Head:
    Method method
    int status
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
    char *name              # ours in Via, lower case
    char *via               # our Via line; empty without a name
    size_t name_size
    size_t via_size


cdef inline void put(Out *out, const char *data, size_t n) noexcept nogil:
    """Appends; what does not fit is seen by `full`."""
    if <size_t>(out.end - out.at) >= n:
        memcpy(out.at, data, n)
        out.at += n
    else:
        out.at = out.end


cdef inline bint full(const Out *out) noexcept nogil:
    return out.at == out.end


cdef inline bint same(Text text, const char *lower, size_t n) noexcept nogil:
    """Whether `text` is `lower`, in any case."""
    cdef size_t i
    cdef char b
    if text.size != n:
        return False
    for i in range(n):
        b = text.at[i]
        if 65 <= b <= 90:
            b += 32
        if b != lower[i]:
            return False
    return True


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
        at = <const char *>memchr(at, 10, end - at)
        if at == NULL:
            return -1
        at += 1
        if end - at < 2:
            return -1
        if at[0] == 13 and at[1] == 10:
            return at + 2 - data


cdef inline Action rule_of(const Rule *rules, uint32_t hash, Text name) noexcept nogil:
    cdef uint32_t i = hash % SLOTS
    while rules[i].size:
        if rules[i].hash == hash and same(name, rules[i].name, rules[i].size):
            return <Action>rules[i].action
        i = (i + 1) % SLOTS
    return PASS


cdef inline const char *next_field(
    const Plain *plain, const Rule *rules, const char *p, Field *field
) noexcept nogil:
    """Reads the field line at `p`, which is not the empty line; returns what is behind it,
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
    if field.name.size == 0 or p[0] != 58:  # ":"
        return NULL
    p += 1
    while p[0] == 32 or p[0] == 9:
        p += 1
    field.value.at = p
    while plain.text[<uint8_t>p[0]]:
        p += 1
    if p[0] != 13 or p[1] != 10:
        return NULL
    stop = p
    while stop > field.value.at and (stop[-1] == 32 or stop[-1] == 9):
        stop -= 1
    field.value.size = stop - field.value.at
    field.action = rule_of(rules, hash, field.name)
    return p + 2


cdef inline void put_field(Out *out, const Field *field) noexcept nogil:
    put(out, field.name.at, field.name.size)
    put(out, b": ", 2)
    put(out, field.value.at, field.value.size)
    put(out, b"\r\n", 2)


cdef inline int connection_option(Text value) noexcept nogil:
    """1 for close, 0 for keep-alive, -1 for anything else."""
    if same(value, b"close", 5):
        return 1
    return 0 if same(value, b"keep-alive", 10) else -1


cdef inline const char *visible_end(const char *p, const char *end) noexcept nogil:
    """Behind the visible ASCII at `p`."""
    while p < end and 33 <= p[0] <= 126:
        p += 1
    return p


cdef inline const char *request_line(const char *p, const char *end, Head *head) noexcept nogil:
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
        slash = <const char *>memchr(p, 47, stop - p)
        if slash == NULL:
            return NULL
        head.authority.at = p
        head.authority.size = slash - p
        if head.authority.size == 0:
            return NULL
        p = slash
    if p[0] != 47 or memchr(p, 35, stop - p) != NULL:  # "/", and no "#"
        return NULL
    head.path.at = p
    head.path.size = stop - p
    return stop + 11


cdef inline const char *status_line(
    const Plain *plain, const char *p, const char *end, Head *head
) noexcept nogil:
    """Reads a status-line; returns what is behind it, NULL if it is not plain."""
    if end - p < 17 or memcmp(p, b"HTTP/1.1 ", 9) != 0 or p[12] != 32:
        return NULL
    if not (50 <= p[9] <= 53 and 48 <= p[10] <= 57 and 48 <= p[11] <= 57):  # 200 to 599
        return NULL
    head.status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + p[11] - 48
    p += 13
    while plain.text[<uint8_t>p[0]]:
        p += 1
    return p + 2 if p[0] == 13 and p[1] == 10 else NULL


cdef inline int64_t number(Text text) noexcept nogil:
    """A Content-Length in its shortest form, -1 for anything else."""
    cdef int64_t value = 0
    cdef size_t i
    if text.size == 0 or text.size > LENGTH_DIGITS or (text.size > 1 and text.at[0] == 48):
        return -1
    for i in range(text.size):
        if not 48 <= text.at[i] <= 57:
            return -1
        value = value * 10 + text.at[i] - 48
    return value


cdef inline int read_request(
    const Plain *plain, const char *data, size_t n, Head *head, Field *fields
) noexcept nogil:
    """Takes a request head of `n` bytes apart; returns the number of its fields, -1 if it is
    not plain."""
    cdef const char *p
    cdef const char *end = data + n - 2
    cdef int count = 0
    cdef int option = -1
    cdef int proxy_option = -1
    cdef Field *field
    if n > PLAIN_HEAD:
        return -1
    memset(head, 0, sizeof(Head))
    p = request_line(data, end, head)
    while p != NULL and p < end:
        if count == PLAIN_FIELDS:
            return -1
        field = &fields[count]
        p = next_field(plain, plain.request, p, field)
        if p == NULL:
            return -1
        count += 1
        if field.action == PASS or field.action == DROP:
            continue
        elif field.action == HOST:
            if head.host.size or field.value.size == 0:
                return -1
            head.host = field.value
        elif field.action == CONNECTION:
            if option >= 0:
                return -1
            option = connection_option(field.value)
            if option < 0:
                return -1
        elif field.action == PROXY_CONNECTION:
            if proxy_option >= 0:
                return -1
            proxy_option = connection_option(field.value)
            if proxy_option < 0:
                return -1
        elif field.action == VIA:
            if contains(field.value, plain.name, plain.name_size):
                return -1
            field.action = PASS
        elif field.action == CREDENTIALS:
            if head.credentials.size or field.value.size == 0:
                return -1
            head.credentials = field.value
        else:
            return -1
    if p == NULL or head.host.size == 0:
        return -1
    head.close = (option if option >= 0 else proxy_option) == 1
    return count


cdef inline void write_request(
    Out *out, const Plain *plain, const Head *head, const Field *fields, int count, Text host
) noexcept nogil:
    """The head for the origin. `host` is the value of Host."""
    cdef int i
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
    put(out, plain.via, plain.via_size)
    put(out, b"\r\n", 2)


cdef inline int read_response(
    const Plain *plain, const char *data, size_t n, Head *head, Field *fields
) noexcept nogil:
    """Takes a response head of `n` bytes apart; returns the number of its fields, -1 if it
    is not plain."""
    cdef const char *end = data + n - 2
    cdef const char *p
    cdef int count = 0
    cdef int option = -1
    cdef Field *field
    if n > PLAIN_HEAD:
        return -1
    memset(head, 0, sizeof(Head))
    p = status_line(plain, data, end, head)
    head.length = -1
    while p != NULL and p < end:
        if count == PLAIN_FIELDS:
            return -1
        field = &fields[count]
        p = next_field(plain, plain.response, p, field)
        if p == NULL:
            return -1
        count += 1
        if field.action == PASS or field.action == DROP:
            continue
        elif field.action == LENGTH:
            if head.length >= 0:
                return -1
            head.length = number(field.value)
            if head.length < 0:
                return -1
        elif field.action == CONNECTION:
            if option >= 0:
                return -1
            option = connection_option(field.value)
            if option < 0:
                return -1
        elif field.action == CODING:
            if head.chunked or not same(field.value, b"chunked", 7):
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
    if p == NULL or not head.dated or (head.chunked and head.length >= 0):
        return -1
    head.close = option == 1
    return count


cdef inline void write_response(
    Out *out, const Plain *plain, const char *data, const Head *head, const Field *fields,
    int count, bint close,
) noexcept nogil:
    """The head for the client; `close` says that its connection ends."""
    cdef int i
    put(out, data, fields[0].name.at - data)  # the status-line
    for i in range(count):
        if fields[i].action != DROP and fields[i].action != CONNECTION:
            put_field(out, &fields[i])
    if head.chunked:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)
    if close:
        put(out, b"Connection: close\r\n", 19)
    put(out, plain.via, plain.via_size)
    put(out, b"\r\n", 2)


cdef inline int hex_value(char b) noexcept nogil:
    if 48 <= b <= 57:
        return b - 48
    if 65 <= b <= 70:
        return b - 55
    return b - 87 if 97 <= b <= 102 else -1


cdef inline ssize_t join_chunks(char *data, size_t n, size_t *used) noexcept nogil:
    """Moves the payload of a whole chunked body to the front of `data`; returns its size,
    and in `used` that of the body. -1 where the body is not whole, or has anything but
    chunks without extensions in it; `data` is then as it was."""
    cdef const char *p = data
    cdef const char *end = data + n
    cdef char *to = data
    cdef size_t size
    cdef int pass_, digits
    for pass_ in range(2):  # looks first, then moves
        p = data
        while True:
            size = 0
            digits = 0
            while p < end and digits < 8 and hex_value(p[0]) >= 0:
                size = size * 16 + hex_value(p[0])
                digits += 1
                p += 1
            if digits == 0 or <size_t>(end - p) < size + 4 or p[0] != 13 or p[1] != 10:
                return -1
            p += 2
            if p[size] != 13 or p[size + 1] != 10:
                return -1
            if size == 0:
                p += 2
                break
            if pass_ == 1:
                memmove(to, p, size)
                to += size
            p += size + 2
    used[0] = p - data
    return to - data


cdef inline void put_chunk_size(Out *out, size_t size) noexcept nogil:
    """The line before a chunk, which is not empty."""
    cdef char text[18]
    cdef int at = 16
    text[16] = 13
    text[17] = 10
    while size:
        at -= 1
        text[at] = b"0123456789abcdef"[size % 16]
        size //= 16
    put(out, text + at, 18 - at)
