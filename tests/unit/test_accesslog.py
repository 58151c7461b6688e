"""The access log: squid's format, lines that no request can forge, and a writer that
never blocks the loop, tears no line and loses none that it has accepted."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import select
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.observe import accesslog, losses
from spliceproxy.observe.accesslog import AccessLog, open_log
from spliceproxy.observe.native_line import format_line
from spliceproxy.observe.record import Record
from spliceproxy.relay import columns, interface

try:
    import uvloop

    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
except ImportError:
    LOOPS = [asyncio.new_event_loop]


def record(**values):
    made = Record("192.0.2.7", 0.0)
    made.ended_at, made.seconds = 1286536308.779, 0.18
    made.method, made.target, made.status = "GET", "http://example.com/", 200
    made.peer, made.bytes_out = "198.51.100.1", 1234
    for name, value in values.items():
        setattr(made, name, value)
    return made


def target_of(line):
    return line.split()[6]


@pytest.fixture(params=LOOPS, ids=lambda make: make.__module__)
def run(request):
    """Runs ``main(loop)`` to its end."""
    loop = request.param()
    yield lambda main: loop.run_until_complete(main(loop))
    loop.close()


class Pipe:
    """A pipe, and the path under which the log opens its write end."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        self.path = f"/proc/self/fd/{self.writer}"

    def drop_writer(self):
        os.close(self.writer)
        self.writer = -1

    def read(self, count=65536):
        assert select.select([self.reader], [], [], 60)[0], "nothing more from the log"
        return os.read(self.reader, count)

    def read_all(self, piece=65536, pause=0.0):
        """To EOF, where drop_writer() was called."""
        data = b""
        while True:
            part = self.read(piece)
            if not part:
                return data
            data += part
            if pause:
                select.select([], [], [], pause)  # a slow reader

    def close(self):
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self.writer = -1


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


# ---- the line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"content_type": "text/html; charset=utf-8"},
            "1286536308.779    180 192.0.2.7 TCP_MISS/200 1234 GET http://example.com/ - "
            "HIER_DIRECT/198.51.100.1 text/html",
        ),
        (
            {"method": "CONNECT", "target": "example.com:443", "user": "ann", "seconds": 3600.25},
            "1286536308.779 3600250 192.0.2.7 TCP_TUNNEL/200 1234 CONNECT example.com:443 ann "
            "HIER_DIRECT/198.51.100.1 -",
        ),
        (
            {"client": "", "status": 0, "peer": "", "method": "", "target": "", "bytes_out": 0},
            "1286536308.779    180 - NONE/000 0 NONE error:invalid-request - HIER_NONE/- -",
        ),
        (
            {
                "client": "2001:db8::7",
                "peer": "2001:db8::1",
                "target": "http://[2001:db8::1]/?a=%20",
            },
            "1286536308.779    180 2001:db8::7 TCP_MISS/200 1234 GET http://[2001:db8::1]/?a=%20 - "
            "HIER_DIRECT/2001:db8::1 -",
        ),
    ],
)
def test_the_whole_line(values, line):
    assert format_line(record(bytes_in=179, **values)) == line + " in=179\n"


@pytest.mark.parametrize(
    ("values", "result"),
    [
        ({"status": 101}, "TCP_TUNNEL/101"),
        ({"status": 502, "error": "connection_refused"}, "TCP_MISS/502"),
        ({"status": 502, "error": "dns_error", "peer": ""}, "NONE/502"),
        ({"status": 400, "error": "http_request_error", "peer": ""}, "NONE/400"),
        ({"status": 403, "error": "http_request_denied", "peer": ""}, "TCP_DENIED/403"),
        ({"status": 407, "error": "http_request_denied", "peer": ""}, "TCP_DENIED/407"),
        ({"status": 403, "error": "destination_ip_prohibited", "peer": ""}, "TCP_DENIED/403"),
        ({"status": 403}, "TCP_MISS/403"),
        ({"peer": "", "target": "/proxy.pac"}, "TCP_HIT/200"),
        ({"peer": "", "status": 0}, "NONE/000"),
        ({"reason": interface.DONE}, "TCP_MISS/200"),
        ({"reason": interface.CLIENT_RESET}, "TCP_MISS_ABORTED/200"),
        ({"method": "CONNECT", "reason": interface.CLIENT_RESET}, "TCP_TUNNEL_ABORTED/200"),
        ({"method": "CONNECT", "reason": interface.IDLE}, "TCP_TUNNEL_TIMEDOUT/200"),
        ({"method": "CONNECT", "reason": interface.HALF_CLOSE}, "TCP_TUNNEL_TIMEDOUT/200"),
        ({"reason": interface.CLIENT_RESET, "status": 0, "peer": ""}, "NONE_ABORTED/000"),
    ],
)
def test_result_codes(values, result):
    assert format_line(record(**values)).split()[3] == result


@pytest.mark.parametrize(
    ("text", "target", "user"),
    [
        ("a b", "a%20b", "a%20b"),
        ("a\nb\r\0\x1b\x7f", "a%0Ab%0D%00%1B%7F", "a%0Ab%0D%00%1B%7F"),
        ("\"'", "%22%27", "%22%27"),
        ("é\u2028", "%C3%A9%E2%80%A8", "%C3%A9%E2%80%A8"),
        ("%0A", "%0A", "%250A"),
        ("<\\^`{|}>", "%3C%5C%5E%60%7B%7C%7D%3E", "%3C%5C%5E%60%7B%7C%7D%3E"),
        ("AZaz09!#$&()*+,-./:;=?@[]_~", *2 * ["AZaz09!#$&()*+,-./:;=?@[]_~"]),
    ],
)
def test_escaping(text, target, user):
    fields = format_line(record(target=text, user=text)).split(" ")
    assert fields[-4] == user
    assert fields[-5] == target


@settings(max_examples=200, deadline=None)
@given(*5 * [st.text(st.characters())])
def test_no_request_forges_a_line(method, target, user, peer, content_type):
    line = format_line(
        record(method=method, target=target, user=user, peer=peer, content_type=content_type)
    )
    assert re.fullmatch(r"[!-~]+ +[0-9]+( [!-~]+){8} in=[0-9]+\n", line)


@pytest.mark.parametrize("character", ["x", " ", "\u00e9", "\U0001f600"])
@pytest.mark.parametrize("last", ["", "rule", "error"])
def test_the_longest_line_fits_a_pipe_write(character, last):
    long = character * 70000
    more = {last: long} if last else {}
    line = format_line(
        record(
            client=long,
            method=long,
            target=long,
            user=long,
            peer=long,
            content_type=long,
            status=999,
            reason=interface.HALF_CLOSE,
            seconds=1e12,
            bytes_out=1 << 64,
            bytes_in=1 << 64,
            route=long,
            connect_by="address",
            tls_name="mismatch",
            sni="x" * 253,
            socks=5,
            name="host-mismatch",
            **more,
        )
    )
    assert 3600 < len(line) <= select.PIPE_BUF
    assert len(line.split()) == 17 + len(more)


# ---- the writer ----------------------------------------------------------------------


def test_a_line_arrives_without_a_close(run, pipe):
    async def main(loop):
        log = AccessLog(pipe.path, loop)
        log.write(record())
        line = await loop.run_in_executor(None, pipe.read)
        assert line.decode() == format_line(record())
        await log.close()
        await log.close()

    run(main)


def test_nothing_is_written_before_the_timer(run, pipe, monkeypatch):
    monkeypatch.setattr(accesslog, "FLUSH_SECONDS", 3600.0)

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        for _ in range(accesslog.FLUSH_RECORDS - 1):
            log.write(record())
        assert not select.select([pipe.reader], [], [], 0)[0]
        log.write(record())  # but a full batch goes at once
        data = await loop.run_in_executor(None, pipe.read, 1)
        assert data == b"1"
        pipe.drop_writer()
        rest, _ = await asyncio.gather(loop.run_in_executor(None, pipe.read_all), log.close())
        assert rest.count(b"\n") == accesslog.FLUSH_RECORDS

    run(main)


def test_a_record_that_cannot_be_written_costs_nobody_elses_line(run, pipe, caplog):
    """Whatever a field of it holds: the others of its flush are there, in their order."""
    bad = (
        {"status": 403.5},
        {"status": None},
        {"rule": object()},
        {"target": 7},
        {"seconds": float("nan")},
        {"bytes_out": object(), "user": b"ann"},
    )

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        pipe.drop_writer()
        for n, values in enumerate(bad):
            log.write(record(target=f"http://{n}.test/"))
            log.write(record(**values))
        log.write(record(target="http://last.test/"))
        await log.close()

    run(lambda loop: main(loop))
    text = pipe.read_all().decode()
    targets = [target_of(line) for line in text.splitlines()]
    assert targets == [*(f"http://{n}.test/" for n in range(len(bad))), "http://last.test/"]
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [bool(r.exc_info) for r in errors] == [True, False]  # the first, and how many
    assert f"{len(bad)} records could not be written" in caplog.text


def test_nothing_is_lost_to_a_slow_reader_at_the_end(run, pipe):
    lines = [f"/{n}/" + "x" * (n * 37 % 3000) for n in range(400)]

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        pipe.drop_writer()
        for line in lines:
            log.write(record(target=line))
        read = loop.run_in_executor(None, pipe.read_all, 16384, 0.002)
        await log.close()
        assert [target_of(line) for line in (await read).decode().splitlines()] == lines

    run(main)


def test_a_stuck_reader_blocks_nothing_and_memory_is_bounded(run, pipe, monkeypatch, caplog):
    monkeypatch.setattr(accesslog, "MAX_PENDING", 400_000)
    caplog.set_level(logging.WARNING)

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        pipe.drop_writer()
        batch = accesslog.FLUSH_RECORDS
        for n in range(16 * batch):  # of 1.1 kB; the pipe holds 64 KiB
            log.write(record(target=f"/{n}/" + "x" * 1000))
        for _ in range(batch):  # would fit, but the burst is not over
            log.write(record())
        assert log._writer.pending <= 400_000
        assert not caplog.records
        read = loop.run_in_executor(None, pipe.read_all)
        while log._writer.pending:  # noqa: ASYNC110 (the thread tells nobody)
            await asyncio.sleep(0.01)
        log.write(record(target="/last/"))
        await log.close()
        targets = [target_of(line) for line in (await read).decode().splitlines()]
        assert [target.split("/")[1] for target in targets] == [*map(str, range(batch)), "last"]
        assert caplog.messages == [f"access log: written too slowly, {16 * batch} lines dropped"]

    run(main)


def test_close_has_a_limit(run, pipe, monkeypatch, caplog):
    monkeypatch.setattr(accesslog, "CLOSE_SECONDS", 0.05)

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        for _ in range(2000):
            log.write(record())
        await log.close()
        (message,) = caplog.messages
        found = re.fullmatch(r"access log: (\d+) lines not written at the end", message)
        pipe.drop_writer()
        assert found
        assert pipe.read().count(b"\n") + int(found[1]) == 2000
        # The thread still ends once there is room.
        await loop.run_in_executor(None, pipe.read_all)
        await log._done.wait()

    run(main)


def test_a_reader_that_is_gone(run, pipe, caplog):
    async def main(loop):
        log = AccessLog(pipe.path, loop)
        pipe.close()
        for _ in range(2 * accesslog.FLUSH_RECORDS):
            log.write(record())
        await log.close()
        assert caplog.messages == [
            "access log: its reader is gone, no more lines are written",
            f"access log: its reader is gone, {2 * accesslog.FLUSH_RECORDS} lines dropped",
        ]

    run(main)


def test_rotation(run, tmp_path, caplog):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    path.write_text("before\n")

    async def main(loop):
        log = AccessLog(str(path), loop)
        log.write(record(target="/one"))
        path.rename(old)
        log.reopen()
        log.write(record(target="/two"))
        await log.close()

    run(main)
    assert old.read_text() == "before\n" + format_line(record(target="/one"))
    assert path.read_text() == format_line(record(target="/two"))
    assert path.stat().st_mode & 0o777 == 0o640 & ~umask()
    assert not caplog.records


def test_a_rotation_that_fails_keeps_the_file(run, tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()

    async def main(loop):
        log = AccessLog(str(folder / "access.log"), loop)
        folder.rename(tmp_path / "moved")
        log.reopen()
        log.write(record())
        await log.close()

    run(main)
    assert (tmp_path / "moved" / "access.log").read_text() == format_line(record())
    assert caplog.messages == [
        "access log: not reopened, the old file stays in use: "
        f"{folder}/access.log: No such file or directory"
    ]


def test_records_that_are_lost_elsewhere_are_told(run, tmp_path, monkeypatch, caplog):
    noted = []
    monkeypatch.setattr(accesslog.losses.Lines, "note", lambda _, *numbers: noted.append(numbers))

    async def main(loop):
        log = AccessLog(str(tmp_path / "log"), loop)
        log.miss(3)
        while not caplog.messages:  # noqa: ASYNC110 (the thread tells nobody)
            await asyncio.sleep(0.01)
        log.write(record())
        await log.close()
        log.miss(1)  # nobody is there any more

    run(main)
    assert caplog.messages == ["access log: no memory, 3 lines dropped"]
    assert (tmp_path / "log").read_text() == format_line(record())
    assert noted[0] == (0, 3)
    assert noted[-1] == (0, 0)


def test_a_full_disk_is_reported_once_and_survived(run, caplog):
    async def main(loop):
        log = AccessLog("/dev/full", loop)
        for _ in range(2 * accesslog.FLUSH_RECORDS):
            log.write(record())
        await log.close()

    run(main)
    assert caplog.messages == [
        "access log: lines are lost: No space left on device",
        f"access log: No space left on device, {2 * accesslog.FLUSH_RECORDS} lines dropped",
    ]


@pytest.fixture
def row(monkeypatch):
    """That of a worker, which this process is."""
    own = columns.private()
    monkeypatch.setattr(losses, "_own", own)
    return own


def settled(row):
    """What becomes of the lines of a worker that ends now: made, written, lost by cause, and how
    many are told of by the supervisor."""
    base = columns.private()
    _, told = losses.settle(row, base)
    causes = {
        "slow": row[columns.ACCESS_TOO_SLOW],
        "failed": row[columns.ACCESS_FAILED],
        "ended": base[columns.ACCESS_AT_END],
    }
    lost = {cause: number for cause, number in causes.items() if number}
    return row[columns.LINES_MADE], row[columns.LINES_WRITTEN], lost, told


def test_each_line_is_written_or_lost(run, pipe, row, monkeypatch):
    """Also those that nobody has turned into text yet, and those that are no line."""
    monkeypatch.setattr(accesslog, "FLUSH_SECONDS", 3600)

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        for _ in range(5):
            log.write(record())
        log.write(record(status=None))
        assert settled(row) == (6, 0, {"ended": 6}, 6)
        pipe.drop_writer()
        await log.close()
        assert settled(row) == (6, 5, {"failed": 1}, 0)
        assert pipe.read_all().count(b"\n") == 5

    run(main)


def test_what_was_dropped_is_lost_once(run, pipe, row, monkeypatch):
    """And told by the supervisor, if nobody has before."""
    monkeypatch.setattr(accesslog, "MAX_PENDING", 400_000)
    batch = accesslog.FLUSH_RECORDS

    async def main(loop):
        log = AccessLog(pipe.path, loop)
        pipe.drop_writer()
        for n in range(4 * batch):  # of 1.1 kB; the pipe holds 64 KiB
            log.write(record(target=f"/{n}/" + "x" * 1000))
        made, written, lost, told = settled(row)
        assert made == 4 * batch
        assert lost["slow"] == 3 * batch
        assert lost["slow"] + lost["ended"] + written == made
        assert told == lost["slow"] + lost["ended"]
        read = loop.run_in_executor(None, pipe.read_all)
        await log.close()
        assert settled(row) == (4 * batch, batch, {"slow": 3 * batch}, 0)
        assert (await read).count(b"\n") == batch

    run(main)


def test_what_cannot_be_written_has_failed(run, pipe, row):
    async def full(loop):
        log = AccessLog("/dev/full", loop)
        for _ in range(2 * accesslog.FLUSH_RECORDS):
            log.write(record())
        await log.close()
        assert settled(row) == (512, 0, {"failed": 512}, 0)

    async def gone(loop):
        log = AccessLog(pipe.path, loop)
        pipe.close()
        for _ in range(2 * accesslog.FLUSH_RECORDS):
            log.write(record())
        await log.close()
        assert settled(row) == (1024, 0, {"failed": 1024}, 0)

    run(full)
    run(gone)


def test_a_path_that_cannot_be_opened(run, tmp_path):
    os.mkfifo(tmp_path / "fifo")

    async def main(loop):
        for name in ("no/such/folder", "fifo", ""):  # the last is tmp_path itself
            with pytest.raises(OSError, match=re.escape(str(tmp_path))):
                open_log(str(tmp_path / name), loop)
        assert open_log("off", loop) is None

    threads = threading.active_count()
    run(main)
    assert threading.active_count() == threads


def test_at_rest_no_descriptor_and_no_thread_is_left(run, tmp_path):
    async def main(loop):
        before = len(os.listdir("/proc/self/fd"))
        log = AccessLog(str(tmp_path / "log"), loop)
        log.reopen()
        await log.close()
        log._writer.thread.join()
        assert len(os.listdir("/proc/self/fd")) <= before

    run(main)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- standard output, with other processes -------------------------------------------

WRITER = """
import asyncio, logging, resource, sys
from spliceproxy.observe.accesslog import open_log
from spliceproxy.observe.record import Record

def record(target):
    made = Record("192.0.2.7", 0.0)
    made.target = target
    return made

async def main():
    log = open_log("-", asyncio.get_running_loop())
    {body}
    await log.close()

asyncio.run(main())
"""

MANY = """
    for n in range(300):
        log.write(record(f"/{sys.argv[1]}/{n}/" + sys.argv[1] * (n * 53 % 3000)))
"""


def writer(body, *arguments, **options):
    body = body.strip().replace("{body}", "")
    command = [sys.executable, "-c", WRITER.replace("{body}", body), *arguments]
    return subprocess.Popen(command, **options)


@pytest.mark.parametrize("blocking", [True, False])
def test_processes_that_share_a_pipe_tear_no_line(pipe, blocking):
    if not blocking:
        flags = fcntl.fcntl(pipe.writer, fcntl.F_GETFL)
        fcntl.fcntl(pipe.writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    names = ["a", "b", "c"]
    running = [writer(MANY, name, stdout=pipe.writer) for name in names]
    pipe.drop_writer()
    text = pipe.read_all(8192, 0.001).decode()
    assert [process.wait() for process in running] == [0, 0, 0]
    for name in names:
        wanted = [f"/{name}/{n}/" + name * (n * 53 % 3000) for n in range(300)]
        lines = [target_of(line) for line in text.splitlines()]
        assert [line for line in lines if line.startswith(f"/{name}/")] == wanted
    assert len(text.splitlines()) == 900


def test_processes_that_share_a_file(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        running = [writer(MANY, name, stdout=out) for name in ("a", "b")]
        assert [process.wait() for process in running] == [0, 0]
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == 600
    assert all(re.fullmatch(r"/([ab])/\d+/\1*", target_of(line)) for line in lines)


def test_a_line_behind_a_torn_one_is_whole(tmp_path):
    body = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    log.write(record("/one"))
    log.write(record("/two"))
    log.reopen()
    while log._writer.pending:
        await asyncio.sleep(0.01)
    log.write(record("/lost"))
    log.reopen()
    while log._writer.pending:
        await asyncio.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    log.write(record("/three"))
"""
    with open(tmp_path / "out", "wb") as out:
        process = writer(body, stdout=out, stderr=subprocess.PIPE)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors.decode().splitlines() == [
        "access log: lines are lost: File too large",
        "access log: File too large, 2 lines dropped",
    ]
    lines = (tmp_path / "out").read_text().splitlines()
    assert [target_of(line) for line in lines if len(line.split()) == 11] == ["/one", "/three"]
    assert len(lines) == 3
