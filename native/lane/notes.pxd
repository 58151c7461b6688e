"""What the lines of all requests on a route have in common: a text of the owner's, which its target
and each exchange on it hold."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from http.plain cimport Text
from lane.types cimport Exchange, Note


cdef inline Note *note_new(Text text) noexcept nogil:
    """Held once; NULL without memory."""
    cdef Note *note = <Note *>malloc(sizeof(Note) + text.size)
    if note != NULL:
        note.holders = 1
        note.size = <uint32_t>text.size
        note.text = <char *>(note + 1)
        memcpy(note.text, text.at, text.size)
    return note


cdef inline void note_release(Note *note) noexcept nogil:
    if note == NULL:
        return
    note.holders -= 1
    if note.holders == 0:
        free(note)


cdef inline void take_note(Exchange *x, Note *note) noexcept nogil:
    """That of the request in work, which may have none."""
    if note != NULL:
        note.holders += 1
    note_release(x.note)
    x.note = note
