"""The owner's side of the lane: clients in and out, routes, idle connections."""

cdef class NativeLane:
    """The lane (exchange.pxd) of a native relay: spliceproxy/relay/lane.py says what each
    method promises."""

    cdef NativeRelay relay
    cdef dict origins       # index of each origin, by the owner's key
    cdef object record      # makes a record for the log, None without one

    def __init__(self, NativeRelay relay not None, options, owner):
        cdef Lane *lane = &relay.state
        cdef Core *c = &lane.core
        if lane.out != NULL:
            raise RuntimeError("the relay has a lane already")
        self.relay = relay
        self.origins = {}
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        wheel_init(c, Q_HEAD, <int64_t>(options.head * 1000))
        wheel_init(c, Q_ASK, <int64_t>(options.ask * 1000))
        wheel_init(c, Q_DIAL, <int64_t>(options.dial * 1000))
        wheel_init(c, Q_RACE, <int64_t>(options.race * 1000))
        wheel_init(c, Q_QUEUE, QUEUE_MS)
        wheel_init(c, Q_ORIGIN_IDLE, <int64_t>(options.idle * 1000))
        lane.refusals = words.REFUSALS
        for error in errnos.TRANSIENT:
            lane.transient[<int>error] = True
        for letter in options.asks:
            lane.asks[ord(letter)] = True
        lane.idle_most = options.idle_most
        lane.idle_each = options.idle_each
        self.record = options.record
        lane.log.on = options.record is not None
        lane.first_port, lane.last_port = options.ports
        if not routes_init(&lane.routes):
            raise MemoryError
        lane.routes.seed = int.from_bytes(urandom(4), "little")
        lane.plain.via = copy_of(options.via)
        lane.plain.via_size = len(options.via)
        lane.plain.name = copy_of(options.name.lower())
        lane.plain.name_size = len(options.name)
        lane.established = copy_of(options.established)
        lane.established_size = len(options.established)
        set_alphabet(lane)
        set_rules(lane.plain.request, options.request_rules)
        set_rules(lane.plain.response, options.response_rules)
        set_rules(lane.plain.schemes, dict.fromkeys(options.schemes, "pass"))
        lane.out = <char *>malloc(PLAIN_OUT)
        if lane.out == NULL:
            raise MemoryError
        relay.owner = owner

    @property
    def clients(self):
        """Client connections that are here, tunnels not counted."""
        return self.relay.state.clients

    @property
    def idle(self):
        """Idle connections to origins."""
        return self.relay.state.idle_count

    # ---- clients -------------------------------------------------------------------

    def listen(self, int fd):
        """Accepts from a listening socket, which stays the owner's."""
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot
        if not slots_reserve(c, 1):
            raise MemoryError
        slot = slot_take(c, fd, NOWHERE, LISTENER)
        if watch(c, slot, 0, linux.EPOLLIN) < 0:
            slot_free(c, slot)
            PyErr_SetFromErrno(OSError)

    def unlisten(self):
        """Accepts no more, from any socket."""
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot
        for slot in range(c.capacity):
            if c.flows[slot].kind == LISTENER:
                watch(c, slot, 0, <uint32_t>UNREGISTERED)
                slot_free(c, slot)

    def limit(self, int most, int others):
        """Beyond `most` connections (0: no limit) clients are refused; the owner has
        `others` of them."""
        self.relay.state.most = most
        self.relay.state.others = others

    def hand_over(self, int fd, str address, bytes data, uint32_t requests):
        """Takes a client between two requests. OSError: it is still the owner's."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef char text[PEER_MAX]
        cdef int32_t slot
        cdef Exchange *x
        if self.relay.closed:
            raise RuntimeError("the relay is closed")
        put_text(text, address)
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        slot = client_new(lane, fd)
        if slot == NOWHERE:
            PyErr_SetFromErrno(OSError)
        x = exchange_of(&c.flows[slot])
        x.requests = requests
        memcpy(x.address, text, PEER_MAX)
        if data:
            begin(lane, slot, data, len(data))
        close_finished(lane)

    def give_back(self):
        """Gives back every client that is between two requests, and takes none again."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        lane.draining = True
        for slot in range(c.capacity):
            if c.flows[slot].kind == CLIENT and c.flows[slot].queue != Q_FINISHED:
                if exchange_of(&c.flows[slot]).phase == P_HEAD:
                    give_back(lane, slot, G_REQUEST)
        close_finished(lane)
        self.close_idle()

    def close_clients(self):
        """Closes every client, whatever it is at."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        for slot in range(c.capacity):
            if c.flows[slot].kind != CLIENT or c.flows[slot].queue == Q_FINISHED:
                continue
            if exchange_of(&c.flows[slot]).phase == P_HEAD:
                give_back(lane, slot, G_CLOSED)
            else:
                cut(lane, slot, R_ABORTED)
        close_finished(lane)

    # ---- routes --------------------------------------------------------------------

    def add_client(self, str address, str group):
        """A client of this address is of this `group`, as of :meth:`add_route`."""
        cdef char text[PEER_MAX]
        put_text(text, group)
        memcpy(self._route(ADDRESS, address, b"", b"").peer, text, PEER_MAX)

    def add_route(self, str kind, str group, bytes credentials, bytes authority, key,
                  bytes host, double seconds, bytes address, str peer, bint single, str user):
        """Requests of this kind, group of clients, credentials and authority may go to the
        origin `key` for so many seconds. `address` is a struct sockaddr, b"" if only idle
        connections may be used."""
        cdef int32_t origin
        cdef Route *r
        if len(address) > ADDRESS_MAX or len(user.encode()) >= USER_MAX:
            return
        if len(credentials) + len(authority) > KEY_MAX - PEER_MAX - 4:
            return
        origin = self._origin(key)  # may forget every route
        r = self._route(ord(kind), group, credentials, authority)
        self._fill(r, origin, host, seconds, address, peer, single, user)

    cdef int _fill(self, Route *r, int32_t origin, bytes host, double seconds, bytes address,
                   str peer, bint single, str user) except -1:
        cdef char far[PEER_MAX]
        cdef char *value
        cdef bytes shown = user.encode()
        put_text(far, peer)
        value = copy_of(host)
        free(r.host)
        r.host = value
        r.host_size = len(host)
        r.origin = origin
        r.until = clock_ms(linux.CLOCK_MONOTONIC_COARSE) + <int64_t>(seconds * 1000)
        r.renew = r.until - <int64_t>(seconds * 1000) // RENEW_SHARE
        r.asked = False
        r.address_size = len(address)
        memcpy(r.address, <const char *>address, len(address))
        r.single = single
        memcpy(r.peer, far, PEER_MAX)
        memset(r.user, 0, USER_MAX)
        memcpy(r.user, <const char *>shown, len(shown))

    cdef Route *_route(
        self, uint8_t kind, str client, bytes credentials, bytes authority
    ) except NULL:
        """The route with this key, or a new one. ValueError for a key that is too long."""
        cdef Lane *lane = &self.relay.state
        cdef char text[KEY_MAX]
        cdef bytes name = client.encode("ascii")
        cdef size_t size
        cdef int32_t index
        size = route_key(text, kind, as_text(name), as_text(credentials), as_text(authority))
        if size == 0:
            raise ValueError(f"no key of a route: {client!r}, {authority!r}")
        if lane.routes.count == ROUTES:
            routes_clear(&lane.routes)
        index = route_add(&lane.routes, text, size)
        if index == NOWHERE:
            raise MemoryError
        return &lane.routes.all[index]

    # ---- questions -----------------------------------------------------------------

    def answer(self, Question question not None, str group, key, bytes host not None,
               tuple addresses not None, int port, double seconds, str user not None, token):
        """The request of a question may go to the origin `key`, at one of these addresses; for
        so many seconds others like it may, of clients of this `group`. False where nobody waits
        for that any more."""
        cdef Lane *lane = &self.relay.state
        cdef Exchange *x
        cdef Route *r
        cdef int32_t slot, origin
        cdef bytes address
        if question._slot() == NOWHERE:
            return False
        address = address_of(addresses[0], port)
        if not slots_reserve(&lane.core, 1) or not tokens_reserve(&lane.tokens):
            raise MemoryError
        origin = self._origin(key)  # may forget every route, and give clients back
        slot = question._slot()
        if slot == NOWHERE:
            return False
        x = exchange_of(&lane.core.flows[slot])
        if seconds > 0 and group is not None and self._fits(question):
            self.add_client(question.client, group)
            r = self._route(
                question.asked.kind, group, question.credentials, question.authority)
        else:
            r = <Route *>calloc(1, sizeof(Route))
            if r == NULL:
                raise MemoryError
            x.once = r
        try:
            self._fill(
                r, origin, host, seconds, address, addresses[0], len(addresses) == 1, user)
        except BaseException:
            route_drop(x)
            raise
        if token is not None:
            Py_INCREF(token)
            token_lend(&lane.tokens, x, <PyObject *>token)
        lane.core.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        go_on(lane, slot)
        return True

    def refuse(self, Question question not None, bytes data not None, bint keep):
        """Sends an answer of the owner's. Returns how many bytes of it were sent, or -1: as of
        `refuse` of response.pxd, and where nobody waits for it any more."""
        cdef Core *c = &self.relay.state.core
        cdef int32_t slot = question._slot()
        cdef ssize_t sent
        if slot == NOWHERE or not slots_reserve(c, 1):
            return -1
        c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
        return refuse(&self.relay.state, slot, data, len(data), keep)

    cdef bint _fits(self, Question question):
        """Whether there can be a route for such requests."""
        return question.asked.credentials.size + question.asked.authority.size <= (
            KEY_MAX - PEER_MAX - 4)

    def hand_back(self, Question question not None):
        """Its owner goes on with the client of a question. False where nobody waits any more."""
        cdef int32_t slot = question._slot()
        if slot == NOWHERE:
            return False
        end_asking(&self.relay.state, slot)
        give_back(&self.relay.state, slot, G_REQUEST)
        return True

    def forget(self):
        """Forgets every route."""
        routes_clear(&self.relay.state.routes)

    cdef int32_t _origin(self, key) except -1:
        cdef Lane *lane = &self.relay.state
        cdef int32_t i
        found = self.origins.get(key)
        if found is not None:
            return found
        if lane.routes.origin_count == ORIGINS:
            self._forget_origins()
        i = lane.routes.origin_count
        self.origins[key] = i
        origin_init(&lane.routes.origins[i])
        lane.routes.origin_count += 1
        return i

    cdef void _forget_origins(self):
        """Their number is bounded: all go, and what is in use is closed afterwards."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot
        self.close_idle()
        routes_clear(&lane.routes)
        for slot in range(c.capacity):
            if c.flows[slot].kind == ORIGIN:
                connection_of(&c.flows[slot]).origin = NOWHERE
            elif c.flows[slot].kind == CLIENT and exchange_of(&c.flows[slot]).phase == P_QUEUE:
                if c.flows[slot].queue != Q_FINISHED:
                    give_back(lane, slot, G_REQUEST)
        close_finished(lane)
        self.origins.clear()
        lane.routes.origin_count = 0

    # ---- idle connections ----------------------------------------------------------

    def take(self, key, addresses):
        """(descriptor, address of the peer) of the idle connection used last of those to one
        of `addresses`, or None."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef int32_t slot, following
        found = self.origins.get(key)
        slot = NOWHERE if found is None else lane.routes.origins[<int32_t>found].idle.first
        while slot != NOWHERE:
            following = c.flows[slot].near[IN_LANE].next
            peer = connection_of(&c.flows[slot]).peer.decode("ascii")
            taken = c.flows[slot].fd[0], peer  # now: behind the next line it must not fail
            if peer in addresses and idle_use(lane, slot):
                connection_take_out(lane, slot)
                return taken
            slot = following
        return None

    def put(self, key, int fd, str peer):
        """Keeps a connection between two messages, or closes it."""
        cdef Lane *lane = &self.relay.state
        cdef Core *c = &lane.core
        cdef char text[PEER_MAX]
        cdef int32_t slot
        try:
            put_text(text, peer)
            if not slots_reserve(c, 1):
                raise MemoryError
            c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
            slot = connection_new(lane, fd, self._origin(key), text)
            if slot == NOWHERE:
                raise MemoryError
        except BaseException:
            linux.close(fd)
            raise
        connection_of(&c.flows[slot]).probed = True  # by whoever has made it
        idle_put(lane, slot)

    def close_idle(self):
        """Closes every idle connection."""
        cdef Lane *lane = &self.relay.state
        cdef int32_t i
        for i in range(lane.routes.origin_count):
            while lane.routes.origins[i].idle.first != NOWHERE:
                idle_drop(lane, lane.routes.origins[i].idle.first)

    # ---- the log -------------------------------------------------------------------

    def take_log(self):
        """What has been noted since the last call."""
        cdef Lane *lane = &self.relay.state
        cdef Entry entry
        cdef const char *at = lane.log.at
        cdef const char *end = at + lane.log.used
        cdef list records = []
        while at < end:
            memcpy(&entry, at, sizeof(Entry))
            at += sizeof(Entry)
            records.append(filled(self.record, &entry, at))
            at += entry.target_size + entry.type_size
        lane.log.used = 0
        lane.log.count = 0
        lane.log.told = False
        return records
