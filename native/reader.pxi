"""What the event loop calls when the relay's descriptor is readable."""

from core.types cimport Core, NOWHERE
from lane.types cimport Lane
from step cimport next_due, run


cdef class Reader:
    """What the event loop calls: a step, and `report` only where it has something to do.
    Most steps end here, without a Python frame."""

    cdef NativeRelay relay
    cdef object report
    cdef object stuck

    def __init__(self, NativeRelay relay not None, report, stuck):
        self.relay = relay
        self.report = report
        self.stuck = stuck

    def __call__(self):
        cdef NativeRelay relay = self.relay
        cdef Lane *lane = &relay.state
        if relay.closed:
            return
        with nogil:
            run(lane)
        if lane.asking.first != NOWHERE:
            try:
                put_questions(relay)
            finally:
                self._tell(relay)
        else:
            self._tell(relay)

    cdef int _tell(self, NativeRelay relay) except -1:
        """What there is to say after a step."""
        cdef Lane *lane = &relay.state
        cdef Core *c = &lane.core
        cdef bint ended = c.closed != NOWHERE
        cdef bint stuck = False
        ends = None
        if relay.closed:  # by what was asked
            return 0
        if ended or lane.accept_error or log_waits(lane) or records_wait(lane) or (
            sums_wait(lane) or lane.unseen
        ):
            try:
                ends = news(relay)
            except MemoryError:
                stuck = True  # no return from in here: see gather_ends
            if stuck:
                self.stuck()
                return 0
        if ends or lane.asking.first != NOWHERE or next_due(lane) < relay.told or (
            ended and c.tunnels == 0 and lane.clients == 0
        ):
            self.report(ends or [])
        return 0
