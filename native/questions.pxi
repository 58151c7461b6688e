"""What the owner is asked by the lane, as Python (lane/asking.pxd)."""

from sys import getsizeof
from types import MappingProxyType

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from core cimport linux
from closing cimport close_finished
from core.types cimport Flow, NOWHERE
from http.plain cimport CONNECT, Field, Head, OTHER, PLAIN_FIELDS, Text
from http.plain_request cimport read_request
from lane.asking cimport end_asking, open_question, tell_asked
from lane.ends cimport give_back
from lane.notes cimport note_new, note_release, take_note
from lane.received cimport head_received
from lane.request cimport put_user
from lane.routes cimport NAMED_MAX, client_named
from lane.types cimport Asked, Exchange, G_REQUEST, Lane, Note, Part, Token, USER_MAX, exchange_of

NO_TAGS = MappingProxyType({})

METHODS = ("GET", "HEAD", "CONNECT")
"""In the order of the enum Method of native/http/plain.pxd."""

cdef enum:
    QUESTIONS = 128         # that the owner is told of at a time
    ROUNDS = 8              # of those in a step


cdef class Known:
    """What is known of a request beyond its head, as it was at one moment: for its record, for
    those of requests on the same route, and for whoever goes on with it. It holds nothing else."""

    cdef readonly str host
    cdef readonly int port
    cdef readonly str user
    cdef readonly object tags
    cdef readonly tuple reported
    cdef readonly double looked_up
    cdef readonly str allowed_by
    cdef readonly int generation

    def __cinit__(self):
        self.host = self.user = self.allowed_by = ""
        self.tags = NO_TAGS
        self.reported = ()


cdef Known UNKNOWN = Known()


cdef Known known_of(notes):
    """Of any object with these attributes."""
    cdef Known known = Known.__new__(Known)
    known.host = notes.host
    known.port = notes.port
    known.user = notes.user
    known.tags = notes.tags
    known.reported = notes.reported
    known.looked_up = notes.looked_up
    known.allowed_by = notes.allowed_by
    known.generation = notes.generation
    return known


cdef size_t size_of(token) except? 0:
    """About as many bytes as a token holds by itself."""
    cdef Known known
    cdef size_t size = sizeof(Token) + sizeof(PyObject)
    if type(token) is not Known:
        return size
    known = token
    size += getsizeof(known) + getsizeof(known.host) + getsizeof(known.user)
    if known.tags is not NO_TAGS:
        size += getsizeof(known.tags)
        for name, value in known.tags.items():
            size += getsizeof(name) + getsizeof(value)
    return size


cdef uint32_t us_of(double seconds) noexcept:
    return <uint32_t>min(max(seconds, 0.0) * 1e6, 4e9)


cdef class Question:
    """One request that waits: spliceproxy/relay/questions.py says what it has. All of it stays
    readable when the request is over."""

    cdef NativeRelay relay
    cdef int32_t slot
    cdef uint32_t taken     # the generation of the slot
    cdef uint32_t before    # requests of this client that were answered
    cdef Asked asked
    cdef uint8_t how        # its method
    cdef list lines         # its fields, once somebody has looked at them
    cdef readonly bytes head
    cdef readonly str client
    cdef readonly str name  # `client`, as client_named has it (routes.pxd)
    cdef readonly str via
    cdef readonly int socks
    cdef readonly int received
    cdef readonly double started
    cdef object noting      # makes the note of its line, once its answer is waited for; or None
    cdef str identified     # the user
    cdef object labels      # the tags
    cdef double searched    # seconds for which a name was looked up
    cdef public str host
    cdef public int port
    cdef public tuple reported
    cdef public str allowed_by
    cdef readonly int generation
    cdef public object trace

    @property
    def user(self):
        return self.identified

    @user.setter
    def user(self, str user not None):
        """Also for the line of a client that leaves before there is an answer."""
        cdef Lane *lane = &self.relay.state
        cdef int32_t slot = self._slot()
        cdef bytes shown
        self.identified = user
        if slot != NOWHERE:
            shown = user.encode()
            if len(shown) < USER_MAX:
                put_user(lane, exchange_of(&lane.core.flows[slot]), as_text(shown))
            self._note(slot)

    @property
    def tags(self):
        return self.labels

    @tags.setter
    def tags(self, labels):
        """Likewise."""
        cdef int32_t slot = self._slot()
        self.labels = labels
        if slot != NOWHERE:
            self._note(slot)

    @property
    def looked_up(self):
        return self.searched

    @looked_up.setter
    def looked_up(self, double seconds):
        """Likewise."""
        cdef int32_t slot = self._slot()
        self.searched = seconds
        if slot != NOWHERE:
            exchange_of(&self.relay.state.core.flows[slot]).dns = us_of(seconds)

    cdef int _note(self, int32_t slot) except -1:
        """What is known by now, for the line of a client that leaves. Most questions are answered
        before anybody can leave: only of one that is waited for it is made."""
        cdef Note *note
        cdef bytes text
        if self.noting is None:
            return 0
        text = self.noting(self)
        if not text or len(text) > self.relay.state.log.note_most:
            return 0
        note = note_new(as_text(text))
        if note == NULL:
            raise MemoryError
        take_note(exchange_of(&self.relay.state.core.flows[slot]), note)
        note_release(note)
        return 0

    cdef int wait(self, object noting) except -1:
        """Its answer is waited for from here on."""
        cdef int32_t slot = self._slot()
        self.noting = noting
        return self._note(slot)

    def known(self):
        """What is known by now. The head is not kept with it."""
        cdef Known known = Known.__new__(Known)
        known.host = self.host
        known.port = self.port
        known.user = self.identified
        known.tags = self.labels
        known.reported = self.reported
        known.looked_up = self.searched
        known.allowed_by = self.allowed_by
        known.generation = self.generation
        return known

    @property
    def kind(self):
        return chr(self.asked.kind)

    @property
    def where(self):
        """Its kind, and the authority behind it."""
        cdef const Part *part = &self.asked.authority
        cdef const char *head = self.head
        cdef bytes text = PyBytes_FromStringAndSize(NULL, part.size + 1)
        cdef char *at = text
        at[0] = <char>self.asked.kind
        memcpy(at + 1, head + part.at, part.size)
        return text

    @property
    def uid(self):
        """Of the process behind a Unix socket, -1 where nobody knows."""
        cdef linux.ucred peer
        cdef linux.socklen_t size = sizeof(peer)
        cdef int32_t slot = self._slot()
        if slot == NOWHERE or self.via or linux.getsockopt(
            self.relay.state.core.flows[slot].fd[0], linux.SOL_SOCKET, linux.SO_PEERCRED, &peer,
            &size
        ) < 0:
            return -1
        return peer.uid

    @property
    def ident(self):
        return (<uint64_t>self.taken << 32) | <uint32_t>self.slot

    @property
    def method(self):
        if self.how != OTHER:
            return METHODS[self.how]
        return self.head[:self.head.index(b" ")].decode("ascii")

    @property
    def scheme(self):
        return "" if self.how == CONNECT else "http"

    @property
    def authority(self):
        return self._part(&self.asked.authority)

    @property
    def path(self):
        return self._part(&self.asked.path).decode("ascii")

    @property
    def fields(self):
        if self.lines is None:
            self.lines = fields_of(self.relay, self.head)
        return self.lines

    def values(self, bytes name not None):
        if name == b"proxy-authorization":
            return [self._part(&self.asked.credentials)] if self.asked.credentials.size else []
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def credentials(self):
        return self._part(&self.asked.credentials)

    @property
    def waits(self):
        """Whether it has no answer yet, and its client is there."""
        return self._slot() != NOWHERE

    @property
    def number(self):
        """Of the request, for its record; 0 where there is no log."""
        cdef int32_t slot = self._slot()
        if slot == NOWHERE:
            return 0
        return exchange_of(&self.relay.state.core.flows[slot]).number

    @property
    def followed(self):
        """Whether the client has said more than this request."""
        cdef int32_t slot = self._slot()
        cdef const Exchange *x
        if slot == NOWHERE:
            return False
        x = exchange_of(&self.relay.state.core.flows[slot])
        return x.have > x.head

    @property
    def closes(self):
        """Whether the client's connection has to end behind an answer of the owner's: it wants
        that, or a body is on its way."""
        cdef int32_t slot = self._slot()
        cdef const Exchange *x
        if slot == NOWHERE:
            return True
        x = exchange_of(&self.relay.state.core.flows[slot])
        return x.close or x.length >= 0 or x.up.on

    cdef bytes _part(self, const Part *part):
        cdef const char *head = self.head
        return head[part.at:part.at + part.size]

    cdef int32_t _slot(self) noexcept:
        if self.relay.closed:
            return NOWHERE
        return open_question(
            &self.relay.state.core, self.slot, self.taken, self.before)


cdef list fields_of(NativeRelay relay, bytes head):
    """Name and value of each field of a plain head."""
    cdef Field fields[PLAIN_FIELDS]
    cdef Head found
    cdef int i
    cdef list lines = []
    cdef int count = read_request(&relay.state.plain, head, len(head), &found, fields)
    for i in range(count):
        lines.append((
            fields[i].name.at[:fields[i].name.size], fields[i].value.at[:fields[i].value.size]))
    return lines


cdef Question question_of(NativeRelay relay, int32_t slot):
    cdef const Flow *f = &relay.state.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef Question q = Question.__new__(Question)
    cdef char room[NAMED_MAX]
    cdef Text named
    q.relay = relay
    q.slot = slot
    q.taken = f.generation
    q.generation = x.generation = relay.state.generation
    q.before = x.requests
    q.asked = x.asked
    q.how = x.method
    q.head = x.data[:x.head]
    q.client = q.name = x.address.decode("ascii")
    q.via = via_of(x)
    q.socks = x.socks
    q.received = head_received(x)
    if x.via != NULL or x.place:
        named = client_named(x, room)
        q.name = named.at[:named.size].decode("ascii")
    q.started = x.started / 1e6
    q.host = q.identified = q.allowed_by = ""
    q.labels = NO_TAGS
    q.reported = ()
    return q


cdef list questions_of(NativeRelay relay):
    """Those that the owner has not been told of. A client that there is no memory to ask about
    is given back."""
    cdef Lane *lane = &relay.state
    cdef list questions = []
    cdef Question question
    cdef Exchange *x
    cdef int32_t slot
    while lane.asking.last != NOWHERE and len(questions) < QUESTIONS:
        slot = lane.asking.last
        x = exchange_of(&lane.core.flows[slot])
        try:
            question = question_of(relay, slot)
            if x.record != NULL:
                x.record.token = token_new(relay, question)
            questions.append(question)
            tell_asked(lane, slot)
        except MemoryError:
            give_back(lane, slot, G_REQUEST)
    return questions


cdef int hand_over_rest(NativeRelay relay, list questions) except -1:
    """The owner goes on with the clients of the questions that have found no answer."""
    cdef Question q
    cdef int32_t slot
    for q in questions:
        slot = q._slot()
        if slot != NOWHERE:
            end_asking(&relay.state, slot)
            give_back(&relay.state, slot, G_REQUEST)
    return 0


cdef int put_questions(NativeRelay relay) except -1:
    """Puts the questions of this step to the owner. Where it raises, the clients that have no
    answer are given back. Answers may lead to further questions, of which some may have to
    wait for the next step."""
    cdef Lane *lane = &relay.state
    cdef list questions
    cdef int left = ROUNDS
    while lane.asking.first != NOWHERE and left > 0 and not relay.closed:
        left -= 1
        questions = questions_of(relay)
        try:
            relay.owner.asked(questions)
        except BaseException as error:
            hand_over_rest(relay, questions)
            if not isinstance(error, MemoryError):
                raise
        finally:
            close_finished(lane)
    return 0
