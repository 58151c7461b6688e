"""Listening sockets: one per worker, exclusive, with their options; Unix socket files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spliceproxy.config import Address
from spliceproxy.net import tcp
from spliceproxy.processes import listeners
from spliceproxy.processes.listeners import ListenError, Listeners

LOCAL = Address(host="127.0.0.1")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@contextlib.contextmanager
def bound(*addresses: Address, workers: int = 1) -> Iterator[Listeners]:
    listening = listeners.bind(addresses, workers)
    try:
        yield listening
    finally:
        listening.close()


def accepted(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """Every connection that waits on these."""
    found = []
    for sock in sockets:
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(sock.accept()[0])
    return found


def reach(host: str, port: int) -> None:
    socket.create_connection((host, port), 20).close()


def open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that read the directory
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


# TCP


def test_each_worker_has_a_socket_on_the_port_that_the_first_was_given() -> None:
    with bound(LOCAL, workers=3) as listening:
        (address,) = listening.addresses
        sockets = [listening.of(worker) for worker in range(3)]
        assert address.port > 0
        assert len({sock for (sock,) in sockets}) == 3
        assert {sock.getsockname()[1] for (sock,) in sockets} == {address.port}


def test_the_kernel_spreads_connections_over_all_workers() -> None:
    with bound(LOCAL, workers=3) as listening, contextlib.ExitStack() as stack:
        port = listening.addresses[0].port
        counts = [0, 0, 0]
        while not all(counts):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            for worker in range(3):
                got = accepted(listening.of(worker))
                counts[worker] += len(got)
                for s in got:
                    s.close()
            assert sum(counts) < 500  # by chance: (2/3) ** 500


def test_accepted_sockets_inherit_the_options() -> None:
    with bound(LOCAL) as listening:
        (sock,) = listening.of(0)
        assert sock.gettimeout() == 0.0
        with socket.create_connection(sock.getsockname(), 20):
            (s,) = accepted([sock])
            with s:
                for level, option, value in (
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
                    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, tcp.KEEPALIVE_IDLE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, tcp.KEEPALIVE_INTERVAL),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, tcp.KEEPALIVE_COUNT),
                ):
                    assert s.getsockopt(level, option) == value, option


@needs_ipv6
def test_no_host_is_every_address_of_both_families() -> None:
    with bound(Address()) as listening:
        port = listening.addresses[0].port
        for host in ("127.0.0.1", "127.0.0.2", "::1"):
            reach(host, port)


def test_no_host_is_ipv4_where_ipv6_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(listeners.socket, "socket", without_ipv6)
    listening = listeners.bind([Address()], 2)
    monkeypatch.undo()
    with contextlib.closing(listening):
        assert {listening.of(worker)[0].family for worker in range(2)} == {socket.AF_INET}
        reach("127.0.0.1", listening.addresses[0].port)


@needs_ipv6
def test_ipv6_host_leaves_ipv4_alone() -> None:
    with bound(Address(host="::")) as listening:
        port = listening.addresses[0].port
        reach("::1", port)
        with bound(Address(host="0.0.0.0", port=port)):
            reach("127.0.0.1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_port_in_use(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = Address(host=host, port=port)
        with pytest.raises(ListenError) as caught:
            listeners.bind([address], 2)
        assert str(caught.value) == f"cannot listen on {address}: another program uses it"


def test_port_of_another_reuseport_group_is_in_use() -> None:
    with bound(LOCAL, workers=2) as first:
        with pytest.raises(ListenError, match="another program uses it"):
            listeners.bind(first.addresses, 2)
        reach("127.0.0.1", first.addresses[0].port)
        assert len(accepted([*first.of(0), *first.of(1)])) == 1


def test_of_many_at_the_same_time_one_gets_the_port() -> None:
    with bound(LOCAL) as probe:
        address = probe.addresses[0]
    barrier = threading.Barrier(8)
    won: list[Listeners] = []
    lost: list[ListenError] = []

    def compete() -> None:
        barrier.wait(20)
        try:
            won.append(listeners.bind([address], 2))
        except ListenError as error:
            lost.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for listening in won:
            listening.close()
        # Two that bind before either listens may both lose a turn; never two win.
        assert len(won) <= 1
        assert len(won) + len(lost) == 8
        won.clear()
        lost.clear()


def test_past_connections_do_not_keep_the_port() -> None:
    with bound(LOCAL) as listening:
        address = listening.addresses[0]
        with socket.create_connection(("127.0.0.1", address.port), 20) as client:
            for s in accepted(listening.of(0)):
                s.close()  # closes first: TIME_WAIT is on this side
            assert client.recv(1) == b""
    with bound(address):
        reach("127.0.0.1", address.port)


def test_address_of_another_machine() -> None:
    with pytest.raises(ListenError) as caught:
        listeners.bind([Address(host="192.0.2.1", port=8888)], 1)
    text = "cannot listen on 192.0.2.1:8888: this machine has no such address"
    assert str(caught.value) == text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_low_port_without_the_right_to_it() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(ListenError) as caught:
            listeners.bind([Address(host="127.0.0.1", port=1)], 1)
    finally:
        os.seteuid(0)
    assert str(caught.value) == "cannot listen on 127.0.0.1:1: permission denied"


def test_nothing_is_left_when_a_later_address_fails(tmp_path: Path) -> None:
    path = tmp_path / "listen"
    before = open_files()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = [LOCAL, Address(path=str(path)), Address(host="127.0.0.1", port=port)]
        with pytest.raises(ListenError):
            listeners.bind(addresses, 2)
    assert open_files() <= before
    assert not path.exists()


def test_keep_closes_what_others_own() -> None:
    with bound(LOCAL, LOCAL, workers=2) as listening:
        listening.keep(1)
        assert [sock.fileno() for sock in listening.of(0)] == [-1, -1]
        for sock in listening.of(1):
            reach("127.0.0.1", sock.getsockname()[1])
        assert len(accepted(listening.of(1))) == 2


# Unix sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listen"


def unix_connect(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(str(path))


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()


def test_unix_socket_is_shared_and_removed_at_the_end(path: Path) -> None:
    with bound(Address(path=str(path)), workers=2) as listening:
        assert listening.of(0) == listening.of(1)
        listening.keep(1)
        assert unix_connect(path) == 0
        assert len(accepted(listening.of(1))) == 1
    assert not path.exists()


def test_stale_socket_is_replaced(path: Path) -> None:
    leave_stale(path)
    with bound(Address(path=str(path))):
        assert unix_connect(path) == 0


def test_live_socket_is_in_use(path: Path) -> None:
    with bound(Address(path=str(path))):
        with pytest.raises(ListenError) as caught:
            listeners.bind([Address(path=str(path))], 1)
        assert str(caught.value) == f"cannot listen on unix:{path}: another program uses it"
        assert unix_connect(path) == 0


def test_live_socket_with_a_full_backlog_is_in_use(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        while True:  # until it would wait
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.setblocking(False)
            if s.connect_ex(str(path)) != 0:
                break
        with pytest.raises(ListenError, match="another program uses it"):
            listeners.bind([Address(path=str(path))], 1)
        assert path.is_socket()


def test_socket_of_datagrams_is_in_use(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ListenError, match="another program uses it"):
            listeners.bind([Address(path=str(path))], 1)
        assert path.is_socket()


def test_other_file_is_an_error_and_stays(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ListenError, match="a file of that name exists and is not a socket"):
        listeners.bind([Address(path=str(path))], 1)
    assert path.read_text() == "precious"


def test_link_to_a_live_socket_is_an_error(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(ListenError, match="not a socket"):
        listeners.bind([Address(path=str(path))], 1)


def test_no_such_directory(path: Path) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on unix:.*: No such file or directory"):
        listeners.bind([Address(path=str(path / "deeper"))], 1)


def test_file_of_a_successor_is_left_alone(path: Path) -> None:
    old = listeners.bind([Address(path=str(path))], 1)
    path.unlink()
    with bound(Address(path=str(path))):
        old.close()
        assert unix_connect(path) == 0


def test_file_is_removed_by_the_process_that_bound_it_only(path: Path) -> None:
    with bound(Address(path=str(path))) as listening:
        pid = os.fork()
        if pid == 0:
            listening.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert unix_connect(path) == 0


def test_check_and_bind_wait_for_a_rival(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "LOCK_PATIENCE", 0.0)
    leave_stale(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ListenError, match="another process holds a lock"):
            listeners.bind([Address(path=str(path))], 1)
        assert path.is_socket()
    finally:
        os.close(handle)
    with bound(Address(path=str(path))):
        assert unix_connect(path) == 0


# Other settings


def changed(old: Listeners, *addresses: Address, workers: int = 1) -> Listeners:
    """In force, in the place of the old ones."""
    new = old.changed(addresses, workers)
    old.leave(new)
    return new


def test_what_stays_is_the_same_sockets(tmp_path: Path) -> None:
    path = Address(path=str(tmp_path / "s"))
    before = open_files()
    old = listeners.bind([LOCAL, path], 2)
    sockets, (bound_at, _) = [*old.of(0), *old.of(1)], old.addresses
    new = changed(old, LOCAL, path, workers=2)
    assert [*new.of(0), *new.of(1)] == sockets
    assert new.addresses[0] == bound_at  # port 0 is the port that it got
    newer = changed(new, path, workers=2)
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", bound_at.port)
    assert newer.of(0) == [sockets[1]]
    newer.close()
    assert not (tmp_path / "s").exists()
    assert open_files() == before


def test_no_queue_is_given_up_with_its_worker() -> None:
    """Clients wait in it. With fewer workers all accept from those that are left over, so that none
    has more than its share."""
    old = listeners.bind([LOCAL], 4)
    port = old.addresses[0].port
    queues = [sock for worker in range(4) for sock in old.of(worker)]
    for _ in range(40):
        reach("127.0.0.1", port)
    new = changed(old, LOCAL, workers=2)
    assert new.of(0) == [queues[0], *queues[2:]]
    assert new.of(1) == [queues[1], *queues[2:]]
    assert new.alone(1) == [queues[1]]
    assert len(accepted(new.of(0)) + accepted(new.of(1))) == 40
    more = changed(new, LOCAL, workers=6)
    assert [more.of(worker)[0] for worker in range(4)] == queues
    assert len({sock for worker in range(6) for sock in more.of(worker)}) == 6
    more.close()


def test_what_cannot_be_bound_changes_nothing(tmp_path: Path) -> None:
    before = open_files()
    old = listeners.bind([LOCAL], 2)
    there = open_files()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = Address("127.0.0.1", taken.getsockname()[1])
        path = Address(path=str(tmp_path / "s"))
        with pytest.raises(ListenError, match="another program uses it"):
            old.changed([LOCAL, path, wanted], 5)
    assert open_files() == there
    assert not (tmp_path / "s").exists()
    reach("127.0.0.1", old.addresses[0].port)
    old.close()
    assert open_files() == before


def test_what_is_undone_leaves_nothing(tmp_path: Path) -> None:
    old = listeners.bind([LOCAL], 1)
    there = open_files()
    path = Address(path=str(tmp_path / "s"))
    old.changed([LOCAL, path], 3).undo()
    assert open_files() == there
    assert not (tmp_path / "s").exists()
    reach("127.0.0.1", old.addresses[0].port)
    old.close()


def test_an_address_that_overlaps_with_one_that_goes() -> None:
    port = Address("127.0.0.1", bound_port())
    with bound(port) as old, pytest.raises(ListenError, match="which it would give up"):
        old.changed([Address("", port.port)], 1)


def bound_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])
