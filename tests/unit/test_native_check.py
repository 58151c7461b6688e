"""native/check.pxd: each rule ends the process where a mistake is planted, and says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_build import ROOT, SECONDS, Project
from test_debug_build import run

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython")

pytestmark = pytest.mark.timeout(SECONDS + 20)

MODULE = """
# cython: language_level=3
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from check cimport check
from core.moves cimport hold
from core.queues cimport enter_queue, wheel_init
from core.service cimport finish
from core.slots cimport list_add, list_init, slot_free, slot_take, slots_reserve
from core.types cimport (
    IN_LANE, IN_QUEUE, NOWHERE, QUEUES, Q_ACK, Q_IDLE, Q_YOUNG, R_DONE, R_NONE, TRANSFER, TUNNEL,
    Way,
)
from http.plain cimport Text
from lane.origins cimport bind, connection_new, idle_put, serve_client
from lane.routes cimport origin_hold, route_put, routes_init, target_new
from lane.types cimport (
    CLIENT, Ended, Exchange, Lane, Origin, PEER_MAX, P_ASK, P_BODY, P_DIAL, P_HEAD, P_WAIT, Q_ASK,
    Q_DIAL, Q_HEAD, Target, Token, connection_of, exchange_of,
)
from lane.waiting cimport begin_waiting

cdef Lane lane
cdef Token token
cdef Ended ended
cdef int fds[8]
cdef char peer[PEER_MAX]


cdef int32_t client() noexcept:
    cdef int32_t slot = slot_take(&lane.core, 100, NOWHERE, CLIENT)
    cdef Exchange *x = <Exchange *>calloc(1, sizeof(Exchange))
    x.connection = x.own = x.origin_fd = NOWHERE
    list_init(&x.attempts)
    lane.core.flows[slot].attached = x
    lane.core.flows[slot].way[0].left = 0
    lane.clients += 1
    enter_queue(&lane.core, slot, Q_HEAD)
    return slot


cdef Target *target(Origin *origin) noexcept:
    # To one address, with room for another.
    cdef Text text
    text.at = "o"
    text.size = 1
    cdef Target *t = target_new(2, text, text)
    origin.holders += 1
    t.origin = origin
    t.count = 1
    return t


def plant(str mistake):
    cdef Way *w
    cdef Origin *served
    cdef Origin *kept
    cdef int32_t slot
    c = &lane.core
    memset(&lane, 0, sizeof(lane))
    memset(peer, 0, PEER_MAX)
    c.free = c.finished = c.closed = NOWHERE
    c.now = 1000
    c.pool.limit = 4
    c.pool.fds = fds
    lane.idle_most = lane.idle_each = 10
    list_init(&c.acking)
    list_init(&lane.asking)
    list_init(&lane.live)
    for queue in range(Q_YOUNG, QUEUES):
        wheel_init(c, queue, 1000)
    routes_init(&lane.routes)
    served = origin_hold(&lane.routes, "served", 6)
    kept = origin_hold(&lane.routes, "kept", 4)
    cdef Target *t = target(served)
    route_put(&lane.routes, "key", 3, t, 1000, 2000)
    slots_reserve(c, 20)
    cdef int32_t tunnel = slot_take(c, 101, 102, TUNNEL)
    cdef int32_t other = slot_take(c, 103, 104, TUNNEL)
    cdef int32_t acking = slot_take(c, 105, 106, TUNNEL)
    c.tunnels = 3
    enter_queue(c, tunnel, Q_YOUNG)
    enter_queue(c, other, Q_YOUNG)
    enter_queue(c, acking, Q_ACK)
    cdef int32_t transfer = slot_take(c, 107, 108, TRANSFER)
    c.transfers = 1
    enter_queue(c, transfer, Q_IDLE)
    w = &c.flows[transfer].way[0]
    w.in_pipe, w.pipe_r, w.pipe_w = 5, 200, 201
    c.pool.lent, c.pool.idle = 1, 1
    fds[0], fds[1] = 202, 203
    cdef int32_t rests = client()
    cdef int32_t waits = client()
    exchange_of(&c.flows[waits]).target = t
    begin_waiting(&lane, waits)
    cdef int32_t asks = client()
    exchange_of(&c.flows[asks]).phase = P_ASK
    enter_queue(c, asks, Q_ASK)
    list_add(c, &lane.asking, IN_LANE, asks)
    cdef int32_t dials = client()
    exchange_of(&c.flows[dials]).target = target(served)
    exchange_of(&c.flows[dials]).begun = 1
    exchange_of(&c.flows[dials]).dialling = 1
    exchange_of(&c.flows[dials]).phase = P_DIAL
    cdef int32_t attempt = connection_new(&lane, 111, served, peer)
    serve_client(&lane, attempt, dials)
    list_add(c, &exchange_of(&c.flows[dials]).attempts, IN_LANE, attempt)
    enter_queue(c, dials, Q_DIAL)
    cdef int32_t works = client()
    cdef int32_t serves = connection_new(&lane, 109, served, peer)
    bind(&lane, works, serves)
    exchange_of(&c.flows[works]).phase = P_WAIT
    enter_queue(c, works, Q_YOUNG)
    memset(&token, 0, sizeof(token))
    memset(&ended, 0, sizeof(ended))
    token.users = 1
    ended.token = &token
    exchange_of(&c.flows[works]).record = &ended
    exchange_of(&c.flows[works]).length = 10
    c.flows[works].way[0].left = 5
    c.flows[works].mask[0] = 1  # EPOLLIN
    cdef int32_t idle = connection_new(&lane, 110, kept, peer)
    c.flows[idle].mask[0] = 1  # EPOLLIN: no system call is made for it
    idle_put(&lane, idle)
    check(&lane)
    print("holds", flush=True)

    if mistake == "a neighbour points elsewhere":
        c.flows[tunnel].near[IN_QUEUE].prev = transfer
    elif mistake == "a list in a circle":
        c.flows[tunnel].near[IN_QUEUE].next = other
        c.flows[tunnel].near[IN_QUEUE].prev = other
        c.flows[other].near[IN_QUEUE].prev = tunnel
    elif mistake == "a list without an end":
        c.wheels[0].bucket[c.flows[tunnel].bucket].last = NOWHERE
    elif mistake == "not in a list":
        c.acking.first = c.acking.last = NOWHERE
    elif mistake == "in the list of another queue":
        c.flows[acking].queue = Q_IDLE
    elif mistake == "a slot freed in its queue":
        slot_free(c, tunnel)
        c.tunnels -= 1
    elif mistake == "a wheel's count":
        c.wheels[0].count += 1
    elif mistake == "finished and not closed":
        finish(c, tunnel, R_DONE)
    elif mistake == "used":
        c.used += 1
    elif mistake == "tunnels":
        c.tunnels -= 1
    elif mistake == "transfers":
        c.transfers += 1
    elif mistake == "ended":
        c.ended += 1
    elif mistake == "clients":
        lane.clients += 1
    elif mistake == "idle connections":
        lane.idle_count += 1
    elif mistake == "an origin's idle connections":
        kept.idle_count += 1
    elif mistake == "an origin's connections in use":
        served.busy += 1
    elif mistake == "an idle connection in no list":
        list_init(&kept.idle)
        kept.idle_count = 0
    elif mistake == "a waiting client in no list":
        list_init(&served.waiting)
    elif mistake == "a question in no list":
        list_init(&lane.asking)
    elif mistake == "a token that nobody has":
        token.users = 0
    elif mistake == "a record without a token":
        ended.token = NULL
    elif mistake == "a token that is given up too soon":
        lane.records.unused = &token
    elif mistake == "a record between two requests":
        exchange_of(&c.flows[rests]).record = &ended
    elif mistake == "a request to be counted between two":
        exchange_of(&c.flows[rests]).uncounted = True
    elif mistake == "a request that was not counted":
        finish(c, rests, R_NONE)
        c.finished = NOWHERE
        c.closed = rests
        lane.clients -= 1
        exchange_of(&c.flows[rests]).uncounted = True
    elif mistake == "bytes behind those of a line":
        exchange_of(&c.flows[works]).up.on = True
        exchange_of(&c.flows[works]).up.rest = -1
        exchange_of(&c.flows[works]).up.kept = 1
        c.flows[works].way[0].left = -1
        exchange_of(&c.flows[works]).block = exchange_of(&c.flows[works]).data = peer
        exchange_of(&c.flows[works]).room = exchange_of(&c.flows[works]).have = 1
    elif mistake == "records without an end":
        lane.records.last = &ended
    elif mistake == "pipes lent":
        c.pool.lent += 1
    elif mistake == "a pipe without bytes":
        w.in_pipe = 0
    elif mistake == "a pipe in two places":
        fds[1] = 201
    elif mistake == "a client without its connection":
        connection_of(&c.flows[serves]).client = rests
    elif mistake == "a phase without a connection":
        exchange_of(&c.flows[works]).connection = NOWHERE
    elif mistake == "a phase in another queue":
        exchange_of(&c.flows[rests]).phase = P_DIAL
    elif mistake == "a target without a use":
        exchange_of(&c.flows[rests]).target = t
    elif mistake == "an address that nobody tries":
        exchange_of(&c.flows[dials]).begun = 0
    elif mistake == "no attempt":
        list_init(&exchange_of(&c.flows[dials]).attempts)
    elif mistake == "the attempt of another":
        connection_of(&c.flows[attempt]).origin = kept
    elif mistake == "a hash":
        served.item.hash += 1
    elif mistake == "the count of a table":
        lane.routes.routes.count += 1
    elif mistake == "an origin that nobody holds":
        served.holders = 0
    elif mistake == "a body without a head":
        c.flows[rests].way[0].left = 5
    elif mistake == "a body of no known length":
        c.flows[rests].way[0].left = -1
    elif mistake == "a body that nobody waits for":
        c.flows[works].mask[0] = 0
    elif mistake == "a body that is read too soon":
        hold(&c.flows[works].way[0], "x", 1)
    elif mistake == "a body that is not sent on":
        hold(&c.flows[works].way[0], "x", 1)
        c.flows[works].mask[0] = 0
    elif mistake == "a free slot with something attached":
        c.flows[c.free].attached = served
    elif mistake == "an event put off twice":
        c.flows[tunnel].put_off = 1
    check(&lane)
    print("went on", flush=True)
"""

SAYS = {
    "a neighbour points elsewhere": "each neighbour in a list points back",
    "a list in a circle": "each neighbour in a list points back",
    "a list without an end": "a list ends at its last flow",
    "not in a list": "a flow in Q_ACK is in the list of it",
    "in the list of another queue": "a flow that is in a queue is in the list of it",
    "a slot freed in its queue": "a free slot is in no list",
    "a wheel's count": "a wheel counts its flows",
    "finished and not closed": "what has finished is closed after a batch",
    "used": "the free slots are those that are not used",
    "tunnels": "tunnels are counted",
    "transfers": "transfers are counted",
    "ended": "tunnels that are closed and not reported are counted",
    "clients": "clients are counted",
    "idle connections": "idle origin connections are counted",
    "an origin's idle connections": "an origin counts its idle connections",
    "an origin's connections in use": "an origin counts its connections in use",
    "an idle connection in no list": "an idle connection is in the list of its origin",
    "a waiting client in no list": "a client that waits is in the list of its origin",
    "a question in no list": "a client whose owner is to be asked is in the list of them",
    "a token that nobody has": "the token of a record has a user",
    "a record without a token": "a record has a token once its owner is asked",
    "a token that is given up too soon": "a token is put aside when nobody uses it",
    "a record between two requests": "a client between two requests has no record",
    "a request to be counted between two": "a client between two requests has none to be counted",
    "a request that was not counted": "a request that is over has been counted",
    "bytes behind those of a line": "what is kept of a request's body is the last that came of it",
    "records without an end": "the list of records ends at its last",
    "pipes lent": "lent pipes are those with bytes in them",
    "a pipe without bytes": "a way has a pipe where bytes are in it",
    "a pipe in two places": "a pipe is in one place",
    "a client without its connection": "a client and its origin connection know each other",
    "a phase without a connection": "a client has an origin connection once it has connected",
    "a phase in another queue": "a client's queue suits its phase",
    "a target without a use": "a client holds its target until there is a connection",
    "an address that nobody tries": "each address that was tried is in work, or has failed",
    "no attempt": "a client has attempts to connect while it is dialling",
    "the attempt of another": "an attempt to connect is its client's",
    "a hash": "an item of a table is in the bucket of its hash",
    "the count of a table": "a table counts its items and their bytes",
    "an origin that nobody holds": "an origin is held",
    "a body without a head": "a body is on its way behind its head",
    "a body of no known length": "what is left of a request's body is known",
    "a body that nobody waits for": "a client that a body is to come from is watched",
    "a body that is read too soon": "nothing is read of a body while some of it waits",
    "a body that is not sent on": "an origin that a body waits for is watched",
    "a free slot with something attached": "a free slot has nothing attached",
    "an event put off twice": "an event is put off once where its flow says so",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("check"))
    project.write("relay.pyx", MODULE)
    result = project.build(SPLICEPROXY_DEBUG="1")
    assert result.returncode == 0, result.stdout + result.stderr
    return project


EACH_IN_A_FORK = """
import os, sys
for number, mistake in enumerate(sys.argv[2:]):
    pid = os.fork()
    if pid == 0:
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), fd)
        _native.plant(mistake)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.rename(f"{sys.argv[1]}/asan.{pid}", f"{sys.argv[1]}/{number}.report")
    assert status != 0, mistake
"""


def test_each_mistake_ends_the_process(built: Project, tmp_path: Path) -> None:
    log = f"detect_leaks=0:handle_abort=1:symbolize=0:log_path={tmp_path}/asan"
    result = run(built, EACH_IN_A_FORK, str(tmp_path), *SAYS, ASAN_OPTIONS=log)
    assert result.returncode == 0, result.stderr
    for number, (mistake, rule) in enumerate(SAYS.items()):
        assert (tmp_path / f"{number}.out").read_text() == "holds\n", mistake
        says = f"this must hold: {rule}; slot "
        assert says in (tmp_path / f"{number}.err").read_text(), mistake
        assert says in (tmp_path / f"{number}.report").read_text(), mistake


def test_right_state_goes_on(built: Project) -> None:
    result = run(built, "_native.plant('')")
    assert (result.returncode, result.stdout) == (0, "holds\nwent on\n"), result.stderr


def test_release_build_checks_nothing(built: Project) -> None:
    """It has not a word of what a rule says."""
    native = pytest.importorskip("spliceproxy.relay._native")
    (debug,) = built.lib.rglob("_native*.so")
    release = Path(native.__file__)
    for rule in {*SAYS.values(), "this must hold"}:
        assert rule.encode() in debug.read_bytes(), rule
        assert rule.encode() not in release.read_bytes(), rule


def test_rules_are_those_of_the_files() -> None:
    """What no mistake here can show is a consequence of another rule, or of a wild slot."""
    texts = [path.read_text() for path in (ROOT / "native").glob("*.pxd")]
    rules = set(re.findall(r'fail\(lane, "([^"]+)"', "".join(texts)))
    assert set(SAYS.values()) <= rules
