"""What a rule of check.pxd is made of: how lists are walked, and what is said where a rule does not
hold. A debug build ends the process then (SPLICEPROXY_DEBUG in setup.py)."""

from libc.stdint cimport int32_t, uint32_t, uint8_t

from core.types cimport Core, FREE, IN_QUEUE, List, NOWHERE, Q_FINISHED, UNREGISTERED
from dump cimport Line, describe, line_add
from lane.types cimport Lane

cdef extern from *:
    """
    #ifdef SPLICEPROXY_DEBUG
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    #define CHECKED 1
    void __sanitizer_report_error_summary(const char *text);

    /* Says it wherever somebody may look, and ends the process. */
    static void violated(const char *text) {
        if (write(2, text, strlen(text)) < 0 || write(2, "\\n", 1) < 0) {}
        __sanitizer_report_error_summary(text);
        abort();
    }
    #else
    #define CHECKED 0
    #define violated(text) ((void)(text))
    #endif
    """
    const bint CHECKED
    void violated(const char *text) noexcept nogil


cdef inline void fail(const Lane *lane, const char *rule, int32_t slot) noexcept nogil:
    cdef Line line
    cdef Line text
    text.used = 0
    line.used = 0
    line.text[0] = 0
    if 0 <= slot < lane.core.capacity:
        describe(lane, slot, lane.core.now, &line)
    line_add(&text, "spliceproxy: this must hold: %s; slot %d: %s", rule, <int>slot, line.text)
    violated(text.text)


cdef inline bint has(uint32_t mask, uint32_t event) noexcept nogil:
    """Whether epoll watches for this event."""
    return mask != <uint32_t>UNREGISTERED and mask & event


cdef inline bint is_slot(const Core *c, int32_t slot) noexcept nogil:
    return 0 <= slot < c.capacity


cdef inline int32_t check_list(
    const Lane *lane, const List *items, int which, uint8_t queue, int bucket
) noexcept nogil:
    """Walks a list whose flows are all in `queue` (in its bucket `bucket`, where that is not
    negative); their number."""
    cdef const Core *c = &lane.core
    cdef int32_t slot = items.first
    cdef int32_t before = NOWHERE
    cdef int32_t count = 0
    while slot != NOWHERE:
        if not is_slot(c, slot):
            fail(lane, "a list has slots in it", before)
        count += 1
        if count > c.capacity:
            fail(lane, "a list has an end", slot)
        if c.flows[slot].near[which].prev != before:
            fail(lane, "each neighbour in a list points back", slot)
        if c.flows[slot].kind == FREE:
            fail(lane, "a free slot is in no list", slot)
        if c.flows[slot].queue != queue or (bucket >= 0 and c.flows[slot].bucket != bucket):
            fail(lane, "a flow is in the list of its queue", slot)
        before = slot
        slot = c.flows[slot].near[which].next
    if items.last != before:
        fail(lane, "a list ends at its last flow", before)
    return count


cdef inline int32_t check_chain(const Lane *lane, int32_t slot, bint free_ones) noexcept nogil:
    """Walks the free slots, or finished flows, which are linked one way; their number."""
    cdef const Core *c = &lane.core
    cdef int32_t count = 0
    while slot != NOWHERE:
        if not is_slot(c, slot):
            fail(lane, "a list has slots in it", slot)
        count += 1
        if count > c.capacity:
            fail(lane, "a list has an end", slot)
        if free_ones != (c.flows[slot].kind == FREE):
            fail(lane, "free slots, and they alone, are in the list of the free", slot)
        if not free_ones and c.flows[slot].queue != Q_FINISHED:
            fail(lane, "a flow that is to be reported has finished", slot)
        slot = c.flows[slot].near[IN_QUEUE].next
    return count
