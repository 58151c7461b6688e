"""The check of the name inside TLS (spliceproxy/relay/checking.py): a *gate* before the way up of a
tunnel.

What its client says is read and kept until it is known whether that may go on; then it goes on as it
came, and the gate is gone. Nothing else of the tunnel waits for it.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from core.counts cimport K_TLS_NAMES, count_up
from core.hello cimport (
    Bytes, FLIGHT, H_ECH, H_MORE, H_NAMED, H_NOT_TLS, H_NO_NAME, Hello, SIGHT, read_hello,
)
from core.queues cimport enter_queue
from core.types cimport (
    Core, F_ADDRESS, F_ECH, F_MALFORMED, F_MATCH, F_MISMATCH, F_NONE, F_NOT_TLS, F_NO_NAME, Flow,
    Gate, NameCheck, Q_NAME,
)


cdef inline NameCheck *check_new(const char *name, size_t n, uint16_t refused) noexcept nogil:
    """Held once; NULL without memory. A name has 255 bytes at most."""
    cdef NameCheck *check = <NameCheck *>malloc(sizeof(NameCheck) + n)
    if check != NULL:
        check.holders = 1
        check.refused = refused
        check.size = <uint8_t>n
        check.name = <char *>(check + 1)
        memcpy(check.name, name, n)
    return check


cdef inline void check_release(NameCheck *check) noexcept nogil:
    if check == NULL:
        return
    check.holders -= 1
    if check.holders == 0:
        free(check)


cdef inline bint gate_put(Core *c, Flow *f, NameCheck *check) noexcept nogil:
    """A tunnel has a gate from here on, unless its client has asked for an address; false without
    memory."""
    if check.size == 0:
        f.found = F_ADDRESS
        count_up(c, K_TLS_NAMES + 2 * (F_ADDRESS - 1))
        return True
    if c.sight == NULL:
        c.sight = <char *>malloc(SIGHT)
    if c.sight != NULL:
        f.gate = <Gate *>calloc(1, sizeof(Gate))
    if f.gate == NULL:
        return False
    check.holders += 1
    f.gate.check = check
    return True


cdef inline void gate_free(Gate *g) noexcept nogil:
    if g == NULL:
        return
    check_release(g.check)
    free(g.data)
    free(g)


cdef inline Gate *gate_take(Core *c, int32_t slot) noexcept nogil:
    """Takes it away, and its time limit with it. It is the caller's to free."""
    cdef Gate *g = c.flows[slot].gate
    if c.flows[slot].queue == Q_NAME:
        enter_queue(c, slot, g.back)
    c.flows[slot].gate = NULL
    return g


cdef inline void gate_waits(Core *c, int32_t slot) noexcept nogil:
    """Its client has begun to speak: the rest has to come in time."""
    cdef Flow *f = &c.flows[slot]
    if f.gate.since == 0:
        f.gate.since = c.now
        f.gate.back = f.queue
        enter_queue(c, slot, Q_NAME)


cdef inline bint gate_keep(Gate *g, const char *data, size_t n) noexcept nogil:
    """Adds to what was received; false without memory, and nothing has changed."""
    cdef uint32_t room = min(2 * <uint32_t>(g.have + n), <uint32_t>FLIGHT)
    cdef char *block
    if g.room < g.have + n:
        block = <char *>realloc(g.data, room)
        if block == NULL:
            return False
        g.data = block
        g.room = room
    memcpy(g.data + g.have, data, n)
    g.have += <uint32_t>n
    return True


cdef inline bint same_name(const NameCheck *check, Bytes name) noexcept nogil:
    cdef size_t i
    cdef uint8_t b
    if name.size != check.size:
        return False
    for i in range(name.size):
        b = name.at[i]
        if c'A' <= b <= c'Z':
            b += 32
        if b != <uint8_t>check.name[i]:
            return False
    return True


cdef inline uint8_t found_in(
    const NameCheck *check, const char *data, size_t n, char *room
) noexcept nogil:
    """What the first `n` bytes of a client say, FLIGHT at most; F_NONE while that is not known.
    `room`: as of `read_hello`."""
    cdef Bytes name
    cdef Hello hello = read_hello(data, n, room, &name)
    if hello == H_MORE:
        return F_NONE
    if hello == H_NOT_TLS:
        return F_NOT_TLS
    if hello == H_NO_NAME:
        return F_NO_NAME
    if hello != H_NAMED and hello != H_ECH:
        return F_MALFORMED
    if not same_name(check, name):
        return F_MISMATCH
    return F_MATCH if hello == H_NAMED else F_ECH
