"""What epoll would say next, where one tunnel alone has something to say.

In a conversation each side answers the other. Where that has been so for a while, the side whose
turn it is to speak is read without asking epoll. If its answer is there as soon as the message
before it has been sent, as where both are on one processor, it is taken in the same step.

A wrong guess costs a recv(2) that says EAGAIN, which is a third of an epoll_wait(2). Whatever
else is ready waits for BLIND messages at most: epoll is level-triggered, so it wakes the event
loop again.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from core cimport linux
from core.counts cimport K_EVENTS, K_GUESSES, count_up
from core.service cimport serve_event
from core.slots cimport slot_of
from core.types cimport Core, Flow, NOWHERE, SPLICING, TUNNEL

cdef enum:
    SURE = 8                # events in a row that were foreseen, before the first guess
    BLIND = 16              # guesses in a row, until epoll is asked
    VAIN = 32               # second guesses in a row that are wrong, after which there
    PAUSE = 256             # are none for so many steps


cdef inline void foresee(Core *c, uint64_t tag, uint32_t events, bint alone) noexcept nogil:
    """What epoll has said, alone or with more: was it foreseen, and what comes next?"""
    c.guesses = 0
    if not alone or events != linux.EPOLLIN or tag != c.foreseen:
        c.foresight = 0
    elif c.foresight < SURE:
        c.foresight += 1
    c.foreseen = tag ^ 1  # the other side


cdef inline bint hear(Core *c) noexcept nogil:
    """Serves the event that is foreseen, as if epoll had reported it; false if it has not come."""
    cdef uint64_t before
    cdef int s = <int>(c.foreseen & 1)
    cdef int32_t slot = slot_of(c, c.foreseen)
    cdef Flow *f
    if slot == NOWHERE or c.flows[slot].kind != TUNNEL:
        return False
    f = &c.flows[slot]
    if f.mask[s] != <uint32_t>linux.EPOLLIN or f.way[s].flags & SPLICING:
        return False
    before = f.way[s].copied
    serve_event(c, slot, s, linux.EPOLLIN)
    if f.way[s].copied == before:
        return False
    count_up(c, K_EVENTS)
    count_up(c, K_GUESSES)
    c.guesses += 1
    c.foreseen ^= 1
    return True


cdef inline bint guess(Core *c) noexcept nogil:
    """With a foresight of SURE: serves what is foreseen; false if epoll is to be asked."""
    if c.guesses >= BLIND:
        return False
    if not hear(c):
        c.foresight = 0
        return False
    if c.pause > 0:
        c.pause -= 1
        return True
    if c.guesses >= BLIND:
        return True
    if hear(c):
        c.vain = 0
        while c.guesses < BLIND and hear(c):
            pass
        return True
    c.vain += 1
    if c.vain == VAIN:
        c.vain = 0
        c.pause = PAUSE
    return True
