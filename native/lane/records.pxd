"""Records of exchanges, for whoever wants to know how each of them ends.

A block is made where an exchange begins, so that no memory is wanted where it ends. Then it is
filled in, and waits for the owner, who gets those of a step together (news.pxi). Where nobody wants
records nothing is made.

What was decided about a request is a *token*, an object of the owner's. A route has one for all its
requests. While the owner is asked about a request the question is its token, so that the record of a
client that leaves meanwhile says what was known by then. It has none until the owner is told of it.

Tokens are counted by their users here, in the relay's thread. What nobody uses any more is put
aside until the relay has the GIL.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from core.counts cimport count_up
from http.plain cimport Text
from lane.counts cimport K_LINES_LOST
from lane.line cimport word_at
from lane.types cimport Ended, Exchange, Facts, Lane, PEER_MAX, Records, Token, V_END


cdef inline void token_release(Token *t) noexcept nogil:
    """One user less."""
    if t == NULL:
        return
    t.users -= 1
    if t.users == 0:
        t.next = t.unused[0]
        t.unused[0] = t


cdef inline bint record_begin(Exchange *x, bint heads) noexcept nogil:
    """A request begins, whose head is the first of what was received, and somebody wants to know
    how it ends. Nothing was decided about it. `heads`: with the whole head. False without
    memory."""
    cdef Text method, target
    cdef size_t size
    cdef Ended *e
    method = word_at(x.data)
    target = word_at(x.data + method.size + 1)
    size = x.head if heads else method.size + 1 + target.size
    e = <Ended *>malloc(sizeof(Ended) + size)
    if e == NULL:
        return False
    memcpy(e + 1, x.data, size)
    memcpy(e.client, x.address, PEER_MAX)
    e.via[0] = 0
    if x.via != NULL:
        memcpy(e.via, x.via.text + 1, x.via.size - 1)
        e.via[x.via.size - 1] = 0
    e.method_size = <uint32_t>method.size
    e.target_size = <uint32_t>target.size
    e.head_size = x.head if heads else 0
    e.token = NULL
    x.record = e
    return True


cdef inline void record_free(Ended *e) noexcept nogil:
    token_release(e.token)
    free(e)


cdef inline void record_drop(Exchange *x) noexcept nogil:
    """The owner goes on with the request, or the relay is closed: there is no record."""
    if x.record != NULL:
        record_free(x.record)
        x.record = NULL


cdef inline bint record_for(Exchange *x, Token *token, bint heads) noexcept nogil:
    """The request goes where it was decided, and its record has this token from here on; NULL:
    nobody wants to know how it ends. False without memory."""
    if token == NULL:
        record_drop(x)
        return True
    if x.record == NULL and not record_begin(x, heads):
        return False
    token.users += 1
    token_release(x.record.token)
    x.record.token = token
    return True


cdef inline void record_put(
    Records *records, Ended *e, const Exchange *x, const Facts *facts
) noexcept nogil:
    """It waits for the owner."""
    e.facts = facts[0]
    e.generation = x.generation
    e.socks = x.socks
    e.type_size = x.type_size
    memcpy(e.type, x.type, x.type_size)
    memcpy(e.peer, x.peer, PEER_MAX)
    e.hop[0] = 0
    if x.hop != NULL:
        memcpy(e.hop, x.hop.name, x.hop.size)
        e.hop[x.hop.size] = 0
        e.by_name = x.hop.by_name
    e.next = NULL
    if records.last == NULL:
        records.first = e
    else:
        records.last.next = e
    records.last = e


cdef inline void record_end(Records *records, Exchange *x, const Facts *facts) noexcept nogil:
    """The request, or the tunnel that it became, is over."""
    cdef Ended *e = x.record
    if e == NULL:
        return
    x.record = NULL
    e.event = V_END
    record_put(records, e, x, facts)


cdef inline void record_copy(
    Lane *lane, const Exchange *x, const Facts *facts, uint8_t event
) noexcept nogil:
    """A record of a tunnel that goes on; none without memory, or where nobody wants one."""
    cdef const Ended *own = x.record
    cdef size_t size
    cdef Ended *e
    if own == NULL:
        return
    size = own.head_size if own.head_size else own.method_size + 1 + own.target_size
    e = <Ended *>malloc(sizeof(Ended) + size)
    if e == NULL:
        lane.log.dropped += 1
        count_up(&lane.core, K_LINES_LOST)
        return
    memcpy(e, own, sizeof(Ended) + size)
    if e.token != NULL:
        e.token.users += 1
    e.event = event
    record_put(&lane.records, e, x, facts)


cdef inline Ended *record_take(Records *records) noexcept nogil:
    """The first that the owner has not been told of; NULL without one."""
    cdef Ended *e = records.first
    if e != NULL:
        records.first = e.next
        if e.next == NULL:
            records.last = NULL
    return e
