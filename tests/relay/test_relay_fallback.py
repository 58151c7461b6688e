"""Where splice(2) does not work, or no longer, or pipes cannot be had: copying, no loss.

Each case runs in a child process, for a seccomp filter and a uid cannot be taken back.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from no_splice import SPLICE_NUMBER

HERE = Path(__file__).parent
NOBODY = 65534

needs_seccomp = pytest.mark.skipif(
    platform.machine() not in SPLICE_NUMBER, reason="the number of splice(2) is not known here"
)
errors = pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EINVAL"])

PREAMBLE = """
import errno, fcntl, os, sys
sys.path.insert(0, {here!r})
from no_splice import forbid_splice
from relay_rig import *
from spliceproxy.relay.choice import EngineError, choose
from spliceproxy.relay.interface import DONE, RelayOptions

# One thread plays both peers and the relay: the filter holds for this thread only.
class Transmission:
    def __init__(self, relay, peers, size=12 << 20):
        self.relay, (self.source, self.target) = relay, peers
        self.source.setblocking(False)
        self.target.setblocking(False)
        self.data, self.got, self.sent = payload(size), bytearray(), 0
        self.ends = []
    def send(self):
        try:
            self.sent += self.source.send(self.data[self.sent:self.sent + (1 << 18)])
        except BlockingIOError:
            return False
        if self.sent == len(self.data):
            self.source.shutdown(socket.SHUT_WR)
            return False
        return True
    def receive(self):
        try:
            part = self.target.recv(1 << 18)
        except BlockingIOError:
            return
        if part:
            self.got += part
        else:
            self.target.close()
            self.target = None
    def step(self):
        self.ends += self.relay.step()
    def until_pipe_is_full(self):
        # Promote with a reader, then go on without one.
        while self.relay.stats().spliced == 0:
            self.send(); self.step(); self.receive()
        quiet = 0
        while quiet < 50:
            quiet = 0 if self.send() else quiet + 1
            self.step()
            time.sleep(0.001)
        assert self.relay.stats().pipes_lent == 1
    def finish(self):
        limit = time.monotonic() + PATIENCE
        while not self.ends:
            assert time.monotonic() < limit
            if self.sent < len(self.data):
                self.send()
            self.step()
            if self.target is not None:
                self.receive()
        assert self.got == self.data
        ((_, end),) = self.ends
        assert end.reason == DONE, end
        assert end.up_copied + end.up_spliced == len(self.data)
        return end

def start(relay):
    client, inner_client = narrow_pair()
    origin, inner_origin = narrow_pair()
    relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", None)
    return client, origin
"""


def child(code: str, *args: str) -> str:
    """Runs ``code`` in a new process; what it printed."""
    text = PREAMBLE.format(here=str(HERE)) + code
    done = subprocess.run(
        [sys.executable, "-c", text, *args], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(engine: str) -> None:
    if engine == "native":
        from relay_rig import native_relay

        native_relay()


@needs_seccomp
@errors
@pytest.mark.parametrize("engine", ["native", "splice"])
def test_splice_starts_to_fail_with_bytes_in_the_pipe(engine: str, error: str) -> None:
    need(engine)
    child(
        """
engine, error = sys.argv[1:]
before = open_fds()
relay, why = choose(engine, RelayOptions())
work = Transmission(relay, start(relay))
work.until_pipe_is_full()
spliced = relay.stats().spliced
forbid_splice(getattr(errno, error))
end = work.finish()
stats = relay.stats()
assert stats.spliced == spliced, (stats, spliced)
assert stats.splice_fallbacks == 1, stats
assert stats.pipes_lent == 0, stats
work.source.close()
relay.close()
assert open_fds() == before
""",
        engine,
        error,
    )


@needs_seccomp
@errors
@pytest.mark.parametrize("engine", ["native", "splice"])
def test_splice_starts_to_fail_with_an_empty_pipe(engine: str, error: str) -> None:
    need(engine)
    child(
        """
engine, error = sys.argv[1:]
relay, why = choose(engine, RelayOptions())
work = Transmission(relay, start(relay))
while relay.stats().spliced == 0:
    work.send(); work.step(); work.receive()
while relay.stats().pipes_lent:
    work.step(); work.receive()
spliced = relay.stats().spliced
forbid_splice(getattr(errno, error))
work.finish()
stats = relay.stats()
assert stats.spliced == spliced, (stats, spliced)
assert stats.splice_fallbacks == 1, stats
relay.close()
""",
        engine,
        error,
    )


@needs_seccomp
@errors
def test_the_choice_where_splice_does_not_work(error: str) -> None:
    out = child(
        """
error, = sys.argv[1:]
forbid_splice(getattr(errno, error))
try:
    choose("splice", RelayOptions())
except EngineError as fault:
    assert str(fault) == f"splice: splice(2): {error}", fault
else:
    raise AssertionError("splice was chosen")
relay, why = choose("auto", RelayOptions())
assert relay.engine in ("native", "copy"), relay
assert why.endswith(f"splice(2): {error}"), why
work = Transmission(relay, start(relay))
work.finish()
assert relay.stats().spliced == 0
relay.close()
print(why)
""",
        error,
    )
    assert error in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("engine", ["native", "splice"])
def test_no_pipe_left_in_the_quota_of_the_user(engine: str) -> None:
    """The kernel hands out pipes of 8 KiB then, silently (pipe(7))."""
    need(engine)
    child(
        """
import resource
engine, uid = sys.argv[1:]
relay, why = choose(engine, RelayOptions())
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
os.setuid(int(uid))
hoard = []
small = False
while not small:
    r, w = os.pipe()
    hoard += r, w
    try:
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        small = fcntl.fcntl(w, fcntl.F_GETPIPE_SZ) < 65536
before = open_fds()
work = Transmission(relay, start(relay))
end = work.finish()
stats = relay.stats()
assert end.up_spliced == 0, end
assert stats.pipe_starved > 0, stats
assert stats.splice_fallbacks == 0, stats
assert stats.pipes_lent == stats.pipes_idle == 0, stats
work.source.close()
assert open_fds() == before
# Where pipes can be had again, they are used again.
for fd in hoard:
    os.close(fd)
time.sleep(1.1)
work = Transmission(relay, start(relay))
assert work.finish().up_spliced > 0
relay.close()
""",
        engine,
        str(NOBODY),
    )


def test_no_descriptor_left_for_a_pipe() -> None:
    child(
        """
import resource
relay, why = choose("splice", RelayOptions())
work = Transmission(relay, start(relay))
top = max(int(fd) for fd in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (top, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
while True:
    try:
        os.dup(0)
    except OSError:
        break
assert work.finish().up_spliced == 0
assert relay.stats().pipe_starved > 0
"""
    )


def test_a_write_to_a_closed_socket_does_not_kill_the_process() -> None:
    """splice(2) cannot say MSG_NOSIGNAL, so SIGPIPE must be ignored."""
    out = child(
        """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
relay, why = choose("splice", RelayOptions())
assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
work = Transmission(relay, start(relay))
work.until_pipe_is_full()
reset(work.target)
while not work.ends:
    work.step()
    try:
        work.send()
    except ConnectionError:
        pass
print(work.ends[0][1].reason)
"""
    )
    assert out == "origin-reset\n"
