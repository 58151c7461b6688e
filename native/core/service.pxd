"""What a flow does at an event: the work of its ways, half-close, reset, end.

The end of a tunnel, by what its sides did (s: one side, o: the other):

    FIN from s            everything from s is sent, then FIN to o; o may go on (Q_HALF)
    FIN from both         both passed on: DONE
    s is closed           what s had sent before is drained and sent to o; when o has
                          acknowledged it all, o is closed: DONE. Over TCP this looks like
                          FIN from s, until something is sent to s
    s fails               what s had sent before is drained and sent to o; nothing more is
                          read from o; when o has acknowledged it all (Q_ACK) o is reset.
                          A reset that overtakes data loses the tail, and a FIN instead
                          would make a cut stream look whole
    both fail             at once, named after the one that failed first
    s is closed, o fails  at once, named after o: what s had sent has not all arrived
    idle, abort           both are reset: no side has ended its stream

After a failure was seen, a read of 0 is no FIN: the kernel reports an error once.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from core cimport linux
from core.gate cimport found_in, gate_free, gate_keep, gate_take, gate_waits
from core.hello cimport FLIGHT
from core.moves cimport (
    DRY, Moved, OVER, SOURCE_FAILED, TARGET_FAILED, drop_pending, pending, send_or_hold, turn,
)
from core.counts cimport K_TLS_NAMES, count_up
from core.queues cimport enter_queue, finish
from core.resets cimport finish_acknowledged
from core.slots cimport slot_free
from core.types cimport (
    Core, ENDED, FIN_SENT, F_LATE, F_MALFORMED, F_MISMATCH, F_NONE, F_NOT_TLS, Flow, Gate,
    Q_FINISHED, Q_HALF, Q_NAME, R_CLIENT_RESET, R_DONE, R_NONE, R_ORIGIN_RESET, R_SOURCE_EOF, R_SOURCE_ERROR,
    R_TARGET_ERROR, R_TLS_NAME, STOPPED, TRANSFER, TUNNEL, UNREGISTERED, Way,
)
from core.waits cimport after_turn, end_wait


cdef inline uint8_t failure_of(const Flow *f, int s) noexcept nogil:
    """The reason that side s has failed."""
    if f.kind == TRANSFER:
        return R_SOURCE_ERROR if s == 0 else R_TARGET_ERROR
    return R_CLIENT_RESET if s == 0 else R_ORIGIN_RESET


cdef inline void side_failed(Core *c, Flow *f, int s, int error) noexcept nogil:
    if f.reason == R_NONE or f.reason == R_DONE:  # R_DONE: the other has left, and that is all
        f.reason = failure_of(f, s)
        f.err = error
    f.dead |= 3 if error == linux.ENOMEM else 1 << s
    f.way[1 - s].flags |= STOPPED
    drop_pending(c, &f.way[1 - s])


cdef inline void serve_way(Core *c, Flow *f, int s, bint readable) noexcept nogil:
    """The turn of the way that starts at side s."""
    cdef Way *w = &f.way[s]
    cdef Moved r
    end_wait(c, w, &f.way[1 - s], f.kind == TRANSFER, f.spoke != s)
    r = turn(c, w, f.fd[s], f.fd[1 - s], readable)
    after_turn(c, w, r)
    if r < DRY:
        f.spoke = <uint8_t>s
    if r == OVER:
        w.flags |= ENDED
    elif r == SOURCE_FAILED:
        w.flags |= ENDED
        side_failed(c, f, s, linux.errno)
    elif r == TARGET_FAILED:
        side_failed(c, f, 1 - s, linux.errno)


# ---- the name inside TLS (gate.pxd) ----------------------------------------------------------


cdef inline void pass_or_refuse(
    Core *c, int32_t slot, uint8_t found, const char *data, size_t n
) noexcept nogil:
    """It is known what the first `n` bytes of a tunnel's client say: they go on, or it has
    finished."""
    cdef Flow *f = &c.flows[slot]
    cdef Gate *g = gate_take(c, slot)
    cdef bint refused = g.check.refused >> found & 1
    f.found = found
    count_up(c, K_TLS_NAMES + 2 * (found - 1) + refused)
    if refused:
        finish(c, slot, R_TLS_NAME)
        if found == F_MISMATCH and (g.have or gate_keep(g, data, min(n, <size_t>FLIGHT))):
            f.gate = g  # whoever is told of it reads the name that was there instead
            return
    elif n > 0:
        f.spoke = 0
        if send_or_hold(c, &f.way[0], f.fd[1], data, n) == TARGET_FAILED:
            side_failed(c, f, 1, linux.errno)
    gate_free(g)


cdef inline void hear_first(Core *c, int32_t slot, const char *data, size_t n) noexcept nogil:
    """The client of a tunnel with a gate has said so much more."""
    cdef Flow *f = &c.flows[slot]
    cdef Gate *g = f.gate
    cdef uint8_t found
    if g.have:
        if not gate_keep(g, data, n):
            side_failed(c, f, 0, linux.ENOMEM)
            return
        data = g.data
        n = g.have
    found = found_in(g.check, data, min(n, <size_t>FLIGHT), c.sight + FLIGHT)
    if found != F_NONE:
        pass_or_refuse(c, slot, found, data, n)
    elif not g.have and not gate_keep(g, data, n):
        side_failed(c, f, 0, linux.ENOMEM)
    else:
        gate_waits(c, slot)


cdef inline void serve_gate(Core *c, int32_t slot) noexcept nogil:
    """The client of a tunnel with a gate has something to say. It may have finished then."""
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[0]
    cdef Gate *g = f.gate
    cdef ssize_t n
    if w.flags & (ENDED | STOPPED):
        return
    end_wait(c, w, &f.way[1], False, f.spoke != 0)
    w.mark = <uint32_t>c.now
    while True:
        n = linux.recv(f.fd[0], c.sight, FLIGHT - g.have, linux.MSG_DONTWAIT)
        if n >= 0 or linux.errno != linux.EINTR:
            break
    if n > 0:
        hear_first(c, slot, c.sight, n)
    elif n == 0:
        pass_or_refuse(c, slot, F_MALFORMED if g.have else F_NOT_TLS, g.data, g.have)
        w.flags |= ENDED
    elif linux.errno != linux.EAGAIN:
        w.flags |= ENDED
        side_failed(c, f, 0, linux.errno)
        gate_free(gate_take(c, slot))


# ---- ends ------------------------------------------------------------------------------------


cdef inline void settle_failed(Core *c, int32_t slot) noexcept nogil:
    """One or both sides of a tunnel have failed."""
    cdef Flow *f = &c.flows[slot]
    cdef int s = 0 if f.dead & 1 else 1
    if f.dead == 3:
        finish(c, slot, f.reason)
    elif f.way[s].flags & ENDED and not pending(&f.way[s]):
        finish_acknowledged(c, slot)
    else:
        if f.queue != Q_HALF:
            f.way[1 - s].active = c.now  # from here on the shorter limit holds
        enter_queue(c, slot, Q_HALF)


cdef inline void settle_tunnel(Core *c, int32_t slot) noexcept nogil:
    """Passes ends on, after a turn."""
    cdef Flow *f = &c.flows[slot]
    cdef Way *w
    cdef int s
    if not f.dead and f.way[0].flags & f.way[1].flags & ENDED:
        if not pending(&f.way[0]) and not pending(&f.way[1]):
            finish(c, slot, R_DONE)  # close(2) passes on what FIN has not been
            return
    if not f.dead:
        for s in range(2):
            w = &f.way[s]
            if w.flags & ENDED and not w.flags & FIN_SENT and not pending(w):
                w.flags |= FIN_SENT
                w.active = c.now  # from here on the shorter limit holds
                if linux.shutdown(f.fd[1 - s], linux.SHUT_WR) < 0:
                    side_failed(c, f, 1 - s, linux.errno)
    if f.dead:
        settle_failed(c, slot)
    elif (f.way[0].flags | f.way[1].flags) & FIN_SENT:
        if f.queue == Q_NAME:
            f.gate.back = Q_HALF
        else:
            enter_queue(c, slot, Q_HALF)


cdef inline void settle_transfer(Core *c, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[0]
    if f.dead & 2:
        finish(c, slot, R_TARGET_ERROR)
    elif pending(w):
        return
    elif w.left == 0 or (w.flags & ENDED and w.left < 0 and not f.dead):
        f.reason = R_NONE
        finish(c, slot, R_DONE)
    elif w.flags & ENDED:
        finish(c, slot, R_SOURCE_ERROR if f.dead else R_SOURCE_EOF)


cdef inline uint32_t wanted(const Flow *f, int s) noexcept nogil:
    """What epoll should watch side s for. Never EPOLLRDHUP: it is level-triggered, and
    would spin while what came before the FIN is still pending."""
    cdef uint32_t mask = 0
    cdef const Way *w = &f.way[s]
    if not w.flags & (ENDED | STOPPED) and not pending(w) and w.left != 0:
        mask |= linux.EPOLLIN
    if pending(&f.way[1 - s]):
        mask |= linux.EPOLLOUT
    return mask


cdef inline int watch(Core *c, int32_t slot, int s, uint32_t mask) noexcept nogil:
    """Makes epoll watch side s for `mask` (UNREGISTERED: not at all); -1 and errno."""
    cdef Flow *f = &c.flows[slot]
    cdef linux.epoll_event event
    cdef int op = linux.EPOLL_CTL_MOD
    if mask == f.mask[s]:
        return 0
    if mask == <uint32_t>UNREGISTERED:
        op = linux.EPOLL_CTL_DEL
    elif f.mask[s] == <uint32_t>UNREGISTERED:
        op = linux.EPOLL_CTL_ADD
    event.events = mask
    event.data.u64 = (<uint64_t>f.generation << 32) | <uint32_t>(slot * 2 + s)
    if linux.epoll_ctl(c.epfd, op, f.fd[s], &event) < 0:
        return -1
    f.mask[s] = mask
    return 0


cdef inline int register_side(Core *c, int32_t slot, int s) noexcept nogil:
    """Side s into epoll; 0 or the error. One that is in it already (a transfer the other way)
    goes in as a dup(2): epoll's key is the descriptor, not the socket."""
    cdef Flow *f = &c.flows[slot]
    cdef int copy
    if watch(c, slot, s, wanted(f, s)) == 0:
        return 0
    if linux.errno != linux.EEXIST or f.kind != TRANSFER:
        return linux.errno
    copy = linux.dup(f.fd[s])
    if copy < 0:
        return linux.errno
    f.fd[s] = copy
    f.dupped |= 1 << s
    return 0 if watch(c, slot, s, wanted(f, s)) == 0 else linux.errno


cdef inline int register_sides(Core *c, int32_t slot) noexcept nogil:
    """Both sides of a new flow into epoll; 0 or the error: then the slot is free, and nothing
    is left behind."""
    cdef Flow *f = &c.flows[slot]
    cdef int error = register_side(c, slot, 0)
    cdef int s
    if error == 0:
        error = register_side(c, slot, 1)
    if error == 0:
        return 0
    for s in range(2):
        if f.mask[s] != <uint32_t>UNREGISTERED:
            watch(c, slot, s, <uint32_t>UNREGISTERED)
        if f.dupped & (1 << s):
            linux.close(f.fd[s])
    slot_free(c, slot)
    return error


cdef inline bint has_left(const Flow *f, int s) noexcept nogil:
    """Side s of a tunnel has said HUP: it has closed its socket, not only its own direction,
    and takes no more. Only Unix sockets tell: over TCP both are a FIN."""
    return (
        f.kind == TUNNEL and not f.dead and f.way[s].flags & ENDED
        and not f.way[1 - s].flags & FIN_SENT
    )


cdef inline void rearm(Core *c, int32_t slot, int hung) noexcept nogil:
    """Makes epoll watch for what is wanted after a turn. `hung` is the side that reported HUP or
    ERR, -1 for none. Epoll cannot mask these. So that side is taken out while nothing of it is
    wanted, and put back later, if only to hear that it has left."""
    cdef Flow *f = &c.flows[slot]
    cdef uint32_t mask
    cdef int s
    for s in range(2):
        mask = wanted(f, s)
        if mask == 0 and s == hung:
            mask = <uint32_t>UNREGISTERED
        elif mask == 0 and f.mask[s] == <uint32_t>UNREGISTERED and not has_left(f, s):
            mask = <uint32_t>UNREGISTERED
        if watch(c, slot, s, mask) < 0:
            side_failed(c, f, s, linux.errno)
            finish(c, slot, f.reason)
            return


cdef inline void settle(Core *c, int32_t slot, int hung) noexcept nogil:
    """What a turn led to: ends passed on, the flow finished, or what to wait for next."""
    cdef Flow *f = &c.flows[slot]
    if f.kind == TUNNEL:
        settle_tunnel(c, slot)
    else:
        settle_transfer(c, slot)
    if f.queue != Q_FINISHED:
        rearm(c, slot, hung)


cdef inline void take_error(Core *c, Flow *f, int s) noexcept nogil:
    """Side s reports an error and there is nothing left to read from it, so nothing else
    would ever find the error. (Before that, asking for it would hide it: SO_ERROR clears.)"""
    cdef int error = 0
    cdef linux.socklen_t size = sizeof(error)
    if linux.getsockopt(f.fd[s], linux.SOL_SOCKET, linux.SO_ERROR, &error, &size) == 0:
        if error != 0:
            side_failed(c, f, s, error)


cdef inline void serve_event(Core *c, int32_t slot, int s, uint32_t events) noexcept nogil:
    """One epoll event. What is pending towards s goes first: it frees pipes."""
    cdef Flow *f = &c.flows[slot]
    cdef bint failed = (events & (linux.EPOLLERR | linux.EPOLLHUP)) != 0
    if (events & linux.EPOLLOUT or failed) and pending(&f.way[1 - s]):
        serve_way(c, f, 1 - s, False)
    if (events & linux.EPOLLIN or failed) and not pending(&f.way[s]):
        if f.gate != NULL and s == 0:
            serve_gate(c, slot)
            if f.queue == Q_FINISHED:
                return
        else:
            serve_way(c, f, s, (events & linux.EPOLLIN) != 0)
    if events & linux.EPOLLERR and not f.dead & (1 << s):
        if f.way[s].flags & (ENDED | STOPPED) and not pending(&f.way[s]):
            take_error(c, f, s)
    if events & linux.EPOLLHUP and has_left(f, s):
        side_failed(c, f, s, 0)
        f.reason = R_DONE
    settle(c, slot, s if failed else -1)


cdef inline void first_late(Core *c, int32_t slot) noexcept nogil:
    """What a client says first is not whole in time."""
    cdef const Gate *g = c.flows[slot].gate
    pass_or_refuse(c, slot, F_LATE, g.data, g.have)
    if c.flows[slot].queue != Q_FINISHED:
        settle(c, slot, -1)
