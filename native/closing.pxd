"""The end of a flow that has finished: its descriptors are closed, or go back to their owner;
then the owner is told, and its slot is free.

`close_finished` does the first for all of a batch, and puts them into the list of those that are
to be reported. `forget` frees one that has been.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, malloc

from core cimport linux
from core.counts cimport K_TUNNELS_ENDED, count_up
from core.crowd cimport widen
from core.gate cimport check_release, gate_free
from core.moves cimport drop_pending
from core.queues cimport finish
from core.resets cimport reset_on_close
from core.service cimport watch
from core.slots cimport slot_free
from core.types cimport (
    Core, FREE, Flow, INFO_MAX, IN_QUEUE, NARROW, NOWHERE, Q_FINISHED, R_ABORTED, R_DONE,
    R_HALF_CLOSE, R_IDLE, R_TLS_NAME, TRANSFER, TUNNEL, UNREGISTERED,
)
from core.waits cimport end_waits, silent_side
from lane.asking cimport forget_decision
from lane.counts cimport count_lost
from lane.ends cimport give_back, note
from lane.hops cimport hop_release
from lane.live cimport end_life
from lane.log cimport exchange_over
from lane.meters cimport unmetered
from lane.notes cimport note_release
from lane.pacing cimport end_metering
from lane.origins cimport connection_drop, connection_take_out, idle_drop
from lane.records cimport record_drop
from lane.routes cimport let_go
from lane.received cimport received
from lane.sums cimport sum_aside, sum_exchange
from lane.types cimport (
    CLIENT, Exchange, G_CLOSED, LISTENER, Lane, ORIGIN, connection_of, exchange_of, with_origin,
)


cdef inline void read_infos(Flow *f) noexcept nogil:
    """TCP_INFO of both legs, into one block; without memory there is none."""
    cdef int s
    cdef linux.socklen_t size
    f.info = <char *>malloc(2 * INFO_MAX)
    for s in range(2):
        size = INFO_MAX
        f.info_len[s] = 0
        if f.info != NULL and linux.getsockopt(
            f.fd[s], linux.IPPROTO_TCP, linux.TCP_INFO, f.info + s * INFO_MAX, &size
        ) == 0:
            f.info_len[s] = size


cdef inline void release_client(Lane *lane, int32_t slot) noexcept nogil:
    """Closes the client's descriptor, or takes it and its origin's out of epoll."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef int fd
    if x.cause == G_CLOSED:
        lane.clients -= 1  # before its peer can know, who may come again at once
        end_metering(lane, slot)
        linux.close(f.fd[0])
        return
    watch(c, slot, 0, <uint32_t>UNREGISTERED)
    if x.connection != NOWHERE:
        # Both go to their owner, who knows nothing of narrow ways.
        fd = c.flows[x.connection].fd[0]
        if f.way[0].flags & NARROW:
            widen(&f.way[0], f.fd[0], fd)
        if f.way[1].flags & NARROW:
            widen(&f.way[1], fd, f.fd[0])
        x.reused = not connection_of(&c.flows[x.connection]).fresh
        x.origin_fd = connection_take_out(lane, x.connection)
        x.connection = NOWHERE


cdef inline void drop_both(Core *c, Flow *f) noexcept nogil:
    """Forgets what waits to be sent, both ways."""
    drop_pending(c, &f.way[0])
    drop_pending(c, &f.way[1])


cdef inline void release(Lane *lane, int32_t slot) noexcept nogil:
    """Takes a finished flow's descriptors out of epoll: a tunnel's are closed, a
    transfer's go back to their owner."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef int s
    if f.kind == TUNNEL and x != NULL:
        end_life(lane, slot)
    if f.kind == TUNNEL and x != NULL and f.reason != R_TLS_NAME:
        exchange_over(lane, slot, f.reason, 0)
        end_metering(lane, slot)
    elif f.kind == TUNNEL:
        if x != NULL and lane.sums.on:  # its owner tells the rest of it
            sum_exchange(lane, x, received(f), f.way[1].copied + f.way[1].spliced)
            sum_aside(lane, x)
        if x != NULL:
            end_metering(lane, slot)
        end_waits(c, f, False)
        if f.reason == R_IDLE or f.reason == R_HALF_CLOSE:
            f.silent = silent_side(f)
        read_infos(f)
    elif f.kind == TRANSFER:
        end_waits(c, f, True)
    if f.kind != CLIENT or not with_origin(x.cause):
        drop_both(c, f)  # else it goes to the owner
    if f.kind == CLIENT:
        release_client(lane, slot)
        return
    if f.kind == TUNNEL:
        c.ended += 1
        count_up(c, K_TUNNELS_ENDED + f.reason - R_DONE)
    elif f.way[0].flags & NARROW:
        widen(&f.way[0], f.fd[0], f.fd[1])  # they go back to their owner
    for s in range(2):
        if f.kind == TUNNEL:
            if f.reason != R_DONE:
                reset_on_close(f.fd[s])
        elif f.mask[s] != <uint32_t>UNREGISTERED:
            watch(c, slot, s, <uint32_t>UNREGISTERED)
        if f.kind == TUNNEL or f.dupped & (1 << s):
            linux.close(f.fd[s])


cdef inline void close_finished(Lane *lane) noexcept nogil:
    """After a batch: the flows that have finished in it, which can be reported now."""
    cdef Core *c = &lane.core
    cdef int32_t slot
    while c.finished != NOWHERE:
        slot = c.finished
        c.finished = c.flows[slot].near[IN_QUEUE].next
        release(lane, slot)
        c.flows[slot].near[IN_QUEUE].next = c.closed
        c.closed = slot


cdef inline void lose(Lane *lane, int32_t slot) noexcept nogil:
    """Closes a client that was to be given back. A request of its that was read is over."""
    cdef const Flow *f = &lane.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    if x.cause == G_CLOSED:
        return
    if x.uncounted:
        note(lane, slot, R_ABORTED, 0)
    x.cause = G_CLOSED
    count_lost(lane)
    lane.clients -= 1
    linux.close(f.fd[0])
    if x.origin_fd != NOWHERE:
        linux.close(x.origin_fd)


cdef inline void exchange_free(Lane *lane, Exchange *x) noexcept nogil:
    let_go(&lane.routes, x)
    sum_aside(lane, x)
    record_drop(x)
    note_release(x.note)
    note_release(x.via)
    hop_release(x.hop)
    unmetered(lane, x)
    check_release(x.check)
    forget_decision(x)
    free(x.block)
    free(x.answer)
    free(x)


cdef inline void flow_free(Lane *lane, int32_t slot) noexcept nogil:
    """Frees a slot and what hangs on it. Its descriptors have gone, and its token is another's."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    drop_both(c, f)
    free(f.info)
    f.info = NULL
    gate_free(f.gate)
    f.gate = NULL
    if f.attached != NULL:
        exchange_free(lane, exchange_of(f))
    f.attached = NULL
    f.token = NULL
    slot_free(c, slot)


cdef inline PyObject *forget(Lane *lane, int32_t slot) noexcept nogil:
    """Frees a flow of the list of those that are to be reported; returns its token, which the
    caller has to give up."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef int32_t *at = &c.closed
    cdef PyObject *token = f.token
    while at[0] != slot:  # it is the first, but for cancel()
        at = &c.flows[at[0]].near[IN_QUEUE].next
    at[0] = f.near[IN_QUEUE].next
    if f.kind == TUNNEL:
        c.tunnels -= 1
        c.ended -= 1
    elif f.kind == TRANSFER:
        c.transfers -= 1
    elif exchange_of(f).cause != G_CLOSED:
        lane.clients -= 1
    flow_free(lane, slot)
    return token


cdef inline PyObject *give_up(Lane *lane, int32_t slot) noexcept nogil:
    """Closes our copies of what is frozen, and another process goes on with: no reset, no line, no
    record. The descriptors of a transfer are its owner's. Returns its token, which the caller has to give up."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef PyObject *token = f.token
    cdef int s
    if f.kind == TRANSFER:
        if f.way[0].flags & NARROW:
            widen(&f.way[0], f.fd[0], f.fd[1])
        for s in range(2):
            if f.dupped & (1 << s):
                linux.close(f.fd[s])
        c.transfers -= 1
        flow_free(lane, slot)
        return token
    linux.close(f.fd[0])
    if f.kind == CLIENT:
        connection_drop(lane, exchange_of(f).connection)
        exchange_of(f).connection = NOWHERE
        lane.clients -= 1
    else:
        if f.attached != NULL:
            end_life(lane, slot)
        linux.close(f.fd[1])
        c.tunnels -= 1
    flow_free(lane, slot)
    return token


cdef inline void finish_all(Lane *lane) noexcept nogil:
    """Ends every flow, and accepts and keeps nothing any more."""
    cdef Core *c = &lane.core
    cdef int32_t slot
    lane.draining = True
    lane.moving = False
    for slot in range(c.capacity):
        if c.flows[slot].queue == Q_FINISHED:
            continue
        if c.flows[slot].kind == CLIENT:
            give_back(lane, slot, G_CLOSED)
        elif c.flows[slot].kind == LISTENER:
            slot_free(c, slot)
        elif c.flows[slot].kind == ORIGIN:
            if connection_of(&c.flows[slot]).client == NOWHERE:
                idle_drop(lane, slot)
        elif c.flows[slot].kind != FREE:
            finish(c, slot, R_ABORTED)
    close_finished(lane)
