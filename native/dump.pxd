"""One line of text for each flow, for people: what it is, what it waits for, what it holds.

There is no payload in it, no target, no credential and no user: only addresses.
"""

from libc.stdint cimport int32_t, int64_t

from core.counts cimport K_EVENTS, K_GUESSES, K_STEPS, bytes_counted
from core.queues cimport last_active
from core.types cimport (
    Core, FREE, Flow, Q_FINISHED, REASONS, TRANSFER, TUNNEL, Way, reason_words,
)
from lane.counts cimport K_LANE_REQUESTS, K_LINES_LOST, given_back_counted
from lane.types cimport (
    CAUSES, CLIENT, Connection, Exchange, Lane, ORIGIN, P_DIAL, cause_words, connection_of,
    exchange_of,
)
from names cimport KIND_NAMES, PHASE_NAMES, QUEUE_NAMES, WAY_FLAG_NAMES

cdef extern from *:
    """
    #include <stdarg.h>
    #include <stdio.h>

    typedef struct { size_t used; char text[512]; } Line;

    /* Adds to a line as printf(3) does; what has no room is left out. */
    __attribute__((format(printf, 2, 3)))
    static void line_add(Line *line, const char *format, ...) {
        va_list values;
        int n;
        va_start(values, format);
        n = vsnprintf(line->text + line->used, sizeof(line->text) - line->used, format, values);
        va_end(values);
        if (n > 0)
            line->used += (size_t)n;
        if (line->used >= sizeof(line->text))
            line->used = sizeof(line->text) - 1;
    }
    """
    ctypedef struct Line:
        size_t used
        char text[512]
    void line_add(Line *line, const char *format, ...) noexcept nogil


cdef inline double seconds(int64_t ms) noexcept nogil:
    """An age; the clock of a step is up to a tick behind."""
    return max(ms, 0) / 1000.0


cdef inline double since(int64_t us, int64_t now) noexcept nogil:
    """The age of what began at `us` microseconds; `now`, in ms, may be of the same millisecond."""
    return max(now * 1000 - us, 0) / 1e6


cdef inline const char *either(
    bint first, const char *one, const char *other
) noexcept nogil:
    return one if first else other


cdef inline const char *name_of(const char *const *names, int value) noexcept nogil:
    """A name from a table; "?" for a value that is not in it, which is a mistake of ours."""
    cdef int i = 0
    while names[i] != NULL:
        if i == value:
            return names[i]
        i += 1
    return "?"


cdef inline void describe_way(Line *line, const Way *w, const char *name) noexcept nogil:
    """A way: its flags, the bytes that wait for its target, and those that have moved."""
    cdef const char *gap = ""
    cdef unsigned long long waits = w.in_pipe
    cdef int bit = 0
    line_add(line, " %s(", name)
    while WAY_FLAG_NAMES[bit] != NULL:
        if w.flags & (1 << bit):
            line_add(line, "%s%s", gap, WAY_FLAG_NAMES[bit])
            gap = ","
        bit += 1
    if w.held != NULL:
        waits += w.held_end - w.held_at
    line_add(line, "%swaits=%llu", either(gap[0] != 0, " ", ""), waits)
    if w.left >= 0:
        line_add(line, " left=%lld", <long long>w.left)
    line_add(line, " copied=%llu spliced=%llu)", <unsigned long long>w.copied,
             <unsigned long long>w.spliced)


cdef inline void describe_exchange(
    Line *line, const Exchange *x, int64_t now
) noexcept nogil:
    """What the lane knows of a client, or of the tunnel that it became."""
    line_add(line, " client=%s", either(x.address[0] != 0, x.address, "unix"))
    if x.peer[0]:
        line_add(line, " origin=%s", x.peer)
    if x.connection >= 0:
        line_add(line, " connection=%d", <int>x.connection)
    line_add(line, " requests=%u received=%u", <unsigned int>x.requests, <unsigned int>x.have)
    if x.started:
        line_add(line, " since=%.3f", since(x.started, now))
    if x.phase == P_DIAL and x.target != NULL:
        line_add(line, " tried=%d/%d failed=%d", x.begun, x.target.count, x.failures)
    if x.dialling:
        line_add(line, " dialling=%.3f", since(x.dialling, now))
    if x.close:
        line_add(line, " close")
    if x.spent:
        line_add(line, " spent")
    if x.reused:
        line_add(line, " reused")


cdef inline void describe(
    const Lane *lane, int32_t slot, int64_t now, Line *line
) noexcept nogil:
    """The line of a slot at `now` (ms), without an end of line."""
    cdef const Core *c = &lane.core
    cdef const Flow *f = &c.flows[slot]
    cdef const Connection *k
    line.used = 0
    line.text[0] = 0
    line_add(line, "%d %s queue=%s", <int>slot, name_of(KIND_NAMES, f.kind),
             name_of(QUEUE_NAMES, f.queue))
    if f.kind == FREE:
        return
    if f.kind == CLIENT and f.attached != NULL:
        line_add(line, " phase=%s", name_of(PHASE_NAMES, exchange_of(f).phase))
    line_add(line, " fd=%d", f.fd[0])
    if f.kind == TUNNEL or f.kind == TRANSFER:
        line_add(line, ",%d", f.fd[1])
        describe_way(line, &f.way[0], either(f.kind == TUNNEL, "up", "way"))
    if f.kind == TUNNEL:
        describe_way(line, &f.way[1], "down")
    elif f.kind == CLIENT:
        if f.way[0].copied or f.way[0].spliced or f.way[0].left:
            describe_way(line, &f.way[0], "body")
        describe_way(line, &f.way[1], "answer")
    if f.kind == ORIGIN and f.attached != NULL:
        k = connection_of(f)
        line_add(line, " origin=%s", k.peer)
        if k.client >= 0:
            line_add(line, " client=%d since=%.3f", <int>k.client, seconds(now - k.since))
        if k.fresh:
            line_add(line, " fresh")
        if k.probed:
            line_add(line, " probed")
    elif f.attached != NULL:
        describe_exchange(line, exchange_of(f), now)
    line_add(line, " rests=%.3f", seconds(now - last_active(f)))
    if f.dead:
        line_add(line, " dead=%d error=%d", <int>f.dead, f.err)
    if f.put_off:
        line_add(line, " put-off=%d", <int>f.put_off)
    if f.queue == Q_FINISHED:
        if f.reason < REASONS:
            line_add(line, " reason=%s", reason_words[f.reason])
        if f.kind == CLIENT and f.attached != NULL and exchange_of(f).cause < CAUSES:
            line_add(line, " cause=%s", cause_words[exchange_of(f).cause])


cdef inline void describe_all(const Lane *lane, Line *line) noexcept nogil:
    """The counters."""
    cdef const Core *c = &lane.core
    line.used = 0
    line.text[0] = 0
    line_add(line, "native: slots=%d/%d tunnels=%d transfers=%d clients=%d idle-origins=%d",
             <int>c.used, <int>c.capacity, c.tunnels, c.transfers, lane.clients, lane.idle_count)
    line_add(line, " routes=%d groups=%d origins=%d put-off=%d pipes=%d+%d/%d",
             <int>lane.routes.routes.count, <int>lane.routes.groups.count,
             <int>lane.routes.origins.count, c.bulk_count, c.pool.lent, c.pool.idle, c.pool.limit)
    line_add(line, " copied=%llu spliced=%llu events=%llu guesses=%llu steps=%llu",
             <unsigned long long>bytes_counted(c, False),
             <unsigned long long>bytes_counted(c, True),
             <unsigned long long>c.row[K_EVENTS], <unsigned long long>c.row[K_GUESSES],
             <unsigned long long>c.row[K_STEPS])
    line_add(line, " exchanges=%llu given-back=%llu log-dropped=%llu",
             <unsigned long long>c.row[K_LANE_REQUESTS],
             <unsigned long long>given_back_counted(lane),
             <unsigned long long>c.row[K_LINES_LOST])
    if lane.draining:
        line_add(line, " draining")
