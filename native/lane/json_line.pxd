"""A line of the access log as JSON: as spliceproxy/observe/json_line.py has it, byte for byte, for
what can be said of an exchange of the lane, or of the tunnel that it became.

What is the same for all requests on a route comes as a text (Note). So nothing of it has to be
escaped here, and a head has printable ASCII only; the type of an answer may have more.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, strlen

from core.tcpinfo cimport TcpLeg
from core.types cimport found_words
from http.plain cimport Text
from lane.facts cimport NUMBER_BITS
from lane.line cimport add_number, add_text, type_size, word_at
from lane.types cimport (
    Exchange, Facts, LineForm, Log, Note, SECOND_TEXT, V_END, event_words, stalled_words,
)

cdef extern from *:
    """
    static const char hex_digits[] = "0123456789abcdef";

    /* The size of a text in the source is known to the compiler, once this is inlined. */
    static CYTHON_INLINE __attribute__((always_inline)) char *add(char *to, const char *text) {
        size_t n = __builtin_strlen(text);
        memcpy(to, text, n);
        return to + n;
    }

    /* What of ASCII a string has as it is: all that is printable, but the quote and the backslash. */
    static const unsigned char as_it_is[256] = {
        [' ' ... '!'] = 1, ['#' ... '['] = 1, [']' ... '~'] = 1,
    };

    /* How many bytes of `n` are so, from the first one on. */
    static CYTHON_INLINE size_t as_they_are(const char *text, size_t n) {
        size_t i = 0;
        while (i < n && as_it_is[(unsigned char)text[i]])
            i++;
        return i;
    }
    """
    const char *hex_digits
    size_t as_they_are(const char *text, size_t n) noexcept nogil
    char *add(char *to, const char *text) noexcept nogil


cdef enum:
    JSON_REST = 1500        # bytes for all but the texts of variable length, and the note


cdef inline char *add_escaped(
    char *to, const char *text, size_t n, size_t most
) noexcept nogil:
    """ISO 8859-1 between the quotes of a string, at most so many characters of it."""
    cdef char *end = to + most
    cdef size_t start = as_they_are(text, min(n, most))  # nearly always all of it
    cdef size_t i
    cdef size_t room
    cdef uint8_t b
    to = add_text(to, text, start)
    for i in range(start, n):
        b = <uint8_t>text[i]
        room = end - to
        if b == c'"' or b == c'\\' or b == c'\t':
            if room < 2:
                break
            to[0] = c'\\'
            to[1] = c't' if b == c'\t' else <char>b
            to += 2
        elif b < 32 or b > 126:
            if room < 6:
                break
            memcpy(to, "\\u00", 4)
            to[4] = hex_digits[b >> 4]
            to[5] = hex_digits[b & 15]
            to += 6
        else:
            if room < 1:
                break
            to[0] = <char>b
            to += 1
    return to


cdef inline char *add_string(char *to, const char *text, size_t n, size_t most) noexcept nogil:
    """A string, or null for nothing."""
    if n == 0:
        return add_text(to, "null", 4)
    to[0] = c'"'
    to = add_escaped(to + 1, text, n, most)
    to[0] = c'"'
    return to + 1


cdef inline char *add_plain(char *to, const char *text, size_t n) noexcept nogil:
    """The same of a word of ours, or of a token: nothing in it has to be escaped."""
    if n == 0:
        return add_text(to, "null", 4)
    to[0] = c'"'
    to = add_text(to + 1, text, n)
    to[0] = c'"'
    return to + 1


cdef inline void put_two(char *to, int64_t number) noexcept nogil:
    to[0] = <char>(c'0' + number // 10)
    to[1] = <char>(c'0' + number % 10)


cdef inline void second_text(char *to, int64_t second) noexcept nogil:
    """A Unix time in UTC, SECOND_TEXT bytes as "2026-11-30T02:00:00". The date is found by the days
    of eras of 400 years, which begin in March, so that a leap day is the last of its year."""
    cdef int64_t days = second // 86400
    cdef int64_t left = second % 86400
    cdef int64_t z = days + 719468
    cdef int64_t era = z // 146097
    cdef int64_t day = z - era * 146097
    cdef int64_t year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    cdef int64_t of_year = day - (365 * year + year // 4 - year // 100)
    cdef int64_t month = (5 * of_year + 2) // 153
    cdef int64_t of_month = of_year - (153 * month + 2) // 5 + 1
    year += era * 400
    month = month + 3 if month < 10 else month - 9
    if month <= 2:
        year += 1
    memcpy(to, "0000-00-00T00:00:00", SECOND_TEXT)
    put_two(to, year // 100)
    put_two(to + 2, year % 100)
    put_two(to + 5, month)
    put_two(to + 8, of_month)
    put_two(to + 11, left // 3600)
    put_two(to + 14, left // 60 % 60)
    put_two(to + 17, left % 60)


cdef inline char *add_stamp(char *to, Log *log, int64_t us) noexcept nogil:
    """A Unix time with its microseconds."""
    cdef int64_t second = us // 1000000
    if second != log.second:
        log.second = second
        second_text(log.second_text, second)
    to = add_text(to, log.second_text, SECOND_TEXT)
    to[0] = c'.'
    to = add_number(to + 1, us % 1000000, 6, c'0')
    to[0] = c'Z'
    return to + 1


cdef inline char *add_leg(char *to, const TcpLeg *leg, bint known) noexcept nogil:
    if not known:
        return add_text(to, "null", 4)
    to = add_number(add(to, '{"rtt_us":'), leg.rtt, 0, 0)
    to = add_number(add(to, ',"rttvar_us":'), leg.rttvar, 0, 0)
    to = add_number(add(to, ',"retransmits":'), leg.retransmits, 0, 0)
    to = add_number(add(to, ',"delivery_rate":'), leg.delivery_rate, 0, 0)
    to = add_number(add(to, ',"busy_us":'), leg.busy, 0, 0)
    to = add_number(add(to, ',"rwnd_limited_us":'), leg.rwnd_limited, 0, 0)
    to = add_number(add(to, ',"sndbuf_limited_us":'), leg.sndbuf_limited, 0, 0)
    to[0] = c'}'
    return to + 1


cdef inline char *add_request(
    char *to, const LineForm *form, const Exchange *x
) noexcept nogil:
    cdef const char *query
    cdef Text method = word_at(x.data)
    cdef Text target = word_at(method.at + method.size + 1)
    if not form.query:
        query = <const char *>memchr(target.at, c'?', target.size)
        if query != NULL:
            target.size = query - target.at + 1
    to = add_plain(add(to, ',"method":'), method.at, min(method.size, form.method_most))
    to = add_string(add(to, ',"target":'), target.at, target.size, form.target_most)
    to = add(to, ',"socks":')
    to = add_number(to, x.socks, 0, 0) if x.socks else add_text(to, "null", 4)
    return add(to, ',"name":null')


cdef inline char *add_times(char *to, const Facts *facts) noexcept nogil:
    to = add_number(add(to, ',"head_us":0,"question_us":'), facts.question, 0, 0)
    to = add_number(add(to, ',"dns_us":'), facts.dns, 0, 0)
    to = add_number(add(to, ',"dial_us":'), facts.dial, 0, 0)
    to = add_number(add(to, ',"first_byte_us":'), facts.first_byte, 0, 0)
    return add_number(add(to, ',"total_us":'), max(facts.took, 0), 0, 0)


cdef inline char *add_route(char *to, const Exchange *x) noexcept nogil:
    if x.hop == NULL:
        return add(
            to,
            ',"route":"direct","connect_by":null'
            if x.peer[0]
            else ',"route":null,"connect_by":null')
    to = add_text(add(to, ',"route":"'), x.hop.name, x.hop.size)
    return add(to, '","connect_by":"name"' if x.hop.by_name else '","connect_by":"address"')


cdef inline size_t write_json(
    char *to, Log *log, const Exchange *x, const Facts *facts, uint8_t event
) noexcept nogil:
    """The line with its LF, for which there are LINE_MOST bytes; its size. `event`: what
    it is about."""
    cdef char *at = to
    cdef const LineForm *form = &log.form
    cdef const Note *note = x.note if x.note != NULL else log.note
    at = add_stamp(add(at, '{"v":1,"time":"'), log, facts.ended)
    at = add(add(at, '","event":"'), event_words[event])
    at = add_number(add(at, '","id":"'), facts.number >> NUMBER_BITS, 0, 0)
    at[0] = c'-'
    at = add_number(at + 1, facts.number & ((<uint64_t>1 << NUMBER_BITS) - 1), 0, 0)
    at = add_string(add(at, '","client":'), x.address, strlen(x.address), form.address_most)
    at = add(at, ',"via":')
    if x.via == NULL:
        at = add_text(at, "null", 4)
    else:
        at = add_string(at, x.via.text + 1, x.via.size - 1, form.address_most)
    at = add_request(at, form, x)
    at = add(at, ',"tls_name":')
    at = add_plain(at, found_words[facts.found], strlen(found_words[facts.found]))
    at[0] = c','
    at = add_text(at + 1, note.text, note.size)
    at = add(add_route(at, x), ',"peer":')
    at = add_string(at, x.peer, strlen(x.peer), form.address_most)
    at = add(at, ',"status":')
    at = add_number(at, facts.status, 0, 0) if facts.status else add(at, "null")
    at = add_string(add(at, ',"type":'), x.type, type_size(x), form.type_most)
    at = add(at, ',"termination":')
    if event == V_END:
        at[0] = at[3] = c'"'
        at[1] = <char>facts.by
        at[2] = <char>facts.at
        at += 4
    else:
        at = add(at, "null")
    at = add_number(add(at, ',"in_copied":'), facts.received - facts.received_spliced, 0, 0)
    at = add_number(add(at, ',"in_spliced":'), facts.received_spliced, 0, 0)
    at = add_number(add(at, ',"out_copied":'), facts.sent - facts.sent_spliced, 0, 0)
    at = add_number(add(at, ',"out_spliced":'), facts.sent_spliced, 0, 0)
    at = add_times(at, facts)
    at = add_leg(add(at, ',"client_tcp":'), &facts.tcp[0], facts.informed & 1)
    at = add_leg(add(at, ',"origin_tcp":'), &facts.tcp[1], (facts.informed & 2) != 0)
    at = add(at, ',"stalled":')
    at = add_plain(at, stalled_words[facts.stalled], strlen(stalled_words[facts.stalled]))
    at = add_text(at, "}\n", 2)
    return at - to
