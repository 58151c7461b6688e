"""What is known of an exchange when it is over, until the owner takes it for its log."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from core cimport linux
from lane.types cimport Exchange, Lane, PEER_MAX, USER_MAX

cdef enum:
    LOG_BATCH = 256         # entries of which the owner is told anew
    LOG_ROOM = 65536        # bytes to begin with
    LOG_MOST = 8388608      # beyond it entries are dropped; the owner is told how many

cdef struct Entry:          # the target and the content type follow
    int64_t ended           # us, CLOCK_REALTIME
    int64_t took            # us
    uint64_t received       # bytes of the request
    uint64_t sent           # bytes of the response
    uint32_t target_size
    uint16_t status
    uint8_t type_size
    uint8_t method
    uint8_t reason
    char client[PEER_MAX]
    char peer[PEER_MAX]
    char user[USER_MAX]


cdef inline int64_t wall_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline int64_t now_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline bint log_room(Lane *lane, size_t need) noexcept nogil:
    cdef size_t room = lane.log.room if lane.log.room else <size_t>LOG_ROOM
    cdef char *at
    if lane.log.used + need <= lane.log.room:
        return True
    while room < lane.log.used + need:
        room *= 2
    if room > LOG_MOST:
        return False
    at = <char *>realloc(lane.log.at, room)
    if at == NULL:
        return False
    lane.log.at = at
    lane.log.room = room
    return True


cdef inline void log_put(
    Lane *lane, const Exchange *x, uint64_t received, uint64_t sent, uint8_t reason
) noexcept nogil:
    """Notes an exchange, or the tunnel that it became, as over."""
    cdef const char *target = x.data
    cdef size_t target_size = 0
    cdef Entry entry
    cdef size_t size
    if not lane.log.on:
        return
    while target[0] != c' ':  # behind the method
        target += 1
    target += 1
    while target[target_size] != c' ':
        target_size += 1
    size = sizeof(Entry) + target_size + x.type_size
    if not log_room(lane, size):
        lane.log.dropped += 1
        lane.counters.dropped += 1
        return
    entry.ended = wall_us()
    entry.took = now_us() - x.started
    entry.received = received
    entry.sent = sent
    entry.target_size = <uint32_t>target_size
    entry.status = x.status
    entry.type_size = x.type_size
    entry.method = x.method
    entry.reason = reason
    memcpy(entry.client, x.address, PEER_MAX)
    memcpy(entry.peer, x.peer, PEER_MAX)
    memcpy(entry.user, x.user, USER_MAX)
    memcpy(lane.log.at + lane.log.used, &entry, sizeof(Entry))
    memcpy(lane.log.at + lane.log.used + sizeof(Entry), target, target_size)
    memcpy(lane.log.at + lane.log.used + sizeof(Entry) + target_size, x.type, x.type_size)
    lane.log.used += size
    lane.log.count += 1
