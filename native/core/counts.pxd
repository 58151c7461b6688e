"""What the relay counts: columns of a row of 64-bit numbers, which has no other writer and may be
read by anybody. The lane's follow behind them (lane/counts.pxd). The table with their names is
spliceproxy/relay/columns.py, and the first column of each family is compared with it when the
module is imported (reports.pxi).
"""

from libc.stdint cimport uint64_t

from core.types cimport Core, DOWN, FOUNDS, REASONS, Way

cdef enum:
    K_BYTES = 0             # in copied, in spliced, out copied, out spliced
    K_TUNNELS_BEGUN = K_BYTES + 4
    K_TUNNELS_ENDED = K_TUNNELS_BEGUN + 1       # by reason, from R_DONE on
    K_SPLICE_FALLBACKS = K_TUNNELS_ENDED + REASONS - 1
    K_URGENT
    K_PIPE_STARVED
    K_EVENTS
    K_GUESSES               # of these, without epoll
    K_STEPS
    K_TLS_NAMES             # by Found, from F_MATCH on: passed, refused
    K_TUNNELS = K_TLS_NAMES + 2 * (FOUNDS - 1)  # gauges from here on
    K_TRANSFERS
    K_PIPES                 # lent, idle
    K_LANE = K_PIPES + 2    # the first of the lane's


cdef inline void count_up(Core *c, int column) noexcept nogil:
    c.row[column] += 1


cdef inline void count_bytes(Core *c, const Way *w, size_t n, bint spliced) noexcept nogil:
    """n bytes of a way have moved."""
    c.row[K_BYTES + 2 * ((w.flags & DOWN) != 0) + spliced] += n


cdef inline uint64_t bytes_counted(const Core *c, bint spliced) noexcept nogil:
    """Of both directions."""
    return c.row[K_BYTES + spliced] + c.row[K_BYTES + 2 + spliced]
