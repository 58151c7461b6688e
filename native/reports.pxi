"""What the owner is told, as Python: ends, records, clients that are given back, and the names of
what C counts."""

from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from core.counts cimport (
    K_BYTES, K_EVENTS, K_GUESSES, K_PIPES, K_PIPE_STARVED, K_SPLICE_FALLBACKS, K_STEPS,
    K_TLS_NAMES, K_TRANSFERS, K_TUNNELS, K_TUNNELS_BEGUN, K_TUNNELS_ENDED, K_URGENT,
)
from core.hello cimport FLIGHT, SIGHT
from core.gate cimport found_in
from core.types cimport (
    FOUNDS, FOUND_WORDS, Flow, INFO_MAX, NameCheck, REASONS, REASON_WORDS, R_DONE, R_TLS_NAME, TRANSFER,
    Way, found_words, reason_words,
)
from core.tcpinfo cimport TcpLeg
from http.chunks cimport Chunks
from lane.counts cimport (
    BUCKETS, DIAL_ERRORS, HEADER_RESULTS, K_CLIENTS, K_CONNECTIONS_BEGUN, K_DIALS,
    K_DIAL_ERRORS, K_DIAL_SECONDS, K_FIRST_BYTE_SECONDS, K_GIVEN_BACK, K_LANE_REQUESTS, K_LINES,
    K_LINES_LOST, K_LOST, K_ORIGINS_IDLE, K_PROXY_HEADERS, K_PYTHON, K_QUESTIONS,
    K_QUESTIONS_OPEN, K_REQUESTS, K_REQUESTS_CUT, K_REUSES, K_ROUTE_HITS, K_SOCKS_REQUESTS,
    METHOD_KINDS, STATUS_KINDS, bucket_bounds, cut_column,
)
from lane.facts cimport stalled_by
from lane.header cimport plain_header
from lane.received cimport replied
from lane.records cimport token_release
from lane.routes cimport address_of
from lane.socks cimport TARGET_ROOM, read_socks_4, read_socks_5
from lane.types cimport (
    BY_FAILURE, CAUSES, CAUSE_WORDS, EVENTS, EVENT_WORDS, Ended, Exchange, Facts, G_BODY,
    G_PARENT, G_REQUEST, G_RESPONSE, G_UNANSWERED, PEER_MAX, P_DIAL, STALLED_WORDS, STALLS, SUM_KINDS,
    Sum, Token, cause_words, event_words, exchange_of, stalled_words, with_origin,
)
from names cimport KIND_NAMES, PHASE_NAMES, QUEUE_NAMES, WAY_FLAG_NAMES

from spliceproxy.relay import checking, columns, interface
from spliceproxy.relay import handoff as given
from spliceproxy.relay import lane as words
from spliceproxy.relay.interface import TransferEnd, TunnelEnd


cdef int agree(str what, object owners, tuple words, int count) except -1:
    """ImportError unless the words of the owner are those of a C enum, in its order."""
    if len(words) != count or owners != words:
        raise ImportError(
            f"the compiled relay was built from other sources: its {what} are {words}, "
            f"{count} in C, and those of spliceproxy.relay are {owners}")
    return 0


agree("reasons", interface.REASONS,
      tuple([reason_words[i].decode() for i in range(REASON_WORDS)]), REASONS)
if len(words.SUMS) != SUM_KINDS:
    raise ImportError(f"the compiled relay has {SUM_KINDS} kinds of sums, not {words.SUMS}")
agree("events", words.EVENTS, tuple([event_words[i].decode() for i in range(EVENT_WORDS)]), EVENTS)
agree("verdicts", words.STALLED,
      tuple([stalled_words[i].decode() for i in range(STALLED_WORDS)]), STALLS)
agree("names", checking.FOUND, tuple([found_words[i].decode() for i in range(FOUND_WORDS)]), FOUNDS)
agree("causes", given.CAUSES, tuple([cause_words[i].decode() for i in range(CAUSE_WORDS)]), CAUSES)


COLUMNS = {
    "bytes": K_BYTES,
    "tunnels_begun": K_TUNNELS_BEGUN,
    "tunnels_ended": K_TUNNELS_ENDED,
    "splice_fallbacks": K_SPLICE_FALLBACKS,
    "urgent_stalls": K_URGENT,
    "pipe_shortages": K_PIPE_STARVED,
    "relay_events": K_EVENTS,
    "relay_guesses": K_GUESSES,
    "relay_steps": K_STEPS,
    "tls_names": K_TLS_NAMES,
    "tunnels": K_TUNNELS,
    "transfers": K_TRANSFERS,
    "pipes": K_PIPES,
    "requests": K_REQUESTS,
    "lane_requests": K_LANE_REQUESTS,
    "requests_cut": K_REQUESTS_CUT,
    "given_back": K_GIVEN_BACK,
    "clients_lost": K_LOST,
    "connections_begun": K_CONNECTIONS_BEGUN,
    "route_hits": K_ROUTE_HITS,
    "questions": K_QUESTIONS,
    "origin_reuses": K_REUSES,
    "dials": K_DIALS,
    "dial_errors": K_DIAL_ERRORS,
    "dial_seconds": K_DIAL_SECONDS,
    "time_to_first_byte_seconds": K_FIRST_BYTE_SECONDS,
    "log_lines_lost": K_LINES_LOST,
    "log_lines": K_LINES,
    "proxy_headers": K_PROXY_HEADERS,
    "socks_requests": K_SOCKS_REQUESTS,
    "connections": K_CLIENTS,
    "questions_open": K_QUESTIONS_OPEN,
    "origin_connections_idle": K_ORIGINS_IDLE,
    "": K_PYTHON,
}
"""The first column of each family that C counts, and the one behind the last of them."""


cdef int agree_on_columns() except -1:
    """ImportError unless the owner has the same columns."""
    cdef dict firsts = {}
    for name, family in columns.FAMILIES.items():
        if name not in COLUMNS:
            firsts[""] = family.first
            break
        firsts[name] = family.first
    bounds = tuple([bucket_bounds[i] for i in range(BUCKETS)])
    cuts = {letter: cut_column(ord(letter)) for letter in columns.ENDED_BY}
    owners = firsts, *(len(columns.METHODS), len(columns.STATUSES), columns.BOUNDS), *(
        len(columns.DIAL_ERRORS), len(columns.HEADERS), columns.CUT_COLUMNS)
    kinds = METHOD_KINDS, STATUS_KINDS, bounds, DIAL_ERRORS, HEADER_RESULTS, cuts
    if owners != (COLUMNS, *kinds):
        raise ImportError(
            "the compiled relay was built from other sources: it counts in other columns than "
            f"spliceproxy.relay.columns: {COLUMNS}, {bounds}; {owners}")
    return 0


agree_on_columns()


cdef tuple names_in(const char *const *names):
    cdef list found = []
    while names[len(found)] != NULL:
        found.append((<const char *>names[len(found)]).decode("ascii"))
    return tuple(found)


NAMES = {
    "Kind": names_in(KIND_NAMES),
    "Queue": names_in(QUEUE_NAMES),
    "Phase": names_in(PHASE_NAMES),
    "Way.flags": names_in(WAY_FLAG_NAMES),
}


cdef object end_of(const Flow *f):
    """How a tunnel or a transfer has ended."""
    cdef const Way *up = &f.way[0]
    cdef const Way *down = &f.way[1]
    if f.kind == TRANSFER:
        return TransferEnd(
            interface.REASONS[f.reason], f.err, up.copied, up.spliced, up.for_target,
            up.for_source)
    return TunnelEnd(
        interface.REASONS[f.reason], f.err, up.copied, up.spliced, down.copied, down.spliced,
        f.info[:f.info_len[0]] if f.info_len[0] else b"",
        f.info[INFO_MAX:INFO_MAX + f.info_len[1]] if f.info_len[1] else b"",
        chr(f.silent) if f.silent else "",
        (down.for_target, down.for_source, up.for_target, down.silent),
        checking.FOUND[f.found],
        f.gate.data[:f.gate.have] if f.reason == R_TLS_NAME and f.gate != NULL else b"",
    )


cdef Token *token_new(NativeRelay relay, object held) except? NULL:
    """With one user, who is the caller; NULL for None."""
    cdef Token *token
    if held is None:
        return NULL
    token = <Token *>malloc(sizeof(Token))
    if token == NULL:
        raise MemoryError
    Py_INCREF(held)
    token.object = <PyObject *>held
    token.users = 1
    token.unused = &relay.state.records.unused
    return token


cdef Ended NOTHING
memset(&NOTHING, 0, sizeof(Ended))


cdef class Ending:
    """How a request in the lane, or the tunnel that it became, has ended: what a record of the
    owner's begins with (LaneOptions.record). Each value is made when somebody looks at it. Those
    that were decided are the token's."""

    cdef Ended *at
    cdef readonly object token

    def __cinit__(self):
        self.at = &NOTHING  # until it has one: anybody may make an empty one
        self.token = UNKNOWN

    cdef void take(self, Ended *e) noexcept:
        """It is this one's from here on."""
        if e.token != NULL:
            self.token = <object>e.token.object
            token_release(e.token)
            e.token = NULL
        self.at = e

    def __dealloc__(self):
        if self.at != &NOTHING:
            free(self.at)

    @property
    def client(self):
        return self.at.client.decode("ascii")

    @property
    def via(self):
        return self.at.via.decode("ascii")

    @property
    def method(self):
        return (<const char *>(self.at + 1))[:self.at.method_size].decode("ascii")

    @property
    def target(self):
        cdef const char *text = <const char *>(self.at + 1) + self.at.method_size + 1
        return text[:self.at.target_size].decode("ascii")

    @property
    def generation(self):
        return self.at.generation

    @property
    def socks(self):
        return self.at.socks

    @property
    def tls_name(self):
        return checking.FOUND[self.at.facts.found]

    @property
    def event(self):
        return words.EVENTS[self.at.event]

    @property
    def lines(self):
        """The lines of the head that follow the first; none where heads are not kept."""
        cdef const char *head = <const char *>(self.at + 1)
        return head[:self.at.head_size].rstrip(b"\r\n").split(b"\r\n")[1:]

    @property
    def peer(self):
        return self.at.peer.decode("ascii")

    @property
    def route(self):
        return self.at.hop.decode("ascii")

    @property
    def connect_by(self):
        if self.at.hop[0] == 0:
            return ""
        return "name" if self.at.by_name else "address"

    @property
    def status(self):
        return self.at.facts.status

    @property
    def content_type(self):
        return self.at.type[:self.at.type_size].decode("latin-1")

    @property
    def reason(self):
        cdef uint8_t reason = self.at.facts.reason
        return "" if reason == R_DONE else interface.REASONS[reason]

    @property
    def started(self):
        return self.at.facts.started / 1e6

    @property
    def seconds(self):
        return self.at.facts.took / 1e6

    @property
    def ended_at(self):
        return self.at.facts.ended / 1e6

    @property
    def bytes_in(self):
        return self.at.facts.received

    @property
    def bytes_out(self):
        return self.at.facts.sent

    @property
    def spliced_in(self):
        return self.at.facts.received_spliced

    @property
    def spliced_out(self):
        return self.at.facts.sent_spliced

    @property
    def number(self):
        return self.at.facts.number

    @property
    def stages(self):
        """Microseconds of question, dns, dial, first byte, and all."""
        cdef const Facts *facts = &self.at.facts
        return facts.question, facts.dns, facts.dial, facts.first_byte, facts.took

    @property
    def termination(self):
        return chr(self.at.facts.by or c'-') + chr(self.at.facts.at or c'-')

    @property
    def stalled(self):
        return words.STALLED[self.at.facts.stalled]

    @property
    def client_leg(self):
        return leg_of(&self.at.facts, 0)

    @property
    def origin_leg(self):
        return leg_of(&self.at.facts, 1)

    @property
    def host(self):
        return self.token.host

    @property
    def port(self):
        return self.token.port

    @property
    def user(self):
        return self.token.user

    @property
    def tags(self):
        return self.token.tags

    @property
    def reported(self):
        return self.token.reported

    @property
    def allowed_by(self):
        return self.token.allowed_by


cdef object sum_made(int kind, const Sum *s):
    """A sum as the owner has it."""
    cdef const char *key = s.item.key
    cdef size_t size = s.item.key_size
    reason = ""
    if kind == BY_FAILURE:
        reason = interface.REASONS[<uint8_t>key[0]]
        key += 1
        size -= 1
    return words.Sum(
        words.SUMS[kind], key[:size] if size else b"", s.requests, s.received, s.sent, reason,
        s.last / 1e6, (<const char *>s.client).decode("ascii"),
        (<const char *>s.peer).decode("ascii"))


cdef object leg_of(const Facts *facts, int s):
    """The values of a TcpInfo (spliceproxy/observe/tcpinfo.py) of a leg, None where it is not
    known."""
    cdef const TcpLeg *leg = &facts.tcp[s]
    if not facts.informed & (1 << s):
        return None
    return (
        leg.rtt, leg.rttvar, leg.retransmits, leg.bytes_acked, leg.bytes_received, leg.min_rtt,
        leg.delivery_rate, leg.busy, leg.rwnd_limited, leg.sndbuf_limited, leg.mss, leg.window,
        leg.bytes_sent, leg.bytes_retrans,
    )


cdef const TcpLeg *leg_from(object info, TcpLeg *leg) except *:
    if info is None:
        return NULL
    leg.busy, leg.rwnd_limited = info.busy_time, info.rwnd_limited
    leg.mss, leg.window = info.mss, info.window
    return leg


def plain_proxy_header(bytes data not None):
    """(size, version, client) of a plain header of the PROXY protocol in front of these bytes, None
    without one; a test compares it with spliceproxy.front.proxy_header."""
    cdef char address[PEER_MAX]
    cdef uint8_t version
    cdef size_t size = plain_header(data, len(data), address, &version)
    return (size, version, address.decode("ascii")) if size else None


def plain_socks(bytes data not None):
    """(size, HOST:PORT) of a plain request of SOCKS in front of these bytes, None without one; a test
    compares it with spliceproxy.socks.reading."""
    cdef char place[TARGET_ROOM]
    cdef char *end = place
    cdef size_t size
    if data[:1] == b"\4":
        size = read_socks_4(data, len(data), &end)
    else:
        size = read_socks_5(data, len(data), &end)
    return (size, place[:end - <char *>place].decode("ascii")) if size else None


def found_of(check, bytes data not None):
    """What these first bytes of a client say, "" while they are too few; a test compares it with
    spliceproxy.relay.portable.gate."""
    cdef NameCheck *made = check_of(check)
    cdef bytes room = bytes(SIGHT)
    cdef char *at = room
    cdef int found = found_in(made, data, min(len(data), <Py_ssize_t>FLIGHT), at)
    check_release(made)
    return checking.FOUND[found]


def judge(waits, client, origin):
    """As observe.stalled.stalled_by, which a test compares with it."""
    cdef TcpLeg legs[2]
    return words.STALLED[stalled_by(
        max(waits.window, 0), waits.client, waits.client_target, waits.origin,
        waits.origin_target, leg_from(client, &legs[0]), leg_from(origin, &legs[1]))]


cdef tuple failures(const Exchange *x):
    """The attempts to connect that have failed: (address, errno) of each."""
    cdef list failed = []
    cdef int i
    for i in range(x.failures):
        address = address_of(x.target, x.failed[i].address).text.decode("ascii")
        failed.append((address, x.failed[i].error))
    return tuple(failed)


cdef bytes owed_of(const Way *w):
    """What has been read for the target, and it has not taken."""
    return w.held[w.held_at:w.held_end] if w.held != NULL else b""


cdef object chunks_of(const Chunks *k, const Way *w):
    """How far a body has come; None if it is not chunked."""
    if not k.on:
        return None
    return given.Chunks(k.rest, k.open != 0, owed_of(w), k.taken)


cdef object begun_of(const Flow *f):
    """The response of which the client has a part."""
    cdef const Exchange *x = exchange_of(f)
    cdef const Way *w = &f.way[1]
    return given.Begun(
        x.status, x.type[:x.type_size].decode("latin-1"), x.close != 0, x.spent == 0,
        w.copied + w.spliced, w.spliced, max(w.left, 0), owed_of(w), chunks_of(&x.down, w))


cdef uint64_t sent_to_client(const Flow *f):
    """What its owner goes on behind: interim responses, or a part of the owner's answer."""
    cdef const Exchange *x = exchange_of(f)
    if x.cause == G_RESPONSE or x.cause == G_UNANSWERED or (
        x.cause == G_REQUEST and x.decided != NULL
    ):
        return f.way[1].copied - replied(x)
    return 0


cdef str via_of(const Exchange *x):
    """A mark and the balancer that has brought a client, "" for none."""
    return x.via.text[:x.via.size].decode("ascii") if x.via != NULL else ""


cdef str route_of_exchange(const Exchange *x):
    """The name of its parent, "" for none."""
    return x.hop.name[:x.hop.size].decode("ascii") if x.hop != NULL else ""


cdef str by_of(const Exchange *x):
    """What its parent is told of the destination, "" for none."""
    if x.hop == NULL:
        return ""
    return "name" if x.hop.by_name else "address"


cdef object handoff_of(Flow *f):
    cdef Exchange *x = exchange_of(f)
    failed = failures(x) if x.phase == P_DIAL and x.failures and x.target != NULL else ()
    return given.Handoff(
        given.CAUSES[x.cause], f.fd[0], x.address.decode("ascii"), x.requests,
        x.data[:x.have] if x.have else b"", x.origin_fd,
        x.answer[:x.answer_size] if x.answer_size else b"", x.peer.decode("ascii"), x.reused,
        x.started / 1e6,
        failed,
        0 if x.up.on else f.way[0].left, sent_to_client(f),
        <object>x.decided.object if x.decided != NULL else None,
        x.number, (x.question, x.dns, x.dial, x.first_byte), f.way[0].spliced,
        (f.way[0].for_source, f.way[1].for_target, f.way[1].for_source, f.way[0].for_target),
        chunks_of(&x.up, &f.way[0]) if with_origin(x.cause) else None,
        begun_of(f) if x.cause == G_BODY else None,
        f.way[0].copied + f.way[0].spliced,
        x.dialling / 1e6 if x.cause == G_REQUEST or x.cause == G_PARENT else 0.0,
        None,  # its sums: only another process has any
        via_of(x), x.socks, x.more, x.spelled,
        "", "", route_of_exchange(x) if failed or x.cause == G_PARENT else "", x.generation,
    )
