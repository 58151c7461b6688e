"""The state of the relay as C structures.

A *flow* is whatever has a slot: a tunnel or a transfer between side 0 (client, or a
transfer's source) and side 1 (origin, or its target), or what the lane adds (lane/types.pxd),
which may have side 0 alone. ``way[s]`` is the direction that starts at side ``s``.

Nothing in this folder knows HTTP, or what the lane is for: it has kinds, queues and a pointer
for each flow left over for it.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NOWHERE = -1            # no slot, no descriptor
    UNREGISTERED = 0xffffffff   # Flow.mask of a descriptor that is not in epoll
    BUCKETS = 64            # a timeout is exact to its 64th part
    BULK_ROOM = 256         # events that are put off
    INFO_MAX = 256          # room for one struct tcp_info
    AROUND = 64             # bytes of the buffer beyond a chunk, for what is written around it
    LANE_QUEUES = 7         # wheels for the lane

cdef enum Kind:
    FREE, TUNNEL, TRANSFER
    LANE_KIND               # the first of the lane's

# Way.flags
cdef enum:
    ENDED = 1               # its source will say no more: FIN, or failed and drained
    FIN_SENT = 2            # FIN passed on to its target
    STOPPED = 4             # nothing is read from its source any more
    SPLICING = 8            # promoted
    COPY_ONLY = 16          # splice does not work here, or stalls
    NARROW = 32             # takes less, because many targets are full (crowd.pxd)
    PROMISED = 64           # its source may still send more than the buffer is to hold

cdef enum:
    DOWN = 128              # Way.flags, too: it leads to a client, for as long as there is the way

# Flow.queue: where a flow waits, and for what
cdef enum Queue:
    Q_NONE
    Q_ACK                   # for a send queue to empty, before its socket is reset
    Q_FINISHED              # to be closed, and then to be reported
    Q_FROZEN                # for its owners to agree which of them goes on (frozen.pxd)
    Q_YOUNG                 # the first of the wheels: moved bytes not long ago
    Q_IDLE
    Q_HALF
    Q_NAME                  # for the rest of a client's first flight (gate.pxd)
    Q_LANE                  # the first of the lane's wheels

cdef enum:
    QUEUES = Q_LANE + LANE_QUEUES
    WHEELS = QUEUES - Q_YOUNG

# Flow.reason: why a flow has ended. Its words are below, in the same order, and those of the
# owner are compared with them (relay.pyx): a new one goes into all three.
cdef enum Reason:
    R_NONE, R_DONE, R_CLIENT_RESET, R_ORIGIN_RESET, R_SOURCE_ERROR, R_TARGET_ERROR,
    R_SOURCE_EOF, R_IDLE, R_TARGET_IDLE, R_HALF_CLOSE, R_ABORTED, R_KILLED,
    R_POLICY, R_TLS_NAME, R_LIMIT,
    REASONS

cdef extern from *:
    """
    static const char *const reason_words[] = {
        "", "done", "client-reset", "origin-reset", "source-error", "target-error",
        "source-eof", "idle-timeout", "target-idle-timeout", "half-close-timeout", "aborted",
        "killed", "policy", "tls-name", "limit",
    };
    #define REASON_WORDS ((int)(sizeof(reason_words) / sizeof(reason_words[0])))
    """
    const char *reason_words[]
    int REASON_WORDS

# Flow.found: what was found of the name inside TLS. As of Reason: the words are below, and the
# owner's are compared with them.
cdef enum Found:
    F_NONE, F_MATCH, F_MISMATCH, F_NO_NAME, F_ECH, F_NOT_TLS, F_MALFORMED, F_LATE, F_ADDRESS,
    FOUNDS

cdef extern from *:
    """
    static const char *const found_words[] = {
        "", "match", "mismatch", "no-name", "ech", "not-tls", "malformed", "late", "address",
    };
    #define FOUND_WORDS ((int)(sizeof(found_words) / sizeof(found_words[0])))
    """
    const char *found_words[]
    int FOUND_WORDS

cdef struct NameCheck:      # what a client must say first; the name follows
    int32_t holders         # gates, and whoever else makes tunnels
    uint16_t refused        # bit n: the tunnel is reset for this Found
    uint8_t size            # of the name; 0: it has asked for an address
    char *name              # canonical, in lower case

cdef struct Gate:           # of a tunnel whose client has not said all of that
    NameCheck *check        # held
    char *data              # received and not sent on, of `room` bytes; NULL without any
    uint32_t have
    uint32_t room
    int64_t since           # ms, when the first byte came; 0: none has
    uint8_t back            # the queue to go back to from Q_NAME

# A flow can be in two lists at a time (slots.pxd): which neighbours are meant.
cdef enum:
    IN_QUEUE                # of its queue
    IN_LANE                 # of the lane, for whatever it likes
    LISTS

cdef struct List:
    int32_t first           # slot, NOWHERE
    int32_t last

cdef struct Neighbours:     # of a flow in a list
    int32_t next
    int32_t prev

cdef struct Way:
    uint64_t copied
    uint64_t spliced
    int64_t left            # bytes still to be read from the source; -1: no end but FIN
    int64_t active          # ms, when a byte or an end last moved
    char *held              # read but not yet sent (only while the target is blocked)
    uint32_t held_at
    uint32_t held_end
    uint32_t in_pipe        # bytes in the lent pipe; 0: there is no pipe
    int32_t pipe_r
    int32_t pipe_w
    uint8_t flags
    uint8_t streak          # bulk reads in a row while copying, chatty ones while splicing
    uint8_t stalls          # readable, yet splice said EAGAIN: an urgent byte?
    uint8_t shrinks_at      # PROMISED: when it has taken so much (crowd.pxd)
    uint8_t paced           # it takes and holds little: bits of why (lane/pacing.pxd)
    uint8_t capped          # its target may be sent so much in a second (SO_MAX_PACING_RATE)
    uint32_t mark           # ms, since when it waits as it does now (waits.pxd); 0: it does not
    uint32_t for_source     # ms that it has waited for bytes that were due
    uint32_t for_target     # ms that it has waited until they were taken
    uint32_t silent         # ms without bytes, of which nobody knows whether they were due

cdef struct Flow:
    int fd[2]
    uint32_t mask[2]        # what epoll watches for
    Way way[2]
    PyObject *token
    void *attached          # what the lane has hung on it, or NULL
    Gate *gate              # of a tunnel, NULL where nothing is asked of its client any more
    char *info              # two struct tcp_info, once finished
    int64_t queued          # ms; Q_ACK: since when the send queue has not shrunk
    uint32_t info_len[2]
    uint32_t generation
    Neighbours near[LISTS]
    int32_t outq            # Q_ACK: bytes in the send queue when last looked at
    int err
    uint8_t kind
    uint8_t queue
    uint8_t bucket          # in its wheel; Q_FROZEN: the queue to go back to
    uint8_t reason
    uint8_t dead            # bit s: side s failed
    uint8_t dupped          # bit s: fd[s] is our own dup(2)
    uint8_t put_off         # bit s: an event of side s is in Core.bulk
    uint8_t spoke           # a tunnel: the side whose bytes were the last
    uint8_t silent          # a tunnel that a time limit has ended: whose it was (waits.pxd)
    uint8_t found           # of the name inside TLS
    uint8_t metered         # a tunnel whose bytes are counted after each turn (lane/pacing.pxd)

cdef struct Wheel:
    int64_t timeout         # ms
    int64_t tick            # ms of one bucket
    int64_t time            # ms, end of the bucket `now`
    int now
    int count
    List bucket[BUCKETS + 2]

cdef struct Pool:
    int size                # bytes that each pipe holds
    int limit
    int lent
    int idle
    int *fds                # idle pipes, a stack of (read end, write end)
    int64_t used            # ms, last lent or returned
    int64_t retry           # ms, no new pipe before: the last one was refused

cdef struct Limits:
    size_t chunk
    ssize_t bulk_read
    ssize_t chatty_read
    int64_t splice_min
    int64_t rest            # ms
    int64_t pipe_retry      # ms, after a refused pipe
    int64_t turn_bytes
    int turn_moves
    int promote_after
    int demote_after
    int64_t step_us
    int crowd               # pipes lent, above which ways are narrow (crowd.pxd)
    int64_t crowd_lasts     # ms, how long they stay so
    int narrow_unsent
    int narrow_receive
    size_t narrow_read
    uint32_t near_us
    int64_t ack_poll        # ms
    int64_t ack_patience    # ms
    int probe_idle          # TCP keep-alive: seconds without a byte before the first probe
    int probe_interval      # seconds between two
    int probe_count         # without an answer, until the connection is dead

cdef struct Event:
    uint64_t tag
    uint32_t events

cdef struct Core:
    int epfd
    char *buffer            # limits.chunk bytes and AROUND, shared by every flow
    char *sight             # SIGHT bytes for what is looked at (hello.pxd), NULL before the first
    Flow *flows
    int32_t capacity
    int32_t used
    int32_t free            # the first free slot; the next is its near[IN_QUEUE].next
    int32_t finished        # the first flow in Q_FINISHED that is to be closed, likewise
    int32_t closed          # the first flow in Q_FINISHED that is to be reported, likewise
    List acking             # the flows in Q_ACK
    int64_t now             # ms
    int64_t moved           # bytes in this round of `run`: at a look, and behind it
    Event bulk[BULK_ROOM]   # put off (bulk.pxd): a ring
    int bulk_at
    int bulk_count
    int64_t ack_next        # ms, next look at the send queues
    int64_t crowd_until     # ms, until when ways are narrow
    uint64_t foreseen       # the tag of the event that comes next (guess.pxd),
    int foresight           # if so many in a row were foreseen
    int guesses             # since epoll was asked
    int vain                # second guesses in a row that were wrong
    int pause               # steps without one
    int tunnels
    int transfers
    int ended               # tunnels that are closed, and not yet reported
    Wheel wheels[WHEELS]    # of Q_YOUNG and what comes behind it
    Pool pool
    uint64_t *row           # what is counted (counts.pxd); the owner's memory
    Limits limits
