"""The owner's side of the lane: clients in and out, routes, idle connections."""

from os import urandom

from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from core cimport linux
from closing cimport close_finished
from core.queues cimport wheel_change, wheel_init
from core.service cimport watch
from core.slots cimport slot_free, slot_take, slots_reserve
from core.types cimport (
    Core, Flow, IN_LANE, NOWHERE, NameCheck, Q_FINISHED, Q_FROZEN, R_ABORTED, TUNNEL, UNREGISTERED,
)
from http.plain cimport OTHER
from lane.asking cimport end_asking, hold_decision
from lane.clients cimport PROXIED, client_new
from lane.counts cimport DIAL_ERRORS, count_lines
from lane.ends cimport cut, give_back
from lane.facts cimport NUMBER_BITS, leave_stage
from lane.hops cimport hop_new, hop_release
from lane.notes cimport note_new, note_release
from lane.origins cimport (
    connection_new, connection_take_out, idle_drop, idle_oldest, idle_put, idle_use,
)
from lane.records cimport token_release
from lane.request cimport PLAIN_OUT, begin, go_on, start_next
from lane.response cimport refuse
from lane.routes cimport (
    KEY_MAX, TOKEN_MOST, address_of, address_set, group_put, origin_find, origin_hold,
    origin_release, places_forget, route_key, route_put, routes_clear, routes_free, routes_init,
    target_new, target_release,
)
from lane.sums cimport sum_live, sums_clear, sums_free, sums_init
from lane.types cimport (
    BALANCERS, CLIENT, DIALLED, ERRNOS, Ended, Exchange, G_CLOSED, G_HEADER, G_REQUEST, HOP_MAX,
    Holds, Hop, Item, LISTENER, L_JSON, Lane, Log, Meter, Meters, Note, ONLY_HTTP, ONLY_SOCKS, Origin, PEER_MAX,
    P_HEAD, Q_ASK,
    Q_DIAL, Q_HEAD, Q_HEADER, Q_ORIGIN_IDLE, Q_QUEUE, Q_RACE, Routes, SUM_KINDS, Sum, Sums,
    Target, Token, USER_MAX, connection_of, exchange_of,
)
from lane.waiting cimport QUEUE_MS
from step cimport clock_ms

from spliceproxy.net import errnos
from spliceproxy.relay import columns
from spliceproxy.relay import lane as words

cdef enum:
    SUM_SLOTS = 4096        # that are looked at in one call: 0.2 ms


WAYS = {"mixed": 0, "http": ONLY_HTTP, "socks": ONLY_SOCKS}
"""Exchange.ways of a client that has said nothing, by what it may speak."""


cdef Hop *hop_of(object hop) except? NULL:
    """Of one as the owner has it, held once; NULL for None."""
    cdef Hop *made
    cdef bytes name
    cdef int32_t reach_ms
    cdef int sent, granted
    cdef uint8_t by_name
    if hop is None:
        return NULL
    name = hop.name.encode("ascii")
    if not 0 < len(name) <= HOP_MAX:
        raise ValueError(f"the name of a parent has 1 to {HOP_MAX} bytes: {hop.name!r}")
    sent = hop.sent
    granted = hop.granted
    if not (0 < sent < columns.WIDTH and 0 < granted < columns.WIDTH):
        raise ValueError(f"no columns: {sent}, {granted}")
    reach_ms = <int32_t>(hop.seconds * 1000)
    by_name = <uint8_t>bool(hop.by_name)
    made = hop_new(as_text(name))
    if made == NULL:
        raise MemoryError
    made.reach_ms = reach_ms
    made.by_name = by_name
    made.sent, made.granted = <uint16_t>sent, <uint16_t>granted
    return made


cdef Hop *hop_again(NativeRelay relay, object hop) except? NULL:
    """The same: one that was said not long ago is the same again."""
    cdef SaidHop *said
    cdef Hop *made
    if hop is None:
        return NULL
    said = &relay.hops[(<size_t><void *>hop // sizeof(PyObject)) % SAID_HOPS]
    if said.hop == NULL or said.object != <PyObject *>hop:
        made = hop_of(hop)
        hop_forget(said)
        Py_INCREF(hop)
        said.object, said.hop = <PyObject *>hop, made
    said.hop.holders += 1
    return said.hop


cdef void hop_forget(SaidHop *said) noexcept:
    if said.hop != NULL:
        hop_release(said.hop)
        said.hop = NULL
        Py_DECREF(<object>said.object)


cdef void said_forget(Routes *routes, Said *said) noexcept:
    if said.target != NULL:
        target_release(routes, said.target)
        said.target = NULL
        Py_DECREF(<object>said.words)


cdef void forget_said(NativeRelay relay) noexcept:
    """Lets go of the targets and parents that are kept."""
    cdef int i
    for i in range(SAID):
        said_forget(&relay.state.routes, &relay.said[i])
    for i in range(SAID_HOPS):
        hop_forget(&relay.hops[i])


cdef class NativeLane:
    """The lane (exchange.pxd) of a native relay: spliceproxy/relay/lane.py says what each
    method promises."""

    cdef NativeRelay relay

    def __init__(self, NativeRelay relay not None, options, owner):
        cdef Lane *lane = &relay.state
        cdef Core *c = &lane.core
        if lane.out != NULL:
            raise RuntimeError("the relay has a lane already")
        self.relay = relay
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        for queue in (Q_HEAD, Q_ASK, Q_DIAL):
            wheel_init(c, queue, 0)
        wheel_init(c, Q_RACE, <int64_t>(options.race * 1000))
        wheel_init(c, Q_QUEUE, QUEUE_MS)
        wheel_init(c, Q_ORIGIN_IDLE, <int64_t>(options.idle * 1000))
        wheel_init(c, Q_HEADER, <int64_t>(options.header * 1000))
        lane.refusals = words.REFUSALS
        lane.busy_most = words.BUSY
        lane.extra_most = words.EXTRA
        lane.late_ms = <int32_t>(words.LATE * 1000)
        for error in errnos.TRANSIENT:
            lane.transient[<int>error] = True
        lane.idle_most = options.idle_most
        lane.idle_each = options.idle_each
        lane.first_port, lane.last_port = options.ports
        if not routes_init(&lane.routes):
            routes_free(&lane.routes)
            raise MemoryError
        lane.routes.seed = int.from_bytes(urandom(8), "little")
        lane.established = copy_of(options.established)
        lane.established_size = len(options.established)
        set_alphabet(lane)
        set_rules(lane.plain.response, options.response_rules)
        set_rules(lane.plain.schemes, dict.fromkeys(options.schemes, "pass"))
        lane.number = <uint64_t>options.worker << NUMBER_BITS
        for error in range(min(len(options.dial_errors), ERRNOS)):
            if options.dial_errors[error] >= DIAL_ERRORS:
                raise ValueError(f"no Proxy Error Type: {options.dial_errors[error]}")
            lane.dial_errors[<int>error] = options.dial_errors[error]
        self.change(options, 1)
        lane.out = <char *>malloc(PLAIN_OUT)
        if lane.out == NULL:
            raise MemoryError
        relay.owner = owner

    def change(self, options, uint32_t generation, bint rest=False):
        """What these options say of time limits, heads, questions, lines and records holds from
        here on, and what was decided is forgotten. `rest`: exchanges that have no record get a line
        in the form that there was."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        record = Ending if options.record is None else options.record(Ending)
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        if options.sums and not lane.sums.on and not sums_init(&lane.sums):
            sums_free(&lane.sums)
            raise MemoryError
        if options.lines is not None:
            set_line_form(&lane.log, options.lines)
        lane.log.rest = rest and options.lines is None
        lane.log.on = options.lines is not None
        set_name(&lane.plain, options.via, options.name.lower())
        set_rules(lane.plain.request, options.request_rules)
        wheel_change(c, Q_HEAD, <int64_t>(options.head * 1000))
        wheel_change(c, Q_ASK, <int64_t>(options.ask * 1000))
        wheel_change(c, Q_DIAL, <int64_t>(options.dial * 1000))
        wheel_change(c, Q_HEADER, <int64_t>(options.header * 1000))
        lane.recorded = options.record is not None
        self.relay.record = record
        lane.heads = options.heads
        lane.socks = options.socks
        lane.live_ms = <int64_t>(options.live * 1000)
        # As the sums, it is never off again: what began while it was on has an id.
        lane.timed = lane.timed or lane.recorded or lane.log.on or options.sums
        json = lane.log.on and lane.log.form.kind == L_JSON
        if not json:
            lane.log.note_most = options.note_most
        lane.informed = lane.recorded or json
        lane.generation = generation
        self.ask_about(options.asks)
        self.forget()

    def generations(self):
        """Those by which something was decided that goes on."""
        cdef const Core *c = &self.relay.state.core
        cdef const Flow *f
        cdef const Exchange *x
        cdef const Ended *e = self.relay.state.records.first
        cdef uint32_t last = 0
        cdef int32_t slot
        cdef set found = set()
        for slot in range(c.capacity):
            f = &c.flows[slot]
            if f.kind != CLIENT and f.kind != TUNNEL:
                continue
            x = exchange_of(f)
            if x == NULL or (f.kind == CLIENT and x.phase == P_HEAD):
                continue
            if x.generation != last:  # there are few
                last = x.generation
                found.add(last)
        while e != NULL:
            found.add(e.generation)
            e = e.next
        return found

    @property
    def clients(self):
        """Client connections that are here, tunnels not counted."""
        return self.relay.state.clients

    @property
    def idle(self):
        """Idle connections to origins."""
        return self.relay.state.idle_count

    # ---- clients -------------------------------------------------------------------

    def listen(self, int fd, bint proxied=False, str spoken="mixed", uint16_t place=0):
        """Accepts from a listening socket, which stays the owner's."""
        cdef uint8_t ways = WAYS[spoken]
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot
        if not slots_reserve(c, 1):
            raise MemoryError
        self.relay.state.draining = self.relay.state.moving = False
        slot = slot_take(c, fd, NOWHERE, LISTENER)
        c.flows[slot].spoke = ways | (PROXIED if proxied else 0)  # as of is_proxied
        c.flows[slot].outq = place  # as of place_of
        if watch(c, slot, 0, linux.EPOLLIN) < 0:
            slot_free(c, slot)
            PyErr_SetFromErrno(OSError)

    def unlisten(self):
        """Accepts no more, from any socket."""
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot
        for slot in range(c.capacity):
            if c.flows[slot].kind == LISTENER:
                watch(c, slot, 0, <uint32_t>UNREGISTERED)
                slot_free(c, slot)

    def limit(self, int most, int others):
        """Beyond `most` connections (0: no limit) clients are refused; the owner has
        `others` of them."""
        self.relay.state.most = most
        self.relay.state.others = others

    def meter(self, NativeMeters meters not None, holding not None):
        """Requests count for limits from here on."""
        self.relay.meters = meters
        self.relay.holding = holding
        self.relay.state.meters = meters.board

    def admit(self, Question question not None, said):
        """Counts the request of a question for these limits: as of `admitted`."""
        return admitted(self.relay, question, said)

    def watched(self):
        """What is watched for limits: as of `watched_of`."""
        return watched_of(self.relay)

    def grown(self):
        """As of `grown_of`."""
        return grown_of(self.relay)

    def watch_budgets(self):
        """As of `watch_budgets_of`."""
        return watch_budgets_of(self.relay)

    def rest(self):
        """The owner looks at nothing any more."""
        self.relay.state.looking = False

    def hand_over(self, int fd, str address, bytes data, uint32_t requests, str via="",
                  str spoken="http", held=None, uint16_t place=0):
        """Takes a client between two requests. OSError: it is still the owner's."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef char text[PEER_MAX]
        cdef bytes balancer = via.encode("ascii")
        cdef Note *brought_by = NULL
        cdef Holds *holds
        cdef int32_t slot
        cdef Exchange *x
        if self.relay.closed:
            raise RuntimeError("the relay is closed")
        put_text(text, address)
        if len(balancer) > PEER_MAX:
            raise ValueError(f"a mark and more than {PEER_MAX - 1} bytes: {via!r}")
        if balancer:
            brought_by = note_new(as_text(balancer))
            if brought_by == NULL:
                raise MemoryError
        try:
            holds = holds_of(self.relay, held)
        except MemoryError:
            note_release(brought_by)
            raise
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        slot = client_new(lane, fd)
        if slot == NOWHERE:
            note_release(brought_by)
            free(holds)
            PyErr_SetFromErrno(OSError)
        x = exchange_of(&c.flows[slot])
        x.via = brought_by
        x.holds = holds
        x.requests = requests
        x.ways = WAYS[spoken]
        x.place = place
        memcpy(x.address, text, PEER_MAX)
        if data:
            begin(lane, slot, data, len(data))
        close_finished(lane)

    def know(self, str address not None):
        """A balancer may bring clients. Beyond BALANCERS the one that is known longest is not."""
        cdef Lane *lane = &self.relay.state
        cdef Note **place = &lane.balancers[lane.balancer_next]
        cdef bytes text = b"~" + (address.encode("ascii") or b"unix")
        cdef Note *note
        if len(text) > PEER_MAX:
            raise ValueError(f"an address of more than {PEER_MAX - 1} bytes: {address!r}")
        note = note_new(as_text(text))
        if note == NULL:
            raise MemoryError
        note_release(place[0])
        place[0] = note
        lane.balancer_next = (lane.balancer_next + 1) % BALANCERS

    def know_nobody(self):
        """Nobody is known as a balancer any more."""
        cdef int i
        for i in range(BALANCERS):
            note_release(self.relay.state.balancers[i])
            self.relay.state.balancers[i] = NULL

    def forget_places(self):
        """The numbers of places are others from here on."""
        places_forget(&self.relay.state)

    def give_back(self, bint moving=False):
        """Gives back every client that is between two requests, and keeps none again. `moving`:
        the others come back, too, as soon as they have their answers."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        cdef const Exchange *x
        lane.draining = True
        lane.moving = moving
        for slot in range(c.capacity):
            if c.flows[slot].kind == CLIENT and c.flows[slot].queue != Q_FINISHED:
                x = exchange_of(&c.flows[slot])
                if x.phase == P_HEAD:
                    give_back(lane, slot, G_HEADER if x.header else G_REQUEST)
        close_finished(lane)
        self.close_idle()

    def close_clients(self):
        """Closes every client, whatever it is at."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        self.relay._look_at_clock()
        for slot in range(c.capacity):
            if c.flows[slot].kind != CLIENT or c.flows[slot].queue == Q_FINISHED:
                continue
            if c.flows[slot].queue == Q_FROZEN:
                continue
            if exchange_of(&c.flows[slot]).phase == P_HEAD:
                give_back(lane, slot, G_CLOSED)
            else:
                cut(lane, slot, R_ABORTED)
        close_finished(lane)

    # ---- routes --------------------------------------------------------------------

    def add_client(self, str address, str group):
        """A client of this address, which a mark may be in front of, is of this `group`."""
        cdef bytes name = address.encode("ascii")
        cdef bytes shown = group.encode("ascii")
        if len(name) >= PEER_MAX or len(shown) >= PEER_MAX:
            raise ValueError(f"more than {PEER_MAX - 1} bytes: {address!r}, {group!r}")
        if not group_put(&self.relay.state.routes, as_text(name), as_text(shown)):
            raise MemoryError

    def add_route(self, str kind, str group, bytes credentials, bytes authority, bytes key,
                  bytes host, double seconds, tuple addresses, uint16_t port, str source,
                  str user, token=None, bytes note not None=b"", uint16_t decision=0, hop=None,
                  meters=(), check=None):
        """Requests of this kind, group of clients, credentials and authority may go to the
        origin `key` for so many seconds: to one of `addresses`, dialled from `source`. With a
        `hop` these are the parent's, and `host` is the head that asks it."""
        cdef bytes shown = user.encode()
        cdef Target *target
        if len(shown) >= USER_MAX or len(note) > self.relay.state.log.note_most:
            return
        target = self._target(
            key, host, addresses, port, source, shown, note, decision,
            self.relay.state.generation, hop, check)
        try:
            target.token = token_new(self.relay, token)
            if self.relay.meters is not None:
                target.meters = meters_of(meters)
            self._repeat(ord(kind), group, credentials, authority, target, seconds)
        finally:
            target_release(&self.relay.state.routes, target)

    cdef int _repeat(self, uint8_t kind, str group, bytes credentials, bytes authority,
                     Target *target, double seconds) except -1:
        """Makes or renews a route, unless its key is too long, or its token too large."""
        cdef Core *c = &self.relay.state.core
        cdef char text[KEY_MAX]
        cdef bytes name = group.encode("ascii")
        cdef size_t size = route_key(
            text, kind, as_text(name), as_text(credentials), as_text(authority))
        cdef size_t held = 0
        if target.token != NULL:
            held = size_of(<object>target.token.object)
        if target.note != NULL:
            held += sizeof(Note) + target.note.size
        if target.hop != NULL:
            held += sizeof(Hop) + target.hop.size
        if target.meters != NULL:
            held += sizeof(Meters) + target.meters.count * sizeof(Meter)
        if target.check != NULL:
            held += sizeof(NameCheck) + target.check.size
        if size == 0 or held > TOKEN_MOST:
            return 0
        target.size += <uint32_t>held
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        if not route_put(&self.relay.state.routes, text, size, target, c.now,
                         c.now + <int64_t>(seconds * 1000)):
            raise MemoryError
        return 0

    cdef Target *_target(
        self, bytes key, bytes host, tuple addresses, uint16_t port, str source, bytes user,
        bytes note, uint16_t decision, uint32_t generation, hop=None, check=None,
    ) except NULL:
        """Where requests may go, held once. Of more than DIALLED addresses only the first are
        in it. ValueError where there is none, or one is no IP address."""
        cdef Routes *routes = &self.relay.state.routes
        cdef int count = min(len(addresses), DIALLED)
        cdef Target *target
        cdef bytes text
        cdef int i
        if count == 0:
            raise ValueError("no address")
        if decision >= columns.WIDTH:
            raise ValueError(f"no column: {decision}")
        target = target_new(count + 1, as_text(host), as_text(user))
        if target == NULL:
            raise MemoryError
        try:
            for i in range(count):
                text = (<str>addresses[i]).encode("ascii")
                if not address_set(address_of(target, i), text, port):
                    raise ValueError(f"no IP address: {addresses[i]!r}")
            target.count = <uint8_t>count
            target.decision = decision
            target.generation = generation
            if source:
                text = source.encode("ascii")
                if not address_set(address_of(target, count), text, 0):
                    raise ValueError(f"no IP address: {source!r}")
                target.bound = True
            target.origin = origin_hold(routes, key, len(key))
            if target.origin == NULL:
                raise MemoryError
            target.hop = hop_again(self.relay, hop)
            target.check = check_of(check)
            if note:
                target.note = note_new(as_text(note))
                if target.note == NULL:
                    raise MemoryError
        except BaseException:
            target_release(routes, target)
            raise
        return target

    # ---- questions -----------------------------------------------------------------

    def answer(self, Question question not None, str group, bytes key not None,
               bytes host not None, tuple addresses not None, uint16_t port, double seconds,
               str user not None, token, str source not None="",
               double spent=0.0, decided=None, bytes note not None=b"", uint16_t decision=0,
               hop=None, check=None):
        """The request of a question may go to the origin `key`, at one of these addresses; for
        so many seconds others like it may, of clients of this `group`. False where nobody waits
        for that any more."""
        cdef Lane *lane = &self.relay.state
        cdef bytes shown = user.encode() if user else b""
        cdef Target *target
        cdef Token *known
        cdef int32_t slot = question._slot()
        if slot == NOWHERE:
            return False
        if len(shown) >= USER_MAX or len(note) > lane.log.note_most:
            return self.hand_back(question, decided)
        if not slots_reserve(&lane.core, 1):
            raise MemoryError
        known = token_new(self.relay, token)
        target = NULL
        try:
            if seconds > 0 and group is not None:
                target = self._target(
                    key, host, addresses, port, source, shown, note, decision,
                    question.generation, hop, check)
                if known != NULL:
                    known.users += 1
                target.token = known
                target.meters = exchange_of(&lane.core.flows[slot]).meters
                if target.meters != NULL:
                    target.meters.holders += 1
                self._repeat_for(question, group, target, seconds)
            elif hop is not None or check is not None:
                target = self._target(
                    key, host, addresses, port, source, shown, note, decision,
                    question.generation, hop, check)
            else:
                target = self._target_again(
                    key, host, addresses, port, source, shown, note, decision,
                    question.generation)
            exchange_of(&lane.core.flows[slot]).dns = us_of(spent)
            self._decide(slot, decided)
            lane.core.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
            go_on(lane, slot, target, known)
        finally:
            token_release(known)
            if target != NULL:
                target_release(&lane.routes, target)
        return True

    cdef int _repeat_for(
        self, Question question, str group, Target *target, double seconds
    ) except -1:
        """Other requests like that of a question may go there, too."""
        self.add_client(question.name, group)
        named = question.authority
        if question.how == OTHER:
            named = question.method.encode("ascii") + b" " + named  # as with_method has it
        return self._repeat(
            question.asked.kind, group, question.credentials, named, target, seconds)

    cdef Target *_target_again(
        self, bytes key, bytes host, tuple addresses, uint16_t port, str source, bytes user,
        bytes note, uint16_t decision, uint32_t generation,
    ) except NULL:
        """As `_target`, for one request: where the same was said of another one not long ago, it is
        the same target. A route has a target of its own."""
        cdef Said *said = &self.relay.said[(<size_t><void *>key // sizeof(PyObject)) % SAID]
        cdef Target *target = said.target
        if target != NULL and said.key == <void *>key and said.host == <void *>host and (
            said.addresses == <void *>addresses and said.port == port
            and target.decision == decision and target.generation == generation
            and <str>said.source == source and <bytes>said.user == user
            and <bytes>said.note == note
        ):
            target.holders += 1
            return target
        words = key, host, addresses, source, user, note
        target = self._target(
            key, host, addresses, port, source, user, note, decision, generation)
        said_forget(&self.relay.state.routes, said)
        Py_INCREF(words)
        said.words = <PyObject *>words
        said.key, said.host, said.addresses = <PyObject *>key, <PyObject *>host, <PyObject *>addresses
        said.source, said.user, said.note = <PyObject *>source, <PyObject *>user, <PyObject *>note
        said.port = port
        said.target = target
        target.holders += 1
        return target

    def refuse(self, Question question not None, bytes data not None, bint keep, decided=None):
        """Sends an answer of the owner's. Returns how many bytes of it were sent, or -1: as of
        `refuse` of response.pxd, and where nobody waits for it any more."""
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot = question._slot()
        cdef Token *token
        cdef ssize_t sent
        if slot == NOWHERE:
            return -1
        if not slots_reserve(c, 1):
            raise MemoryError
        token = token_new(self.relay, decided)
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        sent = refuse(&self.relay.state, slot, data, len(data), keep, token)
        token_release(token)
        return sent

    def wait(self, Question question not None, decided, noting):
        """Its answer comes later."""
        cdef int32_t slot = question._slot()
        if slot != NOWHERE:
            self._decide(slot, decided)
            question.wait(noting)

    cdef int _decide(self, int32_t slot, decided) except -1:
        """What goes along with a client that is given back."""
        cdef Token *token = token_new(self.relay, decided)
        hold_decision(exchange_of(&self.relay.state.core.flows[slot]), token)
        token_release(token)
        return 0

    def known(self, notes):
        """What is known of a request, as it is in an object with these attributes."""
        return known_of(notes)

    def hand_back(self, Question question not None, decided=None):
        """Its owner goes on with the client of a question. False where nobody waits any more."""
        cdef int32_t slot = question._slot()
        if slot == NOWHERE:
            return False
        self._decide(slot, decided)
        leave_stage(&self.relay.state, exchange_of(&self.relay.state.core.flows[slot]))
        end_asking(&self.relay.state, slot)
        give_back(&self.relay.state, slot, G_REQUEST)
        return True

    def ask_about(self, str kinds not None):
        """The owner answers questions about these kinds of requests, and no others."""
        cdef Lane *lane = &self.relay.state
        memset(lane.asks, 0, sizeof(lane.asks))
        for letter in kinds:
            lane.asks[<unsigned char>ord(letter)] = True

    def forget(self):
        """Forgets every route."""
        routes_clear(&self.relay.state.routes)
        forget_said(self.relay)

    # ---- idle connections ----------------------------------------------------------

    def take(self, bytes key, addresses):
        """(descriptor, address of the peer) of the idle connection used last of those to one
        of `addresses`, or None."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef const Origin *origin = origin_find(&lane.routes, key, len(key))
        cdef int32_t slot, following
        slot = NOWHERE if origin == NULL else origin.idle.first
        while slot != NOWHERE:
            following = c.flows[slot].near[IN_LANE].next
            peer = connection_of(&c.flows[slot]).peer.decode("ascii")
            taken = c.flows[slot].fd[0], peer  # now: behind the next line it must not fail
            if peer in addresses and idle_use(lane, slot):
                connection_take_out(lane, slot)
                return taken
            slot = following
        return None

    def put(self, bytes key, int fd, str peer):
        """Keeps a connection between two messages, or closes it."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef char text[PEER_MAX]
        cdef Origin *origin = NULL
        cdef int32_t slot = NOWHERE
        try:
            put_text(text, peer)
            if not slots_reserve(c, 2):  # one for whoever waits for it, and dials even so
                raise MemoryError
            c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
            origin = origin_hold(&lane.routes, key, len(key))
            if origin != NULL:
                slot = connection_new(lane, fd, origin, text)
            if slot == NOWHERE:
                raise MemoryError
        except BaseException:
            if origin != NULL:
                origin_release(&lane.routes, origin)
            linux.close(fd)
            raise
        connection_of(&c.flows[slot]).probed = True  # by whoever has made it
        idle_put(lane, slot)
        start_next(lane, origin)
        origin_release(&lane.routes, origin)
        close_finished(lane)

    def close_idle(self):
        """Closes every idle connection."""
        cdef Lane *lane = &self.relay.state
        while lane.idle_count > 0:
            idle_drop(lane, idle_oldest(lane))

    def skip(self, uint64_t number):
        """A number that a request of this worker had in another process."""
        cdef Lane *lane = &self.relay.state
        if number >> NUMBER_BITS == lane.number >> NUMBER_BITS:
            lane.number = max(lane.number, number & ~<uint64_t>1)

    # ---- the log -------------------------------------------------------------------

    def take_log(self):
        """The lines that have been made since the last call, and their number."""
        cdef Log *log = &self.relay.state.log
        cdef bytes lines = log.at[:log.used] if log.used else b""
        cdef int count = log.count
        count_lines(&self.relay.state)
        log.used = 0
        log.count = log.counted = 0
        log.told = False
        return lines, count

    # ---- sums ----------------------------------------------------------------------

    def sum_live(self, int32_t slot):
        """Adds up what has not ended, from a slot on; returns the next, -1 behind the last."""
        if self.relay.closed or slot < 0:
            return NOWHERE
        return sum_live(&self.relay.state, slot, SUM_SLOTS)

    def take_sums(self):
        """What has been added up since the last call, and how many sums found no room."""
        cdef Sums *sums = &self.relay.state.sums
        cdef list found = []
        cdef Item *item
        cdef int kind
        cdef uint32_t bucket
        if not sums.on:
            return found, 0
        for kind in range(SUM_KINDS):
            if sums.tables[kind].count == 0:
                continue
            for bucket in range(sums.tables[kind].width):
                item = sums.tables[kind].buckets[bucket]
                while item != NULL:
                    found.append(sum_made(kind, <const Sum *>item))
                    item = item.next
        missed = sums.missed
        sums_clear(sums)
        return found, missed
