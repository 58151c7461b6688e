"""Tokens: Python objects of whoever wants to know how an exchange ends. An exchange ends without
the GIL, so its token is put aside here; the room for it is made when the exchange gets it.
"""

from cpython.ref cimport PyObject
from libc.stdlib cimport realloc

from lane.types cimport Exchange, Tokens

cdef enum:
    FIRST_TOKENS = 64


cdef inline bint tokens_reserve(Tokens *t) noexcept nogil:
    """Makes room for one token more; false without memory."""
    cdef int room = max(2 * t.room, <int>FIRST_TOKENS)
    cdef PyObject **all
    if t.count + t.lent < t.room:
        return True
    all = <PyObject **>realloc(t.all, room * sizeof(PyObject *))
    if all == NULL:
        return False
    t.all = all
    t.room = room
    return True


cdef inline void token_lend(Tokens *t, Exchange *x, PyObject *token) noexcept nogil:
    """The exchange has it from here on, with the reference. There is room."""
    x.token = token
    t.lent += 1


cdef inline void token_aside(Tokens *t, Exchange *x) noexcept nogil:
    """The exchange is over."""
    if x.token == NULL:
        return
    t.all[t.count] = x.token
    t.count += 1
    t.lent -= 1
    x.token = NULL
