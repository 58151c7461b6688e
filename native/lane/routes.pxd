"""Where plain requests may go: what the owner has decided, by all that it depended on.

A *route* repeats a decision of the owner for a short time, for requests of the same method
and form, of clients of the same class with the same credentials, to an authority that is
written in the same way. A *class* is what the owner sees of a client: it says once for each
address to which one it belongs. An *origin* is what idle connections are kept by: several
routes may lead to one.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from http.plain cimport Text

cdef enum:
    NOWHERE = -1            # no slot, no descriptor, no route
    ROUTES = 16384          # beyond it all are forgotten: the owner says them again
    BUCKETS_OF_ROUTES = 65536
    ORIGINS = 4096
    RENEW_SHARE = 4         # the last part of its time in which a route is renewed
    KEY_MAX = 1024          # bytes of a key: beyond it there is no route
    USER_MAX = 64           # of a user's name, with a NUL
    ADDRESS = 0             # the kind of what says the class of an address; it has no origin
    ADDRESS_MAX = 28        # struct sockaddr_in6
    PEER_MAX = 46           # an IPv6 address as text

cdef struct Route:
    char *key
    char *host              # the value of Host for the origin
    uint32_t hash
    uint32_t key_size
    uint32_t host_size
    int32_t origin
    int64_t until           # ms; not valid afterwards
    int64_t renew           # ms, from when on a request asks the owner anew
    uint8_t asked           # one does, the others need not
    uint32_t address_size   # 0: only idle connections may be used
    uint8_t single          # it is the only address
    char address[ADDRESS_MAX]
    char peer[PEER_MAX]     # the same as text, NUL-terminated; of an address: its class
    char user[USER_MAX]     # for the log

cdef struct Origin:
    int32_t top             # the idle connection used last, NOWHERE
    int32_t idle            # connections
    int32_t busy
    int32_t first           # of the clients that wait for a connection, NOWHERE
    int32_t last
    int32_t late            # of `busy`, when last looked at: not free again soon
    int32_t late_after      # ms in use, after which one is late
    int64_t second          # ms, when the second began of which `answers` is
    int32_t answers         # in this second
    int32_t answers_before  # in the one before
    int64_t spell           # ms, when the spell began of which `extra` is
    int32_t extra           # connections that were made beyond BUSY

cdef struct Routes:
    Route *all
    Origin *origins
    int32_t *buckets        # index of a route + 1, or 0
    uint32_t seed           # of hashes: nobody can choose keys that fall together
    int32_t count
    int32_t origin_count


cdef inline bint routes_init(Routes *r) noexcept nogil:
    r.all = <Route *>calloc(ROUTES, sizeof(Route))
    r.origins = <Origin *>calloc(ORIGINS, sizeof(Origin))
    r.buckets = <int32_t *>calloc(BUCKETS_OF_ROUTES, sizeof(int32_t))
    if r.all == NULL or r.origins == NULL or r.buckets == NULL:
        return False
    return True


cdef inline void origin_init(Origin *o) noexcept nogil:
    o.top = o.first = o.last = NOWHERE
    o.idle = o.busy = o.late = o.answers = o.answers_before = o.extra = 0
    o.second = o.spell = 0


cdef inline void routes_clear(Routes *r) noexcept nogil:
    """Forgets every route; the origins stay."""
    cdef int32_t i
    for i in range(r.count):
        free(r.all[i].key)
        free(r.all[i].host)
    r.count = 0
    memset(r.buckets, 0, BUCKETS_OF_ROUTES * sizeof(int32_t))


cdef inline void routes_free(Routes *r) noexcept nogil:
    if r.buckets != NULL:
        routes_clear(r)
    free(r.all)
    free(r.origins)
    free(r.buckets)
    r.all = NULL
    r.origins = NULL
    r.buckets = NULL


cdef inline size_t route_key(
    char *key, uint8_t kind, Text client, Text credentials, Text authority
) noexcept nogil:
    """Writes a key, of which every part can be told from the next; 0 if it is too long.
    `client` is the class, and the address for the kind ADDRESS, which has nothing else."""
    cdef uint16_t size = <uint16_t>credentials.size
    if client.size >= PEER_MAX or credentials.size + authority.size > KEY_MAX - PEER_MAX - 4:
        return 0
    key[0] = <char>kind
    key[1] = <char>client.size
    memcpy(key + 2, &size, 2)
    key += 4
    memcpy(key, client.at, client.size)
    key += client.size
    if size:
        memcpy(key, credentials.at, size)
    if authority.size:
        memcpy(key + size, authority.at, authority.size)
    return 4 + client.size + size + authority.size


cdef inline uint32_t hash_of(const Routes *r, const char *key, size_t n) noexcept nogil:
    cdef uint32_t hash = r.seed
    cdef size_t i
    for i in range(n):
        hash = (hash ^ <uint8_t>key[i]) * 16777619 + 1
    return hash


cdef inline int32_t route_find(const Routes *r, const char *key, size_t n) noexcept nogil:
    """The index of a route, NOWHERE if the owner has not said it."""
    cdef uint32_t hash = hash_of(r, key, n)
    cdef uint32_t i = hash % BUCKETS_OF_ROUTES
    cdef const Route *route
    while r.buckets[i]:
        route = &r.all[r.buckets[i] - 1]
        if route.hash == hash and route.key_size == n and memcmp(route.key, key, n) == 0:
            return r.buckets[i] - 1
        i = (i + 1) % BUCKETS_OF_ROUTES
    return NOWHERE


cdef inline int32_t route_add(Routes *r, const char *key, size_t n) noexcept nogil:
    """A new route, not yet filled but for its key, or the one that is there; NOWHERE
    without memory. There must be room."""
    cdef int32_t found = route_find(r, key, n)
    cdef uint32_t i
    cdef Route *route
    if found != NOWHERE:
        return found
    route = &r.all[r.count]
    memset(route, 0, sizeof(Route))
    route.key = <char *>malloc(n)
    if route.key == NULL:
        return NOWHERE
    memcpy(route.key, key, n)
    route.key_size = <uint32_t>n
    route.hash = hash_of(r, key, n)
    i = route.hash % BUCKETS_OF_ROUTES
    while r.buckets[i]:
        i = (i + 1) % BUCKETS_OF_ROUTES
    r.count += 1
    r.buckets[i] = r.count
    return r.count - 1


cdef inline bint class_of(const Routes *r, Text *client) noexcept nogil:
    """Puts the class of a client in the place of its address; false if the owner has not
    said it."""
    cdef char key[KEY_MAX]
    cdef Text none
    cdef int32_t found
    none.at = NULL
    none.size = 0
    found = route_find(r, key, route_key(key, ADDRESS, client[0], none, none))
    if found == NOWHERE:
        return False
    client.at = r.all[found].peer
    client.size = strlen(client.at)
    return True
