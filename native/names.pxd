"""The names of what the enums of core/types.pxd and lane/types.pxd count, for dump.pxd and the
owner. Each name is that of its constant, without the letter in front: Q_ORIGIN_IDLE is
"origin-idle". tests/relay/test_relay_dump.py reads the enums and misses none. Reasons and
causes have their words beside the enums, for Python."""

cdef extern from *:
    """
    static const char *const KIND_NAMES[] = {
        "free", "tunnel", "transfer", "listener", "client", "origin", NULL};
    static const char *const QUEUE_NAMES[] = {
        "none", "ack", "finished", "frozen", "young", "idle", "half", "name",
        "head", "ask", "dial", "race", "queue", "origin-idle", "header", NULL};
    static const char *const PHASE_NAMES[] = {
        "head", "ask", "queue", "dial", "parent", "wait", "body", NULL};
    static const char *const WAY_FLAG_NAMES[] = {  /* of bit 0, 1 and so on */
        "ended", "fin-sent", "stopped", "splicing", "copy-only", "narrow", "promised", NULL};
    """
    const char *const *KIND_NAMES
    const char *const *QUEUE_NAMES
    const char *const *PHASE_NAMES
    const char *const *WAY_FLAG_NAMES
