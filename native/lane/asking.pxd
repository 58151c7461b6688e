"""Questions: a plain request without a route waits while the owner says where it may go.

    P_HEAD ── no route ──► P_ASK ── go on ──────► an idle connection, P_DIAL or P_QUEUE
                             ├───── send this ──► P_HEAD, or the client is closed
                             └───── hand over ──► the owner goes on

The owner is told of all questions of a step together, and answers most of them at once. It is
told where a client leaves while it waits, and asked nothing about an exchange that is over: a
question is known by its slot, generation and number of its request.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from core.counts cimport count_up
from core.queues cimport enter_queue
from core.slots cimport list_add, list_take
from core.types cimport Core, FREE, IN_LANE, NOWHERE, Q_FINISHED
from http.plain cimport Head, Text
from lane.counts cimport K_QUESTIONS
from lane.notes cimport take_note
from lane.records cimport token_release
from lane.sums cimport sum_user
from lane.types cimport (
    CLIENT, Exchange, Lane, Part, P_ASK, P_HEAD, Q_ASK, Token, exchange_of,
)


cdef inline Part part_of(const Exchange *x, Text text) noexcept nogil:
    cdef Part part
    part.at = <uint16_t>(text.at - x.data) if text.size else 0
    part.size = <uint16_t>text.size
    return part


cdef inline bint may_ask(
    const Lane *lane, const Head *head, uint8_t kind
) noexcept nogil:
    """Whether the owner answers such questions. A Host that is not written as the authority is
    left to its parser."""
    if not lane.asks[kind]:
        return False
    return head.authority.size == 0 or (
        head.authority.size == head.host.size
        and memcmp(head.authority.at, head.host.at, head.host.size) == 0
    )


cdef inline void hold_decision(Exchange *x, Token *decided) noexcept nogil:
    """What the owner has said about the request in work, for whoever goes on with it."""
    if decided != NULL:
        decided.users += 1
    token_release(x.decided)
    x.decided = decided


cdef inline void forget_decision(Exchange *x) noexcept nogil:
    """The request is over, or nobody will go on with it."""
    token_release(x.decided)
    x.decided = NULL


cdef inline void begin_asking(
    Lane *lane, int32_t slot, const Head *head, uint8_t kind
) noexcept nogil:
    """The head is the first of what was kept of the client."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    x.asked.authority = part_of(x, head.authority if head.authority.size else head.host)
    x.asked.path = part_of(x, head.path)
    x.asked.credentials = part_of(x, head.credentials)
    x.asked.kind = kind
    x.asked.told = False
    sum_user(lane, x, b"")
    x.user[0] = 0
    take_note(x, NULL)
    x.phase = P_ASK
    count_up(c, K_QUESTIONS)
    list_add(c, &lane.asking, IN_LANE, slot)
    c.flows[slot].way[1].active = c.now
    enter_queue(c, slot, Q_ASK)


cdef inline void tell_asked(Lane *lane, int32_t slot) noexcept nogil:
    """The owner has the question."""
    list_take(&lane.core, &lane.asking, IN_LANE, slot)
    exchange_of(&lane.core.flows[slot]).asked.told = True


cdef inline void end_asking(Lane *lane, int32_t slot) noexcept nogil:
    """There is an answer."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    if not x.asked.told:
        list_take(&lane.core, &lane.asking, IN_LANE, slot)
    x.asked.told = False
    x.phase = P_HEAD


cdef inline int32_t open_question(
    const Core *c, int32_t slot, uint32_t generation, uint32_t number
) noexcept nogil:
    """The slot of the client that still waits for an answer to this question, NOWHERE where
    none does."""
    cdef const Exchange *x
    if slot >= c.capacity or c.flows[slot].kind != CLIENT:
        return NOWHERE
    if c.flows[slot].generation != generation or c.flows[slot].queue == Q_FINISHED:
        return NOWHERE
    x = exchange_of(&c.flows[slot])
    if x.phase != P_ASK or not x.asked.told or x.requests != number:
        return NOWHERE
    return slot


cdef inline bint left_asking(const Lane *lane, int32_t slot) noexcept nogil:
    """Whether a finished client's owner has to be told that its question needs no answer."""
    cdef const Exchange *x = exchange_of(&lane.core.flows[slot])
    return x.phase == P_ASK and x.asked.told
