"""A hash table whose items are blocks of their own, and which gives up the one that is needed
least where there is no room for another.

Chains, and not one array of places: an item can be taken out, and its address is its own for as
long as it is there. Who goes is found as by the hand of a clock, which goes round the buckets: an
item that has been used since the hand was there last stays once more. A new item is anywhere on
the way of the hand. So a table that is a little too small for what is asked in turn still has most
of it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from lane.types cimport Item, Table

cdef enum:
    FIRST_WIDTH = 64

cdef extern from *:
    """
    /* Both halves of a product: each bit of it depends on each of both factors. */
    static inline uint64_t folded(uint64_t a, uint64_t b) {
    #ifdef __SIZEOF_INT128__
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    #else
        uint64_t high = (a >> 32) * (b >> 32), low = (a & 0xffffffff) * (b & 0xffffffff);
        uint64_t cross = (a >> 32) * (b & 0xffffffff) ^ (a & 0xffffffff) * (b >> 32);
        return high ^ low ^ (cross << 32 | cross >> 32);
    #endif
    }
    """
    uint64_t folded(uint64_t a, uint64_t b) noexcept nogil
    const uint64_t FACTOR "0x9e3779b97f4a7c15u"


cdef inline uint32_t hash_of(uint64_t seed, const char *key, size_t n) noexcept nogil:
    cdef uint64_t hash = seed ^ n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, key, 8)
        hash = folded(hash ^ word, FACTOR)
        key += 8
        n -= 8
    word = 0
    memcpy(&word, key, n)
    hash = folded(hash ^ word, FACTOR)
    return <uint32_t>(hash ^ (hash >> 32))


cdef inline bint table_init(Table *t, size_t most) noexcept nogil:
    """An empty table of at most so many bytes; false without memory."""
    t.buckets = <Item **>calloc(FIRST_WIDTH, sizeof(Item *))
    t.width = FIRST_WIDTH
    t.hand = 0
    t.count = 0
    t.size = 0
    t.most = most
    return t.buckets != NULL


cdef inline Item *table_find(
    const Table *t, uint32_t hash, const char *key, size_t n
) noexcept nogil:
    """NULL if there is none with this key."""
    cdef Item *item = t.buckets[hash & (t.width - 1)]
    while item != NULL:
        if item.hash == hash and item.key_size == n and memcmp(item.key, key, n) == 0:
            return item
        item = item.next
    return NULL


cdef inline void table_widen(Table *t) noexcept nogil:
    """As many buckets again. Without memory for them the chains are longer, that is all."""
    cdef uint32_t width = 2 * t.width
    cdef Item **buckets = <Item **>calloc(width, sizeof(Item *))
    cdef Item *item
    cdef Item *following
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(t.width):
        item = t.buckets[i]
        while item != NULL:
            following = item.next
            item.next = buckets[item.hash & (width - 1)]
            buckets[item.hash & (width - 1)] = item
            item = following
    free(t.buckets)
    t.buckets = buckets
    t.width = width


cdef inline void table_add(Table *t, Item *item) noexcept nogil:
    """Puts an item in that is filled but for `next` and `used`; there is none with its key."""
    cdef uint32_t i
    if <uint32_t>t.count >= t.width:
        table_widen(t)
    i = item.hash & (t.width - 1)
    item.used = False
    item.next = t.buckets[i]
    t.buckets[i] = item
    t.count += 1
    t.size += item.size


cdef inline void table_take(Table *t, Item *item) noexcept nogil:
    """Takes an item out, which is the caller's then."""
    cdef Item **at = &t.buckets[item.hash & (t.width - 1)]
    while at[0] != item:
        at = &at[0].next
    at[0] = item.next
    t.count -= 1
    t.size -= item.size


cdef inline Item *table_next(Table *t) noexcept nogil:
    """The items in the bucket at the hand, which goes on."""
    cdef Item *item = t.buckets[t.hand & (t.width - 1)]
    t.hand = (t.hand + 1) & (t.width - 1)
    return item


cdef inline Item *table_oldest(Table *t) noexcept nogil:
    """The item that is to go; NULL if there is none."""
    cdef Item *item
    while t.count > 0:
        item = table_next(t)
        while item != NULL:
            if not item.used:
                return item
            item.used = False
            item = item.next
    return NULL
