"""What the owner is told, as Python: ends, records, clients that are given back, and the names of
what C counts."""


cdef int agree(str what, object owners, tuple words, int count) except -1:
    """ImportError unless the words of the owner are those of a C enum, in its order."""
    if len(words) != count or owners != words:
        raise ImportError(
            f"the compiled relay was built from other sources: its {what} are {words}, "
            f"{count} in C, and those of spliceproxy.relay are {owners}")
    return 0


agree("reasons", interface.REASONS,
      tuple([reason_words[i].decode() for i in range(REASON_WORDS)]), REASONS)
agree("causes", words.CAUSES, tuple([cause_words[i].decode() for i in range(CAUSE_WORDS)]), CAUSES)


cdef tuple names_in(const char *const *names):
    cdef list found = []
    while names[len(found)] != NULL:
        found.append((<const char *>names[len(found)]).decode("ascii"))
    return tuple(found)


NAMES = {
    "Kind": names_in(KIND_NAMES),
    "Queue": names_in(QUEUE_NAMES),
    "Phase": names_in(PHASE_NAMES),
    "Way.flags": names_in(WAY_FLAG_NAMES),
}


cdef object end_of(const Flow *f):
    """How a tunnel or a transfer has ended."""
    cdef const Way *up = &f.way[0]
    cdef const Way *down = &f.way[1]
    if f.kind == TRANSFER:
        return TransferEnd(interface.REASONS[f.reason], f.err, up.copied, up.spliced)
    return TunnelEnd(
        interface.REASONS[f.reason], f.err, up.copied, up.spliced, down.copied, down.spliced,
        f.info[:f.info_len[0]] if f.info_len[0] else b"",
        f.info[INFO_MAX:INFO_MAX + f.info_len[1]] if f.info_len[1] else b"",
    )


METHODS = ("GET", "HEAD", "CONNECT")
"""In the order of the enum Method of native/http/plain.pxd."""


cdef object filled(make, const Entry *e, const char *text):
    """A record of the owner's, with all that is known here."""
    record = make((<char *>e.client).decode("ascii"))
    record.ended_at = e.ended / 1e6
    record.seconds = e.took / 1e6
    record.method = METHODS[e.method]
    record.target = text[:e.target_size].decode("ascii")
    record.user = (<char *>e.user).decode()
    record.peer = (<char *>e.peer).decode("ascii")
    record.status = e.status
    record.content_type = text[e.target_size:e.target_size + e.type_size].decode("latin-1")
    if e.reason != R_DONE:
        record.reason = interface.REASONS[e.reason]
    record.bytes_in = e.received
    record.bytes_out = e.sent
    return record


cdef tuple failures(const Exchange *x):
    """The attempts to connect that have failed: (address, errno) of each."""
    cdef list failed = []
    cdef int i
    for i in range(x.failures):
        address = address_of(x.target, x.failed[i].address).text.decode("ascii")
        failed.append((address, x.failed[i].error))
    return tuple(failed)


cdef object handoff(Flow *f):
    cdef Exchange *x = exchange_of(f)
    return Handoff(
        words.CAUSES[x.cause], f.fd[0], x.address.decode("ascii"), x.requests,
        x.data[:x.have] if x.have else b"", x.origin_fd,
        x.answer[:x.answer_size] if x.answer_size else b"", x.peer.decode("ascii"), x.reused,
        (x.dialling if x.cause == G_REQUEST else x.started) / 1e6,
        failures(x) if x.phase == P_DIAL and x.failures else (),
    )
