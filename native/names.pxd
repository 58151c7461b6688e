"""The names of what the enums of core/types.pxd and lane/types.pxd count, for dump.pxd and the
owner. Each name is that of its constant, without the letter in front: Q_ORIGIN_IDLE is
"origin-idle". tests/unit/test_native_names.py reads the enums and misses none."""

cdef extern from *:
    """
    static const char *const KIND_NAMES[] = {
        "free", "tunnel", "transfer", "listener", "client", "origin", NULL};
    static const char *const QUEUE_NAMES[] = {
        "none", "ack", "finished", "young", "idle", "half",
        "head", "dial", "race", "queue", "origin-idle", NULL};
    static const char *const PHASE_NAMES[] = {
        "head", "queue", "dial", "wait", "body", NULL};
    static const char *const CAUSE_NAMES[] = {
        "closed", "request", "retry", "response", "unanswered", "linger", "refused", NULL};
    static const char *const REASON_NAMES[] = {
        "none", "done", "side0", "side1", "idle", "half-close", "aborted", "source-eof",
        "target-idle", "client-gone", "given-back", NULL};
    static const char *const WAY_FLAG_NAMES[] = {  /* of bit 0, 1 and so on */
        "ended", "fin-sent", "stopped", "splicing", "copy-only", NULL};
    """
    const char *const *KIND_NAMES
    const char *const *QUEUE_NAMES
    const char *const *PHASE_NAMES
    const char *const *CAUSE_NAMES
    const char *const *REASON_NAMES
    const char *const *WAY_FLAG_NAMES
