"""The state of the lane: requests that the relay repeats by itself.

The lane adds three kinds to the flows of the relay, with side 0 alone: a listening socket, a
client, and a connection to an origin. A client and an origin connection know the slot of the
other while one serves the other. What is known of each hangs on its flow: an Exchange on that
of a client, also when it has become a tunnel; a Connection on that of an origin connection.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from core.tcpinfo cimport TcpLeg
from core.types cimport Core, Flow, LANE_KIND, List, NameCheck, Q_LANE
from http.chunks cimport Chunks
from http.plain cimport Plain

cdef enum:
    USER_MAX = 64           # of a user's name, with a NUL
    PEER_MAX = 46           # an IPv6 address as text, likewise
    TYPE_MAX = 64           # of a Content-Type
    HOP_MAX = 64            # of the name of a parent proxy
    ADDRESS_MAX = 28        # struct sockaddr_in6
    PLACE_UNKNOWN = 0xfff   # as of UNKNOWN_PLACE of spliceproxy/policy/networks.py
    PLACE_TEXT = 4          # of a place in front of a client's name
    ERRNOS = 256            # more than there are errno
    BALANCERS = 16          # that are known at a time
    BATCH = 32              # events taken from epoll at a time (step.pxd)
    DIALLED = 8             # addresses of one target that are dialled here
    SECOND_TEXT = 19        # of a time without its fraction
    TIME_IS_UP = -1         # stands for an errno where our limit ended an attempt to connect
    # Slots that are reserved before a batch. An event opens two connections at most: where an
    # exchange ends, for a client that waits and for the next request. An attempt to connect
    # that follows another is begun at an event of its own, or by the clock.
    RESERVE = 2 * BATCH

# Flow.kind
cdef enum:
    LISTENER = LANE_KIND
    CLIENT
    ORIGIN                  # an origin connection

# Flow.queue: wheels of the lane, LANE_QUEUES of them
cdef enum:
    Q_HEAD = Q_LANE         # a client between two requests
    Q_ASK                   # one whose owner is asked where it may go
    Q_DIAL                  # one whose origin is being connected to
    Q_RACE                  # the same, until the next address is tried beside the last
    Q_QUEUE                 # one that waits for a connection to its origin
    Q_ORIGIN_IDLE           # an idle connection to an origin
    Q_HEADER                # a new client, whose balancer has yet to say who it is

cdef enum Phase:
    P_HEAD                  # the next request has not begun
    P_ASK                   # the owner is asked where it may go
    P_QUEUE                 # it waits for a connection to its origin
    P_DIAL                  # its origin is being connected to
    P_PARENT                # a parent proxy has been asked for a tunnel there
    P_WAIT                  # the request's head is sent, none of the response is there
    P_BODY                  # the response's head is sent, or held

# Exchange.ways: what a client may speak, and has spoken. One without a bit may begin with anything,
# and has said nothing of SOCKS.
cdef enum:
    ONLY_HTTP = 1
    ONLY_SOCKS = 2
    GREETED = 4             # the greeting of SOCKS5 was replied to

# Exchange.socks: the versions
cdef enum:
    V4 = 4
    V5 = 5

# Exchange.cause: for what a client is given back to its owner. As of Reason: the words are
# below, and those of the owner are compared with them.
cdef enum Cause:
    G_CLOSED                # it is over: nothing is given back
    G_REQUEST               # a request, maybe not all of its head, or what is none
    G_RETRY                 # a request whose reused origin connection was dead
    G_RESPONSE              # a request and its origin, which has been sent it
    G_UNANSWERED            # the same, but the time for the response is up
    G_BODY                  # the same, and the client has a part of the response's body
    G_LINGER                # answered in full, to be closed with care
    G_REFUSED               # a new client beyond the limit
    G_HEADER                # one behind a balancer, whose header is the owner's to read
    G_PARENT                # a CONNECT, and the parent that was asked for it
    CAUSES

cdef extern from *:
    """
    static const char *const cause_words[] = {
        "", "request", "retry", "response", "unanswered", "body", "linger", "refused", "header",
        "parent",
    };
    #define CAUSE_WORDS ((int)(sizeof(cause_words) / sizeof(cause_words[0])))
    """
    const char *cause_words[]
    int CAUSE_WORDS

cdef struct Part:           # of a head
    uint16_t at             # behind the head's first byte
    uint16_t size

cdef struct Asked:          # what is asked about a head
    Part authority
    Part path
    Part credentials
    uint8_t kind            # as of kind_of in request.pxd
    uint8_t told            # the owner has the question

cdef struct Token:          # an object of the owner's: what was decided about exchanges
    PyObject *object
    uint32_t users          # that have it: counted here, for they begin and end without the GIL
    Token *next             # in the list `unused`, where nobody has it
    Token **unused

# Who is to blame where an exchange took long (facts.pxd). As of Reason: the words are below.
cdef enum Stalled:
    J_UNKNOWN               # it was short, or nobody asks
    J_NONE, J_CLIENT, J_ORIGIN, J_NETWORK
    STALLS

cdef extern from *:
    """
    static const char *const stalled_words[] = {"", "none", "client", "origin", "network"};
    #define STALLED_WORDS ((int)(sizeof(stalled_words) / sizeof(stalled_words[0])))
    """
    const char *stalled_words[]
    int STALLED_WORDS

# Ended.event, and what a line is about. As of Reason: the words are below.
cdef enum Event:
    V_END                   # it is over
    V_START                 # a tunnel begins
    V_LIVE                  # a tunnel lives
    EVENTS

cdef extern from *:
    """
    static const char *const event_words[] = {"end", "start", "live"};
    #define EVENT_WORDS ((int)(sizeof(event_words) / sizeof(event_words[0])))
    """
    const char *event_words[]
    int EVENT_WORDS

cdef struct Facts:          # of an exchange that is over, beside its texts
    uint64_t number         # its id
    int64_t ended           # us, CLOCK_REALTIME
    int64_t started         # us, CLOCK_MONOTONIC
    int64_t took            # us
    uint64_t received       # bytes of the request
    uint64_t sent           # bytes of the response
    uint64_t received_spliced   # of these
    uint64_t sent_spliced
    uint32_t question       # us, each stage by itself; 0 where there was none
    uint32_t dns
    uint32_t dial
    uint32_t first_byte
    uint16_t status
    uint8_t reason
    uint8_t by              # who has ended it, and where it was: docs/log.md has the letters
    uint8_t at
    uint8_t stalled
    uint8_t found           # of the name inside TLS, as of Flow
    uint8_t informed        # bit s: tcp[s] is known
    TcpLeg tcp[2]           # of the client, of the origin

cdef struct Ended:          # an exchange that somebody wants a record of; its first words follow
    Token *token            # NULL: the owner has not been asked about it
    Ended *next             # in Records, when it is over
    Facts facts
    uint32_t generation
    uint32_t method_size
    uint32_t target_size    # behind the method and a space
    uint32_t head_size      # 0: only these are kept
    uint8_t event
    uint8_t socks           # as of Exchange
    uint8_t type_size
    uint8_t by_name         # as of Hop
    char type[TYPE_MAX]
    char hop[HOP_MAX + 1]   # the name of the parent, "" without one
    char client[PEER_MAX]
    char via[PEER_MAX]      # as of Exchange, without the mark
    char peer[PEER_MAX]

# Lane.sums.tables: what is added up by (sums.pxd)
cdef enum:
    BY_DESTINATION
    BY_CLIENT
    BY_USER
    BY_FAILURE
    SUM_KINDS

cdef enum:
    METERS_MOST = 64        # limits that count one request
    BUCKETS_OF_METER = 2    # of requests, of tunnels
    LEASE = 192             # bytes (spliceproxy/relay/leases.py)
    GROWN = 64              # of Lane.grown

# Meter.scope: for how long it counts as a connection
cdef enum:
    FOR_NOTHING
    FOR_CLIENT              # until the client's connection closes
    FOR_REQUEST             # until the request, or the tunnel, is over

cdef struct MeterBoard:     # what limits count (meters.pxd), of the owner; tags are NULL without
    uint64_t *tags
    char *entries
    char *leases            # what was lent, LEASE bytes for each entry
    uint32_t size           # bytes of an entry
    uint32_t held_at        # where the numbers of connections are in it
    uint32_t rows           # of them
    uint32_t row            # which is ours

cdef struct Meter:          # one limit, and what it counts by
    uint32_t entry
    uint32_t most           # connections; 0: any number
    uint64_t tag
    int64_t interval[BUCKETS_OF_METER]  # ns; 0: any number
    int64_t room[BUCKETS_OF_METER]      # ns
    uint64_t budgets[2]     # bytes in a day, in an hour; 0: any number
    uint8_t scope
    uint8_t watched         # the owner looks at what counts for it again and again,
    uint8_t paced           # and at once where it moves much: it may have a rate
    uint8_t lent            # other machines share it: what was lent is what is allowed here

cdef struct Meters:         # those that count a request; they follow
    int32_t holders         # targets, and exchanges
    uint32_t count

cdef struct Hold:           # what counts as a connection
    uint32_t entry
    uint8_t scope

cdef struct Holds:          # those of a client; they follow
    uint32_t count
    uint32_t room

cdef struct Note:           # what the lines of all requests on a route have in common
    int32_t holders         # the target, and exchanges
    uint32_t size
    char *text              # it follows

cdef struct Hop:            # a parent proxy, by way of which CONNECT goes. Its name follows
    int32_t holders         # targets, and exchanges
    int32_t reach_ms        # to connect to it
    uint16_t sent           # columns: of what was sent to it,
    uint16_t granted        # and of tunnels that it has granted
    uint8_t by_name         # it is told the name of the destination, else an address
    uint8_t size
    char *name

cdef struct Item:           # of a Table; what it is the first member of is in one block with it
    Item *next              # in the same bucket
    const char *key
    uint32_t hash
    uint32_t key_size
    uint32_t size           # bytes, of all that goes with it
    uint8_t used            # since the hand of the table was here

cdef struct Table:
    Item **buckets
    uint32_t width          # of them, a power of two
    uint32_t hand           # the bucket that is looked at next
    int32_t count
    size_t size             # bytes of all items
    size_t most

cdef struct Sum:            # of what exchanges have moved (sums.pxd); its key follows
    Item item
    uint64_t requests
    uint64_t received       # bytes from clients
    uint64_t sent           # bytes to clients
    int64_t last            # us, CLOCK_REALTIME; of a failure, as the rest:
    char client[PEER_MAX]   # of the last one
    char peer[PEER_MAX]

cdef struct Sums:
    Table tables[SUM_KINDS]
    uint64_t missed         # what found no room
    bint on
    bint full               # the owner should take them
    bint told               # and knows

cdef struct Address:
    char raw[ADDRESS_MAX]   # struct sockaddr_in or sockaddr_in6
    uint8_t size
    char text[PEER_MAX]     # the same without the port, NUL-terminated

cdef struct Target:         # where requests may go. Its addresses follow, and then its texts
    Origin *origin          # held
    # The value of Host for the origin; or the head that asks the parent for a tunnel.
    char *host
    Hop *hop                # held, NULL: straight to the origin
    NameCheck *check        # of a tunnel's client; held, NULL: nothing is asked of it
    char *user              # for the log, of USER_MAX bytes at most with its NUL
    uint32_t host_size
    uint32_t size           # bytes of this block, and of its token if it is a route's
    int32_t holders         # routes and exchanges
    uint8_t count           # addresses, in the order in which they are tried
    uint8_t bound           # behind them follows the one to dial from
    Token *token            # for a record of each request, or NULL
    Note *note              # for their lines; held, NULL without one
    Meters *meters          # what a request on it counts for; held, NULL without limits
    uint16_t decision       # the column of what was decided (counts.pxd), 0: none
    uint32_t generation     # of the settings by which it was decided

cdef struct Route:          # a decision that may be repeated
    Item item
    Target *target          # held
    int64_t until           # ms; not valid afterwards
    int64_t renew           # ms, from when on a request asks the owner anew
    uint8_t asked           # one does, the others need not

cdef struct Group:          # of a client, by its address, or by its mark and that
    Item item
    uint32_t text_size
    char *text

cdef struct Origin:         # what idle connections are kept by
    Item item
    int32_t holders         # targets and connections
    List idle               # connections between two requests, the one used last first
    int32_t idle_count
    int32_t busy            # connections that serve a client
    int32_t seen            # of these, by check.pxd
    List waiting            # clients that wait for a connection, the one that waits longest last
    int64_t looked          # ms, when `late` was counted
    int32_t late            # of `busy`, when last looked at: not free again soon
    int32_t late_after      # ms in use, after which one is late
    int64_t second          # ms, when the second began of which `answers` is
    int32_t answers         # in this second
    int32_t answers_before  # in the one before
    int64_t spell           # ms, when the spell began of which `extra` is
    int32_t extra           # connections that were made beyond Lane.busy_most

cdef struct Routes:
    Table routes
    Table groups
    Table origins
    uint64_t seed           # of hashes: nobody can choose keys that fall together

cdef struct Failed:         # an attempt to connect
    int16_t error           # errno, TIME_IS_UP
    uint8_t address         # which of the target's

cdef struct Exchange:       # of a CLIENT, and of the tunnel that it became
    char *block             # of `room` bytes, NULL while nothing has been received
    char *data              # in it, received and not consumed: the head in work comes first
    uint32_t room
    uint32_t have           # bytes at `data`
    uint32_t head           # bytes of the head in work
    int64_t length          # of the body of the request in work; -1: it has none, or chunks
    Chunks up               # that body, where it is chunked
    Chunks down             # the same of the response
    int32_t connection      # slot of its origin connection, NOWHERE
    int32_t own             # slot of the one that it used last, if that is still its own
    int32_t origin_fd       # given back with it
    Target *target          # P_QUEUE and P_DIAL: where it goes; held
    Token *decided          # the owner's answer to its question, until it is over; or NULL
    List attempts           # P_DIAL: connections that are being made, the oldest last
    uint8_t begun           # of the target's addresses, in their order
    uint8_t failures        # of `failed`
    Failed failed[DIALLED]  # attempts, in the order in which they failed
    uint32_t requests       # answered so far
    uint64_t number         # of the request in work, its id; 0: it has none
    int64_t started         # us, when the head in work was there; 0: not known
    int64_t told            # ms, when the log had a line about the tunnel that lives; 0: it has none
    int64_t lap             # us, when the last of the stages below was over
    uint32_t question       # us, each by itself
    uint32_t dns
    uint32_t dial
    uint32_t first_byte     # of the answer
    int64_t dialling        # us, since when its origin is dialled, `dns` before that; 0: it is not
    # Of sums.pxd: what the sums have of the request in work and its response, and what is put
    # aside for them of requests to `summing`.
    uint64_t summed_received
    uint64_t summed_sent
    Origin *summing         # held, NULL
    uint64_t aside_received
    uint64_t aside_sent
    uint32_t aside_requests
    uint16_t status
    uint16_t decision       # as of its Target, once it has had one
    uint32_t generation     # likewise; before that, of when the owner was asked
    uint8_t uncounted       # the request in work is not in the count of requests
    uint8_t phase
    uint8_t method
    uint8_t cause
    uint8_t close           # behind this response
    uint8_t spent           # the origin connection cannot be used again
    uint8_t passed_on       # a CONNECT that another proxy has passed on (Via)
    uint8_t reused
    uint8_t final           # the request may not be repeated
    uint8_t summed          # the sums have it
    uint8_t header          # P_HEAD: its balancer has yet to say who it is; accepted at `started`
    uint8_t ways
    # The number of the listening address where it came in, if the owner's decisions depend on that:
    # 0 for the others, PLACE_UNKNOWN where the owner has to look again.
    uint16_t place
    uint8_t socks           # the version that it has asked by, 0: by HTTP
    uint8_t spelled         # the head in work stands for a request of SOCKS
    int16_t more            # bytes of SOCKS that were received, beyond those of that head
    Asked asked             # P_ASK
    char *answer            # of the origin, received and not consumed, when given back
    uint32_t answer_size
    uint8_t type_size
    char type[TYPE_MAX]     # Content-Type, for the log and the record
    Ended *record           # of the request in work, NULL if nobody wants one
    Note *note              # for the line of the request in work; held, or NULL
    Hop *hop                # by way of which it goes; held, or NULL
    Holds *holds            # what counts for as long as it is there, or NULL
    Meters *meters          # what the request in work was counted for, if the owner was asked
    uint8_t metered         # it was counted
    NameCheck *check        # as of its Target
    # What is looked at again and again while it is there: held, or NULL. Bytes of its requests that
    # are over, and of all those that budgets have counted. What it may send to its origin.
    Meters *watched
    uint8_t unpaced         # it may have a rate, and has moved little yet
    uint8_t each_turn       # it is looked at after each turn: for that, or for budgets
    int64_t became          # ms: when it became a tunnel
    uint64_t past_up
    uint64_t past_down
    uint64_t accounted
    uint64_t pace
    # The address of the balancer that has brought it, behind a mark (MARKS of
    # spliceproxy/policy/networks.py); held, or NULL.
    Note *via
    char user[USER_MAX]
    char peer[PEER_MAX]
    char address[PEER_MAX]  # the client's

cdef struct Connection:     # of an ORIGIN
    int32_t client          # the slot that it serves, NOWHERE while idle
    Origin *origin          # held; NULL: not to be kept
    int64_t since           # ms, when it began to serve this client
    int32_t last            # while idle: the slot of the client that used it last,
    uint32_t last_generation    # which has this generation
    uint8_t fresh           # no request has been sent on it
    uint8_t probed          # it has TCP keep-alive
    uint64_t pace           # bytes per second that it is sent; 0: any number
    uint8_t address         # which of the target's is dialled
    char peer[PEER_MAX]

# LineForm.kind
cdef enum:
    L_NATIVE, L_SQUID, L_JSON

cdef struct LineForm:       # of the access log (line.pxd, json_line.pxd)
    uint8_t kind
    uint8_t target[256]     # 1 for a byte that stays as it is
    uint8_t user[256]       # the same in the name of a user
    uint32_t method_most    # characters of the longest texts
    uint32_t target_most
    uint32_t user_most
    uint32_t address_most
    uint32_t type_most
    bint query              # of a target is written, not its question mark alone

cdef struct Log:
    char *at                # lines
    size_t used
    size_t room
    int count               # of lines
    int counted             # of these, those that are in the row
    int dropped             # that found no room, and that the owner has not been told of
    bint on
    bint rest               # of exchanges that have no record: they began while it was on
    bint told               # the owner knows that there are some
    LineForm form
    Note *note              # JSON: of a request without a route
    uint32_t note_most      # bytes of the longest
    int64_t second          # of which `second_text` is the time
    char second_text[SECOND_TEXT]

cdef struct Records:        # of exchanges that are over, until the owner is told
    Ended *first
    Ended *last
    Token *unused           # to be given up by whoever has the GIL

cdef struct Lane:
    Core core
    Plain plain
    Routes routes
    List asking             # clients in P_ASK that the owner has not been told of
    bint asks[256]          # by the letter of kind_of: the owner answers questions about such
    char *out               # PLAIN_OUT bytes: a rewritten head; NULL without a lane
    char *established       # the answer to CONNECT
    size_t established_size
    Log log
    List live               # tunnels that the log has lines about, the one told last first
    int64_t live_ms         # between two of a tunnel; 0: there are none
    Sums sums
    MeterBoard meters
    bint looking            # the owner looks at what is watched again and again
    bint unseen             # it is to look, or to see at once what has grown:
    int32_t grown[GROWN]    # clients that were unpaced; with more than these, maybe any
    uint32_t grown_count
    Records records
    bint socks              # nobody has a password: clients of SOCKS need no answer about that
    bint recorded           # the owner wants records
    bint heads              # with the whole head of each request
    bint timed              # somebody wants to know how long each stage takes
    bint informed           # or what the kernel knows of the connections
    uint64_t number         # of the last exchange
    uint32_t generation     # of the owner's settings
    # Of these the owner has said that they may bring clients: a mark and an address, held, or NULL.
    Note *balancers[BALANCERS]
    int balancer_next       # the place of the next one
    int clients
    int others              # connections of clients that the owner has
    int most                # of all of them; beyond it they are refused, 0: no limit
    int refusals            # clients beyond it that the owner answers at the same time
    bint transient[ERRNOS]  # by errno of accept(2): of the new connection, not of the socket
    int first_port          # of outgoing connections
    int last_port
    int accept_error        # errno of an accept(2) that the owner must deal with, 0
    int64_t looked          # ms, when Origin.late was counted
    int32_t busy_most       # connections to one origin that will soon be free: more clients wait
    int32_t extra_most      # beyond these, that are made in QUEUE_MS (waiting.pxd)
    int32_t late_ms         # in use, before which no connection is late
    int idle_count          # connections to origins
    int idle_most           # in all
    int idle_each           # per origin
    bint draining
    bint moving             # draining, and each client is given back where it may ask again
    int lost                # clients that were closed, without memory to go on with them or to
                            # give them back, and that the owner has not been told of
    int64_t uncounted       # bytes from clients that were counted too much so far; 0 or less
    uint8_t dial_errors[ERRNOS]     # by errno, at 0 for TIME_IS_UP: which Proxy Error Type


cdef inline Exchange *exchange_of(const Flow *f) noexcept nogil:
    """Of a CLIENT. Of a TUNNEL: NULL if the owner has made it."""
    return <Exchange *>f.attached


cdef inline Connection *connection_of(const Flow *f) noexcept nogil:
    """Of an ORIGIN."""
    return <Connection *>f.attached


cdef inline bint with_origin(uint8_t cause) noexcept nogil:
    """Whether a client is given back with its origin connection, on which its request was sent, or
    its parent was asked."""
    return (
        cause == G_RESPONSE or cause == G_UNANSWERED or cause == G_BODY or cause == G_PARENT
    )
