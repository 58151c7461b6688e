"""What the owner says once, as C: the rules of fields, the alphabet of heads, and texts."""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from http.plain cimport (
    AUTHORIZATION, CODING, CONNECTION, CREDENTIALS, DATE, DROP, HOST, LENGTH, NAME_MAX,
    NOT_PLAIN, PASS, PROXY_CONNECTION, Plain, Rule, SLOTS, TYPE, Text, VIA,
)
from lane.json_line cimport JSON_REST
from lane.line cimport LINE_MOST, LINE_REST
from lane.notes cimport note_new, note_release
from lane.types cimport L_JSON, Lane, LineForm, Log, Note, PEER_MAX

from spliceproxy.relay import lane as words

ACTIONS = {
    "pass": PASS,
    "drop": DROP,
    "not plain": NOT_PLAIN,
    "host": HOST,
    "connection": CONNECTION,
    "proxy-connection": PROXY_CONNECTION,
    "via": VIA,
    "authorization": AUTHORIZATION,
    "credentials": CREDENTIALS,
    "length": LENGTH,
    "coding": CODING,
    "date": DATE,
    "type": TYPE,
}


cdef Text as_text(bytes data):
    cdef Text text
    text.at = data
    text.size = len(data)
    return text


cdef char *copy_of(bytes text) except NULL:
    cdef char *at = <char *>malloc(len(text) + 1)
    if at == NULL:
        raise MemoryError
    memcpy(at, <const char *>text, len(text) + 1)
    return at


cdef int put_text(char *at, str text) except -1:
    """An address as text, with a NUL behind it."""
    cdef bytes data = text.encode("ascii")
    if len(data) >= PEER_MAX:
        raise ValueError(f"an address of more than {PEER_MAX - 1} bytes: {text!r}")
    memset(at, 0, PEER_MAX)
    memcpy(at, <const char *>data, len(data))
    return 0


cdef void set_alphabet(Lane *lane):
    """RFC 9110 sections 5.5 and 5.6.2."""
    cdef int b
    for b in range(256):
        lane.plain.text[b] = b == c'\t' or c' ' <= b <= c'~' or b >= 128
    for b in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz":
        lane.plain.lower[b] = b
    for b in range(c'A', c'Z' + 1):
        lane.plain.lower[b] = b + c'a' - c'A'


cdef int set_rules(Rule *rules, table) except -1:
    """Fills a field table: action by name (lower case)."""
    cdef uint32_t hash, i
    cdef uint8_t b
    if len(table) * 4 > SLOTS:
        raise ValueError(f"more than {SLOTS // 4} rules")
    memset(rules, 0, SLOTS * sizeof(Rule))
    for name, action in table.items():
        if not 0 < len(name) <= NAME_MAX:
            raise ValueError(f"a name of 1 to {NAME_MAX} bytes: {name!r}")
        hash = 0
        for b in name:
            if b not in b"-0123456789abcdefghijklmnopqrstuvwxyz":
                raise ValueError(f"a name of lower-case letters, digits and '-': {name!r}")
            hash = hash * 31 + b
        i = hash % SLOTS
        while rules[i].size:
            i = (i + 1) % SLOTS
        rules[i].hash = hash
        rules[i].size = len(name)
        rules[i].action = ACTIONS[action]
        memcpy(rules[i].name, <const char *>(<bytes>name), len(name))
    return 0


cdef int set_name(Plain *plain, bytes via, bytes name) except -1:
    """Ours in Via, and our line."""
    cdef char *line = copy_of(via)
    cdef char *named
    try:
        named = copy_of(name)
    except BaseException:
        free(line)
        raise
    free(plain.via)
    free(plain.name)
    plain.via, plain.via_size = line, len(via)
    plain.name, plain.name_size = named, len(name)
    return 0


cdef int set_line_form(Log *log, options) except -1:
    """How lines of the log are written."""
    cdef LineForm *form = &log.form
    cdef Note *note
    cdef uint8_t b
    memset(form, 0, sizeof(LineForm))
    for b in options.target:
        form.target[b] = True
    for b in options.user:
        form.user[b] = True
    form.method_most = options.method_most
    form.target_most = options.target_most
    form.user_most = options.user_most
    form.address_most = options.address_most
    form.type_most = options.type_most
    form.query = options.query
    form.kind = (words.NATIVE, words.SQUID, words.JSON).index(options.name)
    log.note_most = options.note_most
    most = form.method_most + form.target_most + 2 * form.address_most + form.type_most
    if form.kind == L_JSON:
        most += log.note_most + form.address_most + JSON_REST  # with the balancer's
    else:
        most += form.user_most + LINE_REST
    if most > LINE_MOST:
        raise ValueError("a line of the log may be longer than its buffer")
    note = note_new(as_text(options.note))
    if note == NULL:
        raise MemoryError
    note_release(log.note)
    log.note = note
    return 0
