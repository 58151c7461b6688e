"""What a client has said and nobody has consumed: the head in work, and what follows it.

Bounded: nothing more is read while PIPELINED bytes follow the head in work, and what is
consumed is stepped over, not moved, but for what follows a body. So a client that sends requests and reads no answer
fills the buffers of the kernel, not this one.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from core.moves cimport unpipe
from core.types cimport Core, Flow, Way
from lane.types cimport Exchange, GREETED, exchange_of

cdef enum:
    PIPELINED = 65536       # bytes behind the head in work, beyond which nothing is read
    RESUME = 32768          # bytes, below which more is read
    FULL = 73728            # PIPELINED and a head (plain.PLAIN_HEAD)


cdef inline size_t room_left(const Exchange *x) noexcept nogil:
    """How many bytes may still be read behind the head in work."""
    cdef size_t behind = x.have - x.head
    return PIPELINED - behind if behind < PIPELINED else 0


cdef inline bint keep(Exchange *x, const char *data, size_t n) noexcept nogil:
    """Adds to what was received; false without memory, and nothing has changed."""
    cdef char *block
    cdef size_t size
    if n == 0:
        return True
    if x.block == NULL or x.block + x.room < x.data + x.have + n:
        # Most clients send one request at a time: a first part has no room for a second.
        size = x.have + n
        if x.have and size < FULL:
            size = min(2 * size, <size_t>FULL)
        block = <char *>malloc(size)
        if block == NULL:
            return False
        if x.have:
            memcpy(block, x.data, x.have)
        free(x.block)
        x.block = x.data = block
        x.room = <uint32_t>size
    memcpy(x.data + x.have, data, n)
    x.have += <uint32_t>n
    return True


cdef inline size_t body_at_hand(const Exchange *x) noexcept nogil:
    """How many bytes of the request's body are behind its head."""
    cdef size_t behind = x.have - x.head
    if x.length <= 0:
        return 0
    return behind if <int64_t>behind < x.length else <size_t>x.length


cdef inline void drop_body(Exchange *x, size_t n) noexcept nogil:
    """The first `n` bytes behind the head are on their way. The head stays for the log, and for
    whoever goes on with its answer."""
    x.have -= <uint32_t>n
    if x.have > x.head:
        memmove(x.data + x.head, x.data + x.head + n, x.have - x.head)


cdef inline uint64_t head_received(const Exchange *x) noexcept nogil:
    """Bytes that the head in work has had when it came."""
    return <uint64_t>(<int64_t>x.head + x.more)


cdef inline uint64_t replied(const Exchange *x) noexcept nogil:
    """Bytes that the client has been sent before there was a request."""
    return 2 if x.ways & GREETED else 0


cdef inline uint64_t received(const Flow *f) noexcept nogil:
    """Bytes of the request that is on its way, or of the tunnel that it became, as they came."""
    cdef const Exchange *x = exchange_of(f)
    if x.up.on:
        return x.head + x.up.taken
    return head_received(x) + f.way[0].copied + f.way[0].spliced


cdef inline bint put_back(Exchange *x, const char *data, size_t n) noexcept nogil:
    """Puts what came first of the body before the rest of it, behind the head; false without
    memory, and nothing has changed."""
    cdef char *block
    if n == 0:
        return True
    block = <char *>malloc(x.have + n)
    if block == NULL:
        return False
    memcpy(block, x.data, x.head)
    memcpy(block + x.head, data, n)
    memcpy(block + x.head + n, x.data + x.head, x.have - x.head)
    free(x.block)
    x.block = x.data = block
    x.room = x.have = <uint32_t>(x.have + n)
    return True


cdef inline bint reclaim(Core *c, Flow *f) noexcept nogil:
    """Puts what was read of the request's body and not sent back behind its head; false without
    memory. What was framed anew stays in Way.held, to be sent before anything else; so does what
    is held of the response."""
    cdef Exchange *x = exchange_of(f)
    cdef Way *w = &f.way[0]
    cdef size_t n
    if (w.in_pipe and not unpipe(c, w)) or (f.way[1].in_pipe and not unpipe(c, &f.way[1])):
        return False
    if x.up.on:
        if not put_back(x, x.up.line, x.up.kept):
            return False
        x.up.kept = 0
        return True
    if w.held == NULL:
        return True
    n = w.held_end - w.held_at
    if not put_back(x, w.held + w.held_at, n):
        return False
    free(w.held)
    w.held = NULL
    w.left += n
    return True


cdef inline void consume(Exchange *x) noexcept nogil:
    """The head in work is done with."""
    x.data += x.head
    x.have -= x.head
    x.head = 0
    if x.have == 0:
        free(x.block)
        x.block = x.data = NULL
        x.room = 0


cdef inline void keep_head(Exchange *x) noexcept nogil:
    """Forgets all but the head in work, and gives back the room for it: a tunnel may last, and
    the log will want its target."""
    cdef char *block
    if x.room == x.head:
        return
    if x.data != x.block:
        memmove(x.block, x.data, x.head)
    x.data = x.block
    x.have = x.head
    block = <char *>realloc(x.block, x.head)
    if block != NULL:
        x.block = x.data = block
        x.room = x.head
