# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, auto_pickle=False
"""The compiled relay: an epoll of its own, C structures, no Python per event.

Theory of operation. The event loop watches `fileno()`. When it is readable the loop calls
`step()`, which serves events in batches without the GIL (step.pxd), each flow for a
bounded number of bytes, and returns what has ended. Epoll is level-triggered: what a turn
leaves over fires again, behind what other flows have to say. An event carries the
generation of its slot, so an event can never reach another flow than its own, though slots
are freed and taken within a batch.

An idle flow is one `Flow` in one array and two descriptors: no pipe, no buffer, no timer.

All of it is one translation unit. The code is in headers (.pxd, `cdef inline ... nogil`), so
that the compiler sees through every call on the way of a byte and inlines what is small; a
module for each would call the others through tables at run time. Nothing outside of this file
and what it includes needs the GIL. From the bottom up:

    core/   flows, their queues, moving bytes; knows no HTTP
    http/   plain heads; knows no flows
    lane/   requests that the relay repeats by itself: adds its kinds to the flows
    step    a batch of events, and what is due; closing, the end of a flow
    here    Python's side: NativeRelay, and by inclusion Reader, NativeLane, what they report and
            what they ask
"""

import warnings

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from core cimport linux
from closing cimport close_finished, finish_all, forget, give_up, lose
from core.counts cimport (
    K_EVENTS, K_PIPE_STARVED, K_SPLICE_FALLBACKS, K_STEPS, K_TUNNELS_BEGUN, K_URGENT,
    bytes_counted, count_up,
)
from core.frozen cimport can_freeze, can_freeze_transfer, freeze, thaw
from core.moves cimport TARGET_FAILED, send_or_hold
from core.pipes cimport pool_empty
from core.gate cimport check_new, check_release, gate_put
from core.queues cimport enter_queue, finish, wheel_change, wheel_init
from core.service cimport hear_first, register_sides, settle, side_failed
from core.slots cimport list_init, slot_free, slot_take, slots_reserve
from core.types cimport (
    AROUND, Core, DOWN, FREE, Flow, Limits, NOWHERE, NameCheck, QUEUES, Q_FINISHED, Q_FROZEN, Q_HALF,
    Q_IDLE, Q_LANE, Q_NAME, Q_YOUNG, R_ABORTED, R_KILLED, R_LIMIT, R_POLICY, SPLICING, STOPPED,
    TRANSFER, TUNNEL,
)
from core.waits cimport begin_wait
from dump cimport Line, describe, describe_all
from lane.counts cimport K_LANE_REQUESTS, given_back_counted, publish
from lane.frozen cimport can_freeze_exchange, thaw_exchange
from lane.notes cimport note_release
from lane.records cimport record_free, record_take
from lane.routes cimport routes_clear, routes_free
from lane.sums cimport sums_free
from lane.types cimport BALANCERS, CLIENT, Hop, Lane, Target, Token
from step cimport clock_ms, next_due, run

from spliceproxy.net import tcp
from spliceproxy.relay import columns, interface, quota
from spliceproxy.relay.interface import RelayStats

YOUNG = 30.0
"""Seconds without a byte after which the origin of a tunnel, or of an exchange, gets TCP
keep-alive."""


cdef enum:
    MOST_COLUMNS = 2048

cdef uint64_t uncounted[MOST_COLUMNS]

cdef NameCheck *check_of(object check) except? NULL:
    """Of one as the owner has it (spliceproxy/relay/checking.py), held once; NULL for None."""
    cdef NameCheck *made
    cdef bytes name
    cdef uint16_t refused
    if check is None:
        return NULL
    name = check.name.encode("ascii")
    refused = check.refused
    if len(name) > 255:
        raise ValueError(f"the name of a host has 255 bytes at most: {check.name!r}")
    made = check_new(name, len(name), refused)
    if made == NULL:
        raise MemoryError
    return made


cdef enum:
    SAID = 64               # targets that are kept
    SAID_HOPS = 8           # parents, likewise


cdef struct Said:           # what was said of a request for this once, and the target made of that
    PyObject *words         # a tuple with all of the following; held
    PyObject *key
    PyObject *host
    PyObject *addresses
    PyObject *source
    PyObject *user
    PyObject *note
    uint16_t port
    Target *target          # held; NULL where nothing has been said


cdef struct SaidHop:        # a parent as the owner has it, and what was made of that
    PyObject *object        # held
    Hop *hop                # held; NULL where nothing has been said


cdef uint64_t *numbers_of(object row) except NULL:
    """The address of a row, which stays where it is for as long as the row is there."""
    cdef Py_buffer buffer
    cdef void *at
    if len(row) != columns.WIDTH or row.format != "Q" or len(row) > MOST_COLUMNS:
        raise ValueError("what is counted into is a row of spliceproxy.relay.columns")
    PyObject_GetBuffer(row, &buffer, PyBUF_WRITABLE)
    at = buffer.buf
    PyBuffer_Release(&buffer)
    return <uint64_t *>at


cdef class NativeRelay:
    """The relay interface over the C core. One event loop, one thread."""

    cdef Lane state
    cdef readonly str engine
    cdef bint closed
    cdef object owner       # of the lane; holds this object, too
    cdef object record      # the class of its records, a subclass of Ending
    cdef int64_t told       # ms, what next_wake said last
    cdef object row         # what is counted: memory of the owner's
    cdef Said said[SAID]    # of the lane
    cdef SaidHop hops[SAID_HOPS]
    cdef object meters      # what limits count, None without any: as Python has it,
    cdef object holding     # and what makes the owner's of what a client holds

    def __cinit__(self, options):
        memset(&self.state, 0, sizeof(Lane))
        self.state.core.epfd = -1
        self.closed = True
        self.told = INT64_MAX
        self.engine = "native"

    def __init__(self, options):
        cdef Core *c = &self.state.core
        if not self.closed or c.row != NULL:
            raise RuntimeError("the relay is open already")
        self.row = columns.private() if options.row is None else options.row
        c.row = numbers_of(self.row)
        self._set_limits()
        c.free = c.finished = c.closed = NOWHERE
        list_init(&c.acking)
        list_init(&self.state.asking)
        list_init(&self.state.live)
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        for queue in range(Q_LANE, QUEUES):
            wheel_init(c, queue, 0)
        wheel_init(c, Q_YOUNG, <int64_t>(min(options.idle, YOUNG) * 1000))
        wheel_init(c, Q_IDLE, <int64_t>(options.idle * 1000))
        wheel_init(c, Q_HALF, <int64_t>(options.half_close * 1000))
        wheel_init(c, Q_NAME, <int64_t>(options.tls_name * 1000))
        c.pool.size, c.pool.limit = quota.affordable(options.shares)
        if options.max_pipes >= 0:
            c.pool.limit = options.max_pipes
        c.limits.crowd = min(<int>interface.CROWD, c.pool.limit - 1)
        c.buffer = <char *>malloc(c.limits.chunk + AROUND)
        c.pool.fds = <int *>calloc(max(c.pool.limit, 1) * 2, sizeof(int))
        if c.buffer == NULL or c.pool.fds == NULL:
            raise MemoryError
        c.epfd = linux.epoll_create1(linux.EPOLL_CLOEXEC)
        if c.epfd < 0:
            PyErr_SetFromErrno(OSError)
        self.closed = False

    cdef _set_limits(self):
        cdef Limits *m = &self.state.core.limits
        m.chunk = interface.CHUNK
        m.bulk_read = interface.BULK_READ
        m.chatty_read = interface.CHATTY_READ
        m.splice_min = interface.SPLICE_MIN
        m.rest = <int64_t>(interface.REST * 1000)
        m.pipe_retry = <int64_t>(quota.RETRY * 1000)
        m.turn_bytes = interface.TURN_BYTES
        m.turn_moves = interface.TURN_MOVES
        m.promote_after = interface.PROMOTE_AFTER
        m.demote_after = interface.DEMOTE_AFTER
        m.crowd_lasts = <int64_t>(interface.CROWD_LASTS * 1000)
        m.narrow_unsent = interface.NARROW_UNSENT
        m.narrow_receive = interface.NARROW_RECEIVE
        m.narrow_read = interface.NARROW_READ
        m.near_us = <uint32_t>(interface.NEAR * 1e6)
        m.step_us = <int64_t>(interface.STEP_SECONDS * 1e6)
        m.ack_poll = <int64_t>(tcp.ACK_POLL * 1000)
        m.ack_patience = <int64_t>(tcp.ACK_PATIENCE * 1000)
        m.probe_idle = tcp.KEEPALIVE_IDLE
        m.probe_interval = tcp.KEEPALIVE_INTERVAL
        m.probe_count = tcp.KEEPALIVE_COUNT

    def __dealloc__(self):
        if not self.closed:
            # Of two that are garbage the row may have gone before its relay.
            self.state.core.row = &uncounted[0]
            self.state.meters.tags = NULL
            warnings.warn("a relay was dropped open", ResourceWarning)
            self._shut()
        free(self.state.core.buffer)
        free(self.state.core.sight)
        free(self.state.core.pool.fds)
        free(self.state.core.flows)
        free(self.state.out)
        free(self.state.established)
        free(self.state.plain.name)
        free(self.state.plain.via)
        free(self.state.log.at)
        sums_free(&self.state.sums)
        note_release(self.state.log.note)
        for i in range(BALANCERS):
            note_release(self.state.balancers[i])
        routes_free(&self.state.routes)
        self._give_up_tokens()

    @property
    def tunnels(self):
        return self.state.core.tunnels

    @property
    def clients(self):
        return self.state.clients

    def lane(self, options, owner):
        return NativeLane(self, options, owner)

    def counting(self, meters, uint32_t row):
        return NativeMeters(meters, row)

    def fileno(self):
        return self.state.core.epfd

    # ---- flows in ------------------------------------------------------------------

    cdef int32_t _slot(self, int a, int b, uint8_t kind) except -1:
        """An empty flow on two descriptors, which are not yet registered."""
        cdef Core *c = &self.state.core
        if self.closed:
            raise RuntimeError("the relay is closed")
        if not slots_reserve(c, 1):
            raise MemoryError
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        return slot_take(c, a, b, kind)

    cdef int _register(self, int32_t slot) except -1:
        """Both descriptors into epoll; OSError where it does not take them."""
        linux.errno = register_sides(&self.state.core, slot)
        if linux.errno:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef object _ident(self, int32_t slot):
        """The id of a flow that has not begun; without memory there is no flow."""
        cdef Core *c = &self.state.core
        try:
            return self._ident_of(slot)
        except BaseException:
            slot_free(c, slot)
            raise

    cdef object _ident_of(self, int32_t slot):
        return (<uint64_t>self.state.core.flows[slot].generation << 32) | <uint32_t>slot

    cdef void _start(self, int32_t slot, object token) noexcept:
        """From here on both descriptors are the relay's: nothing may raise."""
        cdef Core *c = &self.state.core
        cdef Flow *f = &c.flows[slot]
        Py_INCREF(token)
        f.token = <PyObject *>token
        begin_wait(c, &f.way[0])
        begin_wait(c, &f.way[1])
        f.spoke = 1
        if f.kind == TUNNEL:
            c.tunnels += 1
            count_up(c, K_TUNNELS_BEGUN)
        else:
            c.transfers += 1
        enter_queue(c, slot, Q_IDLE)
        publish(&self.state)

    def tunnel(self, int client, int origin, bytes to_origin, bytes to_client, token, check=None):
        cdef Core *c = &self.state.core
        cdef int32_t slot = self._slot(client, origin, TUNNEL)
        ident = self._ident(slot)
        if check is not None:
            self._guard(slot, check)
        self._register(slot)
        self._start(slot, token)
        self._early(slot, 1, to_client)
        self._early(slot, 0, to_origin)
        if c.flows[slot].queue != Q_FINISHED:
            settle(c, slot, -1)
        return ident

    cdef int _guard(self, int32_t slot, check) except -1:
        """A tunnel that has not begun gets a gate; without memory there is no flow."""
        cdef Core *c = &self.state.core
        cdef NameCheck *made = NULL
        cdef bint put = False
        try:
            made = check_of(check)
            put = gate_put(c, &c.flows[slot], made)
            if not put:
                raise MemoryError
        finally:
            check_release(made)
            if not put:
                slot_free(c, slot)
        return 0

    cdef void _early(self, int32_t slot, int s, bytes data) noexcept:
        """Bytes that were read from side s before the relay had it."""
        cdef Core *c = &self.state.core
        cdef Flow *f = &c.flows[slot]
        if not data or f.way[s].flags & STOPPED:
            return
        f.spoke = s == 1 and f.spoke  # the answer to CONNECT is none to the client's bytes
        if s == 0 and f.gate != NULL:
            hear_first(c, slot, data, len(data))
        elif send_or_hold(c, &f.way[s], f.fd[1 - s], data, len(data)) == TARGET_FAILED:
            side_failed(c, f, 1 - s, linux.errno)

    def transfer(self, int source, int target, int64_t length, token, bint to_client=False):
        cdef Core *c = &self.state.core
        cdef int32_t slot = self._slot(source, target, TRANSFER)
        cdef Flow *f = &c.flows[slot]
        ident = self._ident(slot)
        f.way[0].left = length
        f.way[1].flags |= STOPPED
        f.way[0].flags = DOWN if to_client else 0
        if length >= c.limits.splice_min:
            f.way[0].flags |= SPLICING
        self._register(slot)
        self._start(slot, token)
        settle(c, slot, -1)
        return ident

    # ---- flows out -----------------------------------------------------------------

    cdef int32_t _find(self, uint64_t ident) noexcept:
        cdef int32_t slot = <int32_t>(ident & 0x7fffffff)
        if slot < self.state.core.capacity and self.state.core.flows[slot].kind != FREE:
            if self.state.core.flows[slot].generation == ident >> 32:
                return slot
        return NOWHERE

    def cancel(self, uint64_t ident):
        cdef Lane *lane = &self.state
        cdef Core *c = &lane.core
        cdef int32_t slot = self._find(ident)
        if slot == NOWHERE or c.flows[slot].kind != TRANSFER:
            return None
        finish(c, slot, R_ABORTED)
        close_finished(lane)
        end = end_of(&c.flows[slot])
        self._drop(slot)
        return end

    def abort(self, uint64_t ident):
        cdef int32_t slot = self._find(ident)
        if slot != NOWHERE:
            self._look_at_clock()
            self._abort(slot)

    cdef void _look_at_clock(self) noexcept:
        """What a flow waits for now counts until now, though there was no event for long."""
        self.state.core.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)

    cdef void _abort(self, int32_t slot) noexcept:
        cdef const Flow *f = &self.state.core.flows[slot]
        if f.kind == TUNNEL and f.queue != Q_FROZEN:
            finish(&self.state.core, slot, R_ABORTED)

    def flows(self, int most):
        """What is there now, in lists that are made as they are wanted."""
        cdef int32_t slot = 0
        while slot >= 0 and not self.closed:
            found, slot = views_from(self, slot, most)
            yield found

    def progress(self, uint64_t ident):
        cdef int32_t slot = self._find(ident)
        cdef const Flow *f
        if slot == NOWHERE or self.state.core.flows[slot].kind != TUNNEL:
            return None
        f = &self.state.core.flows[slot]
        return (
            f.way[0].copied, f.way[0].spliced, f.way[1].copied, f.way[1].spliced,
            checking.FOUND[f.found])

    def limits(self, double idle, double half_close, double tls_name):
        cdef Core *c = &self.state.core
        if self.closed:
            return
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        wheel_change(c, Q_YOUNG, <int64_t>(min(idle, YOUNG) * 1000))
        wheel_change(c, Q_IDLE, <int64_t>(idle * 1000))
        wheel_change(c, Q_HALF, <int64_t>(half_close * 1000))
        wheel_change(c, Q_NAME, <int64_t>(tls_name * 1000))

    def kill(self, uint64_t ident, str reason not None=interface.KILLED):
        cdef uint8_t why = R_KILLED
        if reason == interface.POLICY or reason == interface.LIMIT:
            why = R_POLICY if reason == interface.POLICY else R_LIMIT
        if self.closed:
            return False
        self._look_at_clock()
        return end_shown(self, ident, why)

    def pace(self, uint64_t ident, uint64_t up, uint64_t down):
        cdef int32_t slot = self._find(ident)
        cdef uint8_t kind = FREE if slot == NOWHERE else self.state.core.flows[slot].kind
        if (kind != TUNNEL and kind != CLIENT) or self.state.core.flows[slot].queue == Q_FINISHED:
            return False
        self._look_at_clock()
        pace(&self.state, slot, up, down)
        return True

    def abort_all(self):
        cdef int32_t slot
        self._look_at_clock()
        for slot in range(self.state.core.capacity):
            self._abort(slot)

    # ---- flows that move (spliceproxy/relay/moving.py) --------------------------------

    def movable(self):
        cdef int32_t slot
        cdef const Flow *f
        cdef list found = []
        for slot in range(self.state.core.capacity):
            f = &self.state.core.flows[slot]
            if can_freeze(f) or can_freeze_exchange(f):
                found.append(self._ident_of(slot))
        return found

    def freeze(self, uint64_t ident):
        cdef int32_t slot = self._find(ident)
        if slot == NOWHERE:
            return None
        if can_freeze(&self.state.core.flows[slot]):
            return frozen_of(self, slot)
        if can_freeze_exchange(&self.state.core.flows[slot]):
            return frozen_exchange(self, slot)
        return None

    def freeze_transfer(self, uint64_t ident):
        cdef int32_t slot = self._find(ident)
        if slot == NOWHERE or not can_freeze_transfer(&self.state.core.flows[slot]):
            return None
        return frozen_transfer(self, slot)

    def thaw(self, uint64_t ident):
        cdef Lane *lane = &self.state
        cdef int32_t slot = self._find(ident)
        if slot == NOWHERE or lane.core.flows[slot].queue != Q_FROZEN:
            return False
        lane.core.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        if lane.core.flows[slot].kind == CLIENT:
            thaw_exchange(lane, slot)
        else:
            thaw(&lane.core, slot)
        close_finished(lane)
        publish(lane)
        return True

    def release(self, uint64_t ident):
        cdef int32_t slot = self._find(ident)
        if slot == NOWHERE or self.state.core.flows[slot].queue != Q_FROZEN:
            return False
        self._give_up(slot)
        publish(&self.state)
        return True

    def adopt(self, state, fds, token):
        return adopted(self, state, fds, token)

    cdef void _give_up(self, int32_t slot) noexcept:
        """Frees a frozen flow, without any effect on its connections."""
        cdef PyObject *token = give_up(&self.state, slot)
        self._give_up_tokens()
        if token != NULL:
            Py_DECREF(<object>token)  # may run anything

    def step(self):
        cdef Lane *lane = &self.state
        if self.closed:
            return []
        with nogil:
            run(lane)
        put_questions(self)
        return news(self)

    def reader(self, report, stuck):
        return Reader(self, report, stuck)

    cdef void _give_up_tokens(self) noexcept:
        """Those that nobody uses any more."""
        cdef Token *token
        while self.state.records.unused != NULL:
            token = self.state.records.unused
            self.state.records.unused = token.next
            held = <object>token.object
            Py_DECREF(held)
            free(token)
            del held  # may run anything

    cdef void _drop(self, int32_t slot) noexcept:
        """Frees a flow of the list of those that are to be reported."""
        cdef PyObject *token = forget(&self.state, slot)
        if token != NULL:
            Py_DECREF(<object>token)  # may run anything

    # ---- the whole -----------------------------------------------------------------

    def next_wake(self):
        cdef Core *c = &self.state.core
        cdef int64_t now
        if c.finished != NOWHERE or c.closed != NOWHERE or self.state.asking.first != NOWHERE:
            return 0.0
        if records_wait(&self.state):
            return 0.0
        self.told = next_due(&self.state)
        if self.told == INT64_MAX:
            return None
        now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        return max(self.told - now, 0) / 1000.0

    def stats(self):
        cdef Lane *lane = &self.state
        cdef Core *c = &lane.core
        return RelayStats(
            c.tunnels, c.transfers, c.pool.lent, c.pool.idle, bytes_counted(c, False),
            bytes_counted(c, True), c.row[K_PIPE_STARVED], c.row[K_SPLICE_FALLBACKS],
            c.row[K_URGENT], c.row[K_EVENTS], c.row[K_STEPS], c.row[K_LANE_REQUESTS],
            given_back_counted(lane),
        )

    def dump(self, int most):
        cdef const Lane *lane = &self.state
        cdef const Core *c = &lane.core
        cdef int64_t now = clock_ms(linux.CLOCK_MONOTONIC)
        cdef Line line
        cdef int32_t slot
        cdef int left = most
        cdef int more = 0
        describe_all(lane, &line)
        cdef list lines = [line.text[:line.used]]
        for slot in range(c.capacity):
            if c.flows[slot].kind == FREE:
                continue
            if left == 0:
                more += 1
                continue
            left -= 1
            describe(lane, slot, now, &line)
            lines.append(line.text[:line.used])
        if more:
            lines.append(b"... %d more" % more)
        return b"\n".join(lines).decode("utf-8", "replace") + "\n"

    def close(self):
        if not self.closed:
            self._shut()

    cdef void _shut(self) noexcept:
        cdef Lane *lane = &self.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        self.closed = True
        self._look_at_clock()
        for slot in range(c.capacity):
            if c.flows[slot].kind != FREE and c.flows[slot].queue == Q_FROZEN:
                self._give_up(slot)  # another may have it
        finish_all(lane)
        while c.closed != NOWHERE:
            slot = c.closed
            if c.flows[slot].kind == CLIENT:
                lose(lane, slot)  # its owner is not told any more
            self._drop(slot)
        while lane.records.first != NULL:
            record_free(record_take(&lane.records))
        if lane.out != NULL:
            routes_clear(&lane.routes)
            forget_said(self)
        self._give_up_tokens()
        pool_empty(c)
        if c.epfd >= 0:
            linux.close(c.epfd)
        c.epfd = -1


include "reader.pxi"
include "meters.pxi"
include "reports.pxi"
include "flows.pxi"
include "moving.pxi"
include "news.pxi"
include "questions.pxi"
include "lane.pxi"
include "rules.pxi"
