"""Where plain requests may go: what the owner has decided, by all that it depended on.

A *route* repeats a decision of the owner for a short time, for requests of the same method
and form, of clients of the same group with the same credentials, to an authority that is
written in the same way. A *group* is what the owner sees of a client: it says once for each
address to which one it belongs. An *origin* is what idle connections are kept by: several
routes may lead to one.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from core.slots cimport list_init
from core.types cimport NOWHERE
from http.plain cimport Text
from lane.types cimport Origin, PEER_MAX, Route, Routes

cdef enum:
    ROUTES = 16384          # beyond it all are forgotten: the owner says them again
    BUCKETS_OF_ROUTES = 65536
    ORIGINS = 4096
    RENEW_SHARE = 4         # the last part of its time in which a route is renewed
    KEY_MAX = 1024          # bytes of a key: beyond it there is no route
    ADDRESS = 0             # the kind of what says the group of an address; it has no origin


cdef inline bint routes_init(Routes *r) noexcept nogil:
    r.all = <Route *>calloc(ROUTES, sizeof(Route))
    r.origins = <Origin *>calloc(ORIGINS, sizeof(Origin))
    r.buckets = <int32_t *>calloc(BUCKETS_OF_ROUTES, sizeof(int32_t))
    if r.all == NULL or r.origins == NULL or r.buckets == NULL:
        return False
    return True


cdef inline void origin_init(Origin *o) noexcept nogil:
    list_init(&o.idle)
    list_init(&o.waiting)
    o.idle_count = o.busy = o.late = o.answers = o.answers_before = o.extra = 0
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
    `client` is the group, and the address for the kind ADDRESS, which has nothing else."""
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


cdef inline bint group_of(const Routes *r, Text *client) noexcept nogil:
    """Puts the group of a client in the place of its address; false if the owner has not
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
