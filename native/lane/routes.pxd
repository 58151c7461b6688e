"""Where plain requests may go: what the owner has decided, by all that it depended on.

A *target* is where a request may go: the addresses that may be dialled for it, in their order. Who
holds it may use it, however long that takes. A *route* repeats a decision of the owner for a short
time: its target is for requests of the same method and form, of clients of the same group with the
same credentials, to an authority that is written in the same way. A *group* is what the owner sees
of a client: it says once for each address to which one it belongs. An *origin* is what idle
connections are kept by: several targets may lead to one. It is there for as long as a target or a
connection holds it.

The tables of routes and of groups are bounded by the bytes of what is in them, because clients
choose how long a name is. So does a function of the owner's that makes tokens. Routes whose time is over go as new ones come, a few at a time.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strlen

from core cimport linux
from core.gate cimport check_release
from core.slots cimport list_init
from core.types cimport Core, TUNNEL
from http.plain cimport Text
from lane.hops cimport hop_release
from lane.meters cimport meters_release
from lane.notes cimport note_release
from lane.records cimport token_release
from lane.table cimport (
    hash_of, table_add, table_find, table_init, table_next, table_oldest, table_take,
)
from lane.types cimport (
    ADDRESS_MAX, Address, CLIENT, Exchange, Group, Item, Lane, Origin, PEER_MAX, PLACE_TEXT,
    PLACE_UNKNOWN, Route, Routes, Table, Target, exchange_of,
)

cdef enum:
    ROUTES_SIZE = 16777216  # bytes, with their targets and origins: of 40,000 ordinary ones
    GROUPS_SIZE = 8388608   # bytes: of 80,000 clients
    SWEEP = 2               # buckets that are looked through for each new route
    RENEW_SHARE = 4         # the last part of its time in which a route is renewed
    KEY_MAX = 1024          # bytes of a key: beyond it there is no route
    TOKEN_MOST = 65536      # bytes of a token, likewise
    NAMED_MAX = PLACE_TEXT + 1 + PEER_MAX   # bytes of a client's name


cdef inline bint routes_init(Routes *r) noexcept nogil:
    return (
        table_init(&r.routes, ROUTES_SIZE) and table_init(&r.groups, GROUPS_SIZE)
        and table_init(&r.origins, ROUTES_SIZE)
    )


# ---- origins and targets ---------------------------------------------------------------------


cdef inline Origin *origin_find(const Routes *r, const char *key, size_t n) noexcept nogil:
    """NULL if nobody holds it."""
    return <Origin *>table_find(&r.origins, hash_of(r.seed, key, n), key, n)


cdef inline Origin *origin_hold(Routes *r, const char *key, size_t n) noexcept nogil:
    """The origin with this key, held once more; NULL without memory."""
    cdef Origin *o = origin_find(r, key, n)
    if o != NULL:
        o.holders += 1
        return o
    o = <Origin *>calloc(1, sizeof(Origin) + n)
    if o == NULL:
        return NULL
    memcpy(o + 1, key, n)
    o.item.key = <const char *>(o + 1)
    o.item.key_size = <uint32_t>n
    o.item.hash = hash_of(r.seed, key, n)
    o.item.size = <uint32_t>(sizeof(Origin) + n)
    o.holders = 1
    list_init(&o.idle)
    list_init(&o.waiting)
    table_add(&r.origins, &o.item)
    return o


cdef inline void origin_release(Routes *r, Origin *o) noexcept nogil:
    o.holders -= 1
    if o.holders == 0:
        table_take(&r.origins, &o.item)
        free(o)


cdef inline Address *address_of(const Target *t, int i) noexcept nogil:
    """The address with this number. That to dial from, if there is one, has the last."""
    return <Address *>(t + 1) + i


cdef inline bint address_set(Address *a, const char *text, uint16_t port) noexcept nogil:
    """Of an IP address as text, without brackets and zone; false if it is none."""
    cdef uint16_t family = linux.AF_INET
    cdef uint16_t swapped = linux.htons(port)
    cdef size_t n = strlen(text)
    memset(a, 0, sizeof(Address))
    if n >= PEER_MAX:
        return False
    a.size = 16
    if linux.inet_pton(linux.AF_INET, text, a.raw + 4) != 1:
        family = linux.AF_INET6
        a.size = ADDRESS_MAX
        if linux.inet_pton(linux.AF_INET6, text, a.raw + 8) != 1:
            return False
    memcpy(a.raw, &family, 2)
    memcpy(a.raw + 2, &swapped, 2)
    memcpy(a.text, text, n)
    return True


cdef inline Target *target_new(int count, Text host, Text user) noexcept nogil:
    """A target with room for so many addresses, held once; NULL without memory. The caller fills
    in the addresses and the origin."""
    cdef size_t size = sizeof(Target) + count * sizeof(Address) + host.size + user.size + 1
    cdef Target *t = <Target *>malloc(size)
    if t == NULL:
        return NULL
    memset(t, 0, sizeof(Target))
    t.holders = 1
    t.size = <uint32_t>size
    t.host = <char *>address_of(t, count)
    t.host_size = <uint32_t>host.size
    memcpy(t.host, host.at, host.size)
    t.user = t.host + host.size
    memcpy(t.user, user.at, user.size)
    t.user[user.size] = 0
    return t


cdef inline void target_release(Routes *r, Target *t) noexcept nogil:
    t.holders -= 1
    if t.holders == 0:
        if t.origin != NULL:
            origin_release(r, t.origin)
        token_release(t.token)
        note_release(t.note)
        meters_release(t.meters)
        hop_release(t.hop)
        check_release(t.check)
        free(t)


cdef inline void let_go(Routes *r, Exchange *x) noexcept nogil:
    """It goes nowhere for the moment, or has a connection there."""
    if x.target != NULL:
        target_release(r, x.target)
        x.target = NULL


# ---- routes and groups -----------------------------------------------------------------------


cdef inline size_t route_key(
    char *key, uint8_t kind, Text group, Text credentials, Text authority
) noexcept nogil:
    """Writes a key, of which every part can be told from the next; 0 if it is too long."""
    cdef uint16_t size = <uint16_t>credentials.size
    if group.size >= PEER_MAX or credentials.size + authority.size > KEY_MAX - PEER_MAX - 4:
        return 0
    key[0] = <char>kind
    key[1] = <char>group.size
    memcpy(key + 2, &size, 2)
    key += 4
    memcpy(key, group.at, group.size)
    key += group.size
    if size:
        memcpy(key, credentials.at, size)
    if authority.size:
        memcpy(key + size, authority.at, authority.size)
    return 4 + group.size + size + authority.size


cdef inline void route_drop(Routes *r, Route *route) noexcept nogil:
    table_take(&r.routes, &route.item)
    target_release(r, route.target)
    free(route)


cdef inline void routes_sweep(Routes *r, int64_t now) noexcept nogil:
    """Drops some of the routes whose time is over."""
    cdef Item *item
    cdef Item *following
    cdef int i
    for i in range(SWEEP):
        item = table_next(&r.routes)
        while item != NULL:
            following = item.next
            item.used = False
            if (<Route *>item).until <= now:
                route_drop(r, <Route *>item)
            item = following


cdef inline Route *route_find(Routes *r, const char *key, size_t n) noexcept nogil:
    """NULL if the owner has not said it, or too long ago."""
    cdef Item *item = table_find(&r.routes, hash_of(r.seed, key, n), key, n)
    if item != NULL:
        item.used = True
    return <Route *>item


cdef inline bint route_put(
    Routes *r, const char *key, size_t n, Target *target, int64_t now, int64_t until
) noexcept nogil:
    """Makes or renews a route, which holds the target too; false without memory, and then
    nothing has changed."""
    cdef uint32_t hash = hash_of(r.seed, key, n)
    cdef Route *route = <Route *>table_find(&r.routes, hash, key, n)
    if route == NULL:
        route = <Route *>malloc(sizeof(Route) + n)
        if route == NULL:
            return False
        routes_sweep(r, now)
        memcpy(route + 1, key, n)
        route.item.key = <const char *>(route + 1)
        route.item.key_size = <uint32_t>n
        route.item.hash = hash
    else:
        table_take(&r.routes, &route.item)
        target_release(r, route.target)
    target.holders += 1
    route.target = target
    route.item.size = <uint32_t>(
        sizeof(Route) + n + target.size + target.origin.item.size)
    while r.routes.count > 0 and r.routes.size + route.item.size > r.routes.most:
        route_drop(r, <Route *>table_oldest(&r.routes))
    table_add(&r.routes, &route.item)
    route.until = until
    route.renew = until - (until - now) // RENEW_SHARE
    route.asked = False
    return True


cdef inline Text client_named(const Exchange *x, char *room) noexcept nogil:
    """A client as the owner has it: its address, with a mark in front if a balancer has brought it,
    and with the place before that where decisions depend on it (`named` of
    spliceproxy/policy/networks.py). `room`, of NAMED_MAX bytes, is where that may be."""
    cdef Text client
    cdef size_t used = 0
    client.at = <const char *>x.address
    client.size = strlen(x.address)
    if x.via == NULL and x.place == 0:
        return client
    if x.place:
        used = put_place(room, x.place)
    if x.via != NULL:
        room[used] = x.via.text[0]
        used += 1
    memcpy(room + used, x.address, client.size)
    client.at = room
    client.size += used
    return client


cdef inline size_t put_place(char *room, uint16_t place) noexcept nogil:
    """As text, of three hexadecimal digits behind a sign."""
    cdef const char *digits = b"0123456789abcdef"
    room[0] = c'@'
    room[1] = digits[place >> 8 & 15]
    room[2] = digits[place >> 4 & 15]
    room[3] = digits[place & 15]
    return PLACE_TEXT


cdef inline void places_forget(Lane *lane) noexcept nogil:
    """The numbers of listening addresses are others from here on."""
    cdef Core *c = &lane.core
    cdef int32_t slot
    for slot in range(c.capacity):
        if c.flows[slot].kind != CLIENT and c.flows[slot].kind != TUNNEL:
            continue
        if exchange_of(&c.flows[slot]) != NULL:
            exchange_of(&c.flows[slot]).place = PLACE_UNKNOWN


cdef inline bint group_of(Routes *r, Text *client) noexcept nogil:
    """Puts the group of a client in the place of its address; false if the owner has not
    said it."""
    cdef Group *group = <Group *>table_find(
        &r.groups, hash_of(r.seed, client.at, client.size), client.at, client.size)
    if group == NULL:
        return False
    group.item.used = True
    client.at = group.text
    client.size = group.text_size
    return True


cdef inline bint group_put(Routes *r, Text client, Text text) noexcept nogil:
    """Clients of this address are of this group; false without memory, and then it is not
    known of which."""
    cdef uint32_t hash = hash_of(r.seed, client.at, client.size)
    cdef Item *item = table_find(&r.groups, hash, client.at, client.size)
    cdef Group *group = <Group *>item
    cdef size_t size = sizeof(Group) + text.size + client.size
    if group != NULL and group.text_size == text.size:
        memcpy(group.text, text.at, text.size)
        return True
    if item != NULL:
        table_take(&r.groups, item)
        free(item)
    group = <Group *>malloc(size)
    if group == NULL:
        return False
    group.text = <char *>(group + 1)
    group.text_size = <uint32_t>text.size
    memcpy(group.text, text.at, text.size)
    memcpy(group.text + text.size, client.at, client.size)
    group.item.key = group.text + text.size
    group.item.key_size = <uint32_t>client.size
    group.item.hash = hash
    group.item.size = <uint32_t>size
    while r.groups.count > 0 and r.groups.size + size > r.groups.most:
        item = table_oldest(&r.groups)
        table_take(&r.groups, item)
        free(item)
    table_add(&r.groups, &group.item)
    return True


cdef inline void routes_clear(Routes *r) noexcept nogil:
    """Forgets every route and group."""
    cdef Table *t = &r.routes
    cdef Item *item
    cdef uint32_t i
    for i in range(t.width):
        while t.buckets[i] != NULL:
            route_drop(r, <Route *>t.buckets[i])
    t = &r.groups
    for i in range(t.width):
        while t.buckets[i] != NULL:
            item = t.buckets[i]
            table_take(t, item)
            free(item)


cdef inline void routes_free(Routes *r) noexcept nogil:
    """Nothing else holds an origin any more."""
    if r.routes.buckets != NULL and r.groups.buckets != NULL and r.origins.buckets != NULL:
        routes_clear(r)
    free(r.routes.buckets)
    free(r.groups.buckets)
    free(r.origins.buckets)
    r.routes.buckets = r.groups.buckets = r.origins.buckets = NULL
