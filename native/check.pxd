"""What must hold between two batches of events, looked at after each of them in a debug build
(SPLICEPROXY_DEBUG in setup.py); a release build has nothing of it.

A rule that does not hold ends the process: which rule, which slot, and the line of that slot
go to standard error, and to the report of the sanitizers. The rules:

- Lists are whole: each neighbour points back, each ends at its `last`, and none goes in
  circles. Whatever says that it is in a queue is in the list of that queue, and no list has
  anything else in it; so a free slot is in none but that of the free slots.
- Counters are equal to what is found among the slots.
- A pipe is lent to each way with bytes in one, and to no other; and no descriptor of a pipe is
  in two places.
- A client and its origin connection know each other, and its queue suits its phase. While it
  dials, each address that was tried is in work, or has failed.
- A table counts its items, and an origin is held by whatever leads to it.
- A request's body is on its way only behind its head; whoever has to go on with it, its client or
  its origin, is watched for that. Of a chunked body as much is left as was announced, and behind
  what is kept of a line there is nothing.
- A free slot has nothing attached.
- After so many guesses epoll is asked.
- A way knows whether it goes to the client: its bytes are counted by that.
- Each record has a token that knows of users, once the owner was asked; a client between two
  requests has no record, and no request that has yet to be counted.
- The tunnels that the log has lines about are in their list, the one that is due first last.
"""

from libc.stdint cimport int32_t

from check_core cimport check_counters, check_guesses, check_pipes, check_put_off, check_queues
from check_lane cimport (
    check_asking, check_client, check_lives, check_origins, check_records, check_sums,
)
from core.types cimport Core, DOWN, FREE, Flow, NOWHERE, Q_LANE, Q_NONE, TUNNEL
from lane.types cimport (
    CLIENT, Connection, LISTENER, Lane, ORIGIN, P_DIAL, Q_ORIGIN_IDLE, connection_of,
    exchange_of,
)
from violation cimport fail, is_slot


cdef inline void check_flows(const Lane *lane) noexcept nogil:
    cdef const Core *c = &lane.core
    cdef int32_t slot
    cdef const Flow *f
    cdef const Connection *k
    for slot in range(c.capacity):
        f = &c.flows[slot]
        if (f.kind == TUNNEL or f.kind == CLIENT) and (
            f.way[0].flags & DOWN or not f.way[1].flags & DOWN
        ):
            fail(lane, "a way knows whether it goes to the client", slot)
        if f.kind == FREE:
            if f.attached != NULL or f.token != NULL or f.way[0].held != NULL or (
                f.way[1].held != NULL or f.queue != Q_NONE
            ):
                fail(lane, "a free slot has nothing attached", slot)
        elif f.kind == CLIENT:
            check_client(lane, slot)
        elif f.kind == ORIGIN:
            k = connection_of(f)
            if k == NULL or f.queue != (Q_ORIGIN_IDLE if k.client == NOWHERE else Q_NONE):
                fail(lane, "an origin connection is idle where it serves nobody", slot)
            if k.client != NOWHERE and (
                not is_slot(c, k.client) or c.flows[k.client].kind != CLIENT
                or (exchange_of(&c.flows[k.client]).connection != slot
                    and exchange_of(&c.flows[k.client]).phase != P_DIAL)
            ):
                fail(lane, "an origin connection and its client know each other", slot)
        elif f.kind == LISTENER:
            if f.queue != Q_NONE:
                fail(lane, "a listening socket waits in no queue", slot)
        elif f.queue == Q_NONE or f.queue >= Q_LANE:
            fail(lane, "a tunnel or transfer waits in a queue of its own", slot)


cdef inline void check(const Lane *lane) noexcept nogil:
    """All rules, after a batch."""
    check_flows(lane)
    check_queues(lane)
    check_counters(lane)
    check_origins(lane)
    check_sums(lane)
    check_asking(lane)
    check_pipes(lane)
    check_records(lane)
    check_lives(lane)
    check_put_off(lane)
    check_guesses(lane)
