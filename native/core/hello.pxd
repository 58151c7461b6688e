"""The name in the first flight of a TLS client, as spliceproxy/tls/hello.py reads it.

It is read anew from its first byte each time that more has come. What is done for each record is so
little that even a flight of a byte in each is cheaper to read than to receive.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

cdef enum:
    FLIGHT = 16384          # bytes that are looked at
    RECORD = 5              # bytes of the header of a record
    KINDS = 8192            # bytes with a bit for each kind of extension
    # Bytes of the room that is needed: for the flight, a message out of its records, and KINDS.
    SIGHT = 2 * FLIGHT + KINDS

cdef enum Hello:
    H_MORE                  # too few bytes to know
    H_NAMED
    H_NO_NAME
    H_ECH
    H_NOT_TLS
    H_MALFORMED

cdef struct Bytes:          # that are read from the front
    const uint8_t *at
    size_t size


cdef inline uint32_t number_at(const uint8_t *at, int size) noexcept nogil:
    cdef uint32_t found = 0
    cdef int i
    for i in range(size):
        found = found << 8 | at[i]
    return found


cdef inline bint take_bytes(Bytes *from_, size_t size, Bytes *taken) noexcept nogil:
    """False where there are too few."""
    if from_.size < size:
        return False
    taken.at = from_.at
    taken.size = size
    from_.at += size
    from_.size -= size
    return True


cdef inline bint take_number(Bytes *from_, int size, uint32_t *number) noexcept nogil:
    cdef Bytes found
    if not take_bytes(from_, size, &found):
        return False
    number[0] = number_at(found.at, size)
    return True


cdef inline bint take_vector(Bytes *from_, int size, Bytes *taken) noexcept nogil:
    """Bytes with their count in front, which has so many bytes."""
    cdef uint32_t count
    return take_number(from_, size, &count) and take_bytes(from_, count, taken)


cdef inline bint is_of_name(uint8_t b) noexcept nogil:
    return (
        c'a' <= b <= c'z' or c'0' <= b <= c'9' or b == c'.' or b == c'-' or c'A' <= b <= c'Z'
        or b == c'_'
    )


cdef inline bint read_name(Bytes extension, Bytes *name) noexcept nogil:
    """The one host name, without a dot at its end."""
    cdef Bytes names
    cdef uint32_t kind
    cdef size_t i
    if not take_vector(&extension, 2, &names) or extension.size:
        return False
    if not take_number(&names, 1, &kind) or not take_vector(&names, 2, name):
        return False
    if names.size or kind != 0 or name.size == 0 or name.at[0] == c'.':
        return False
    for i in range(name.size):
        if not is_of_name(name.at[i]):
            return False
    if name.size > 254 or (name.size == 254 and name.at[253] != c'.'):
        return False
    if name.at[name.size - 1] == c'.':
        name.size -= 1
    return True


cdef inline Hello read_message(Bytes message, uint8_t *kinds, Bytes *name) noexcept nogil:
    """Of a ClientHello without its header."""
    cdef Bytes taken, suites, methods, extensions
    cdef uint32_t kind
    cdef bint ech = False
    if not take_bytes(&message, 34, &taken) or not take_vector(&message, 1, &taken):
        return H_MALFORMED
    if not take_vector(&message, 2, &suites) or not take_vector(&message, 1, &methods):
        return H_MALFORMED
    if taken.size > 32 or suites.size == 0 or suites.size % 2 or methods.size == 0:
        return H_MALFORMED
    if message.size == 0:  # before TLS 1.3 there may be no extensions at all
        return H_NO_NAME
    if not take_vector(&message, 2, &extensions) or message.size:
        return H_MALFORMED
    memset(kinds, 0, KINDS)
    while extensions.size:
        if not take_number(&extensions, 2, &kind) or not take_vector(&extensions, 2, &taken):
            return H_MALFORMED
        if kinds[kind >> 3] >> (kind & 7) & 1:
            return H_MALFORMED
        kinds[kind >> 3] |= 1 << (kind & 7)
        if kind == 0 and not read_name(taken, name):
            return H_MALFORMED
        ech |= kind == 0xfe0d
    if ech:
        return H_ECH
    return H_NAMED if name.size else H_NO_NAME


cdef inline Hello gather(const uint8_t *data, size_t n, uint8_t *room, Bytes *message) noexcept nogil:
    """The body of the first message, out of its records: H_NAMED where all of it is there. What is
    in one record stays where it is."""
    cdef size_t at = 0
    cdef size_t have = 0
    cdef size_t size = 0
    cdef size_t part, wanted
    cdef const uint8_t *found = room
    while at < n:
        if have == 0 and (data[at] < 20 or data[at] > 24 or (n - at > 1 and data[at + 1] != 3)):
            return H_NOT_TLS
        if n - at > 1 and (data[at] != 22 or data[at + 1] != 3):
            return H_MALFORMED
        if n - at < RECORD:
            return H_MORE
        wanted = number_at(data + at + 3, 2)
        if wanted == 0 or wanted > FLIGHT:
            return H_MALFORMED
        at += RECORD
        part = min(wanted, n - at)
        if have == 0:
            found = data + at
        else:
            if found != room:
                memcpy(room, found, have)
                found = room
            memcpy(room + have, data + at, part)
        have += part
        at += part
        if have and found[0] != 1:
            return H_MALFORMED
        if size == 0 and have >= 4:
            size = 4 + number_at(found + 1, 3)
            if size == 4 or size > FLIGHT:
                return H_MALFORMED
        if size and have >= size:
            message.at = found + 4
            message.size = size - 4
            return H_NAMED
        if part < wanted:
            return H_MORE
    return H_MORE


cdef inline Hello read_hello(const char *data, size_t n, char *room, Bytes *name) noexcept nogil:
    """What the first `n` bytes of a client say, FLIGHT at most. `room` has SIGHT - FLIGHT bytes, and
    the name may be there."""
    cdef Bytes message
    cdef Hello found = gather(<const uint8_t *>data, n, <uint8_t *>room, &message)
    name.size = 0
    if found == H_MORE and n >= FLIGHT:
        return H_MALFORMED
    if found != H_NAMED:
        return found
    return read_message(message, <uint8_t *>room + FLIGHT, name)
