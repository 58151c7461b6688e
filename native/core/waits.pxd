"""What a way waits for, in milliseconds of the coarse clock: for its target, while bytes are
pending; else for its source. A turn that has left bytes at the source for others' sake waits for
nobody.

Silence says little. Up to a second (REST) it is a gap in a flow of bytes. Behind that it counts for the
source only since the other side has spoken last: then an answer is due. The rest is `silent`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from core.moves cimport MORE, Moved, pending
from core.types cimport Core, ENDED, Flow, STOPPED, Way

cdef inline void begin_wait(const Core *c, Way *w) noexcept nogil:
    """From here on it waits."""
    w.mark = <uint32_t>c.now


cdef inline void forget_waits(Way *w) noexcept nogil:
    w.mark = w.for_source = w.for_target = w.silent = 0


cdef inline void end_wait(
    const Core *c, Way *w, const Way *other, bint due, bint asked
) noexcept nogil:
    """A wait is over, or is looked at. `other` is the way back. `due`: more must come of the
    source; `asked`: the other side was the last to say something."""
    cdef uint32_t now = <uint32_t>c.now
    cdef uint32_t span = now - w.mark
    cdef uint32_t owed
    if w.mark == 0:
        return
    w.mark = now
    if pending(w):
        w.for_target += span
    elif due or span <= c.limits.rest:
        w.for_source += span
    else:
        owed = 0
        if asked:
            owed = <uint32_t>min(c.now - other.active, <int64_t>span)
        w.for_source += owed
        w.silent += span - owed


cdef inline void after_turn(const Core *c, Way *w, Moved r) noexcept nogil:
    w.mark = 0 if r == MORE else <uint32_t>c.now


cdef inline void end_waits(const Core *c, Flow *f, bint due) noexcept nogil:
    """Looks at what both ways of a flow wait for now. `due`: as of `end_wait`."""
    cdef Way *w
    cdef int s
    for s in range(2):
        w = &f.way[s]
        if pending(w) or (w.left != 0 and not w.flags & (ENDED | STOPPED)):
            end_wait(c, w, &f.way[1 - s], due, f.spoke != s)


cdef inline uint8_t silent_side(const Flow *f) noexcept nogil:
    """Whose idle limit has ended a tunnel: of who does not take what is pending, or has yet to
    end, or was spoken to last."""
    if pending(&f.way[1]):
        return c'c'
    if pending(&f.way[0]):
        return c's'
    if (f.way[0].flags ^ f.way[1].flags) & ENDED:
        return c's' if f.way[0].flags & ENDED else c'c'
    return c'c' if f.spoke else c's'
