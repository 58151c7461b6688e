"""The pool of pipes: lent to a way while it splices, never owned by one.

Contract: a pipe goes back with `pool_put` only when it is empty; one that holds bytes is
ended with `pool_kill`, or one client's bytes would reach another. `pool_get` hands out a
full-sized pipe or none: beyond pipe-user-pages-soft the kernel gives pipes of 8 KiB
(pipe(7)), which are worse than copying.
"""

from libc.stdint cimport int32_t

from core cimport linux
from core.types cimport Core, NOWHERE, Pool, Way


cdef inline bint pool_get(Core *c, Way *w) noexcept nogil:
    """Lends a pipe to `w`; false if there is none to be had."""
    cdef Pool *p = &c.pool
    cdef int fds[2]
    if p.idle > 0:
        p.idle -= 1
        w.pipe_r = p.fds[2 * p.idle]
        w.pipe_w = p.fds[2 * p.idle + 1]
    else:
        if p.lent >= p.limit or c.now < p.retry:
            return False
        if linux.pipe2(fds, linux.O_CLOEXEC | linux.O_NONBLOCK) < 0:
            p.retry = c.now + c.limits.pipe_retry
            return False
        if linux.fcntl(fds[0], linux.F_SETPIPE_SZ, p.size) < p.size:
            linux.close(fds[0])
            linux.close(fds[1])
            p.retry = c.now + c.limits.pipe_retry
            return False
        w.pipe_r = fds[0]
        w.pipe_w = fds[1]
    p.lent += 1
    p.used = c.now
    return True


cdef inline void pool_put(Core *c, Way *w) noexcept nogil:
    """Takes back the empty pipe of `w`."""
    cdef Pool *p = &c.pool
    p.fds[2 * p.idle] = w.pipe_r
    p.fds[2 * p.idle + 1] = w.pipe_w
    p.idle += 1
    p.lent -= 1
    p.used = c.now
    w.pipe_r = w.pipe_w = <int32_t>NOWHERE


cdef inline void pool_kill(Core *c, Way *w) noexcept nogil:
    """Closes the pipe of `w` and what is in it."""
    linux.close(w.pipe_r)
    linux.close(w.pipe_w)
    c.pool.lent -= 1
    w.in_pipe = 0
    w.pipe_r = w.pipe_w = <int32_t>NOWHERE


cdef inline void pool_empty(Core *c) noexcept nogil:
    """Closes the idle pipes."""
    cdef Pool *p = &c.pool
    while p.idle > 0:
        p.idle -= 1
        linux.close(p.fds[2 * p.idle])
        linux.close(p.fds[2 * p.idle + 1])
