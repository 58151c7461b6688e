"""Files of a directory: what is found, what never is, conditions, ranges, sendfile."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spliceproxy.errors import Failure, PeerGone
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.net.stream import Stream
from spliceproxy.site import files
from spliceproxy.site.conditional import parse_date
from spliceproxy.site.files import Site, send_file
from spliceproxy.site.opening import unserved

try:
    import uvloop

    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
except ImportError:
    LOOPS = [asyncio.new_event_loop]

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
PAC = b"function FindProxyForURL(url, host) { return 'DIRECT'; }\n"
CHANGED = 1_700_000_000  # of /proxy.pac, Unix seconds


def request(path, method="GET", **fields) -> RequestHead:
    lines = [f"{method} {path} HTTP/1.1", "Host: proxy"]
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            lines.append(f"{name.replace('_', '-')}: {value}")
    return parse_request("\r\n".join([*lines, "", ""]).encode("latin-1"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    outside = tmp_path_factory.mktemp("files")
    (outside / "secret").write_text("secret")
    root = outside / "root"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "odd" / "index.html").mkdir(parents=True)
    for name, data in {
        "index.html": b"<h1>hello</h1>",
        "proxy.pac": PAC,
        "empty.txt": b"",
        "a b%2Fc": b"odd",
        "..data": b"hidden",
        ".env": b"hidden",
        "back\\slash": b"never",
        ".git/config": b"hidden",
        "sub/index.html": b"sub",
        "sub/file": b"file",
    }.items():
        (root / name).write_bytes(data)
    os.utime(root / "proxy.pac", (CHANGED, CHANGED))
    (root / "link-out").symlink_to(outside / "secret")
    (root / "link-in").symlink_to(root / "proxy.pac")
    (root / "dir-out").symlink_to(outside)
    (root / "dir-in").symlink_to(root / "sub")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
    return root


@pytest.fixture(scope="module")
def site(root):
    return Site(root)


@pytest.fixture(autouse=True)
def no_descriptor_is_left(request):
    before = len(os.listdir("/proc/self/fd"))
    yield
    if "run" not in request.fixturenames:  # a loop has its own
        # Fewer, if what an earlier test has left is closed only now, by a thread or as garbage.
        assert len(os.listdir("/proc/self/fd")) <= before


def fetch(site, path, method="GET", **fields):
    """(status, fields, content) of the answer."""
    with site.find(request(path, method, **fields)) as answer:
        content = answer.body
        if answer.fd is not None:
            content += os.pread(answer.fd, answer.length, answer.offset)
            assert len(content) == answer.length
        lines = answer.head(DATE, 1, False).decode().split("\r\n")
        assert lines[-2:] == ["", ""]
        assert lines[0].startswith(f"HTTP/1.1 {answer.status} ")
        return answer.status, dict(line.split(": ", 1) for line in lines[1:-2]), content


# ---- links ---------------------------------------------------------------------------


NOWHERE = """
out out-and-in absolute deep deeper loop dangling through through-parent ..data ..data/proxy.pac
sub/parent/.. proxy.pac/ out/x absolute/x
"""


@pytest.fixture
def config_map(tmp_path):
    """A volume as the kubelet's atomic writer makes it, and links that lead nowhere."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "volume"
    data = root / "..2026_11_29_10_00_00.1"
    (data / "sub").mkdir(parents=True)
    (data / "proxy.pac").write_bytes(PAC)
    (data / "sub" / "index.html").write_bytes(b"sub")
    (root / "..data").symlink_to(data.name)
    (root / "proxy.pac").symlink_to("..data/proxy.pac")
    (root / "sub").symlink_to("..data/sub")
    (data / "up.pac").symlink_to("sub/.././/../proxy.pac")
    (data / "sub" / "self").symlink_to(".")
    (data / "sub" / "parent").symlink_to("..")
    for name, target in {
        "out": "../secret",
        "out-and-in": "../volume/proxy.pac",
        "absolute": root / "..data" / "proxy.pac",
        "deep": "sub/../../secret",  # sub is a link: this is below ..data's folder
        "deeper": "sub/../../../secret",
        "loop": "loop",
        "dangling": "absent",
        "through": "proxy.pac/x",
        "through-parent": "proxy.pac/..",
    }.items():
        (root / name).symlink_to(target)
    return root


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/proxy.pac", (200, PAC)),
        ("/sub/", (200, b"sub")),
        ("/sub", (301, None)),
        ("/sub/index.html", (200, b"sub")),
        ("/sub/self/self/index.html", (200, b"sub")),
        ("/sub/parent/up.pac", (200, PAC)),
        ("/sub/parent", (301, None)),
        ("/sub/parent/", (404, None)),
        *[(f"/{name}", (404, None)) for name in NOWHERE.split()],
    ],
)
def test_links_within_the_folder_are_followed(config_map, path, wanted):
    status, _, content = fetch(Site(config_map, links=True), path)
    assert (status, content if wanted[1] else None) == wanted
    assert fetch(Site(config_map), path)[0] == 404  # every one of them is behind a link


def test_an_update_of_a_config_map_shows_at_once(config_map):
    site = Site(config_map, links=True)
    new = config_map / "..2026_11_29_10_05_00.2"
    new.mkdir()
    (new / "proxy.pac").write_bytes(b"new")
    (config_map / "..data_tmp").symlink_to(new.name)
    (config_map / "..data_tmp").rename(config_map / "..data")
    assert fetch(site, "/proxy.pac")[2] == b"new"


def test_a_folder_that_is_moved_while_it_is_walked_leads_nowhere_else(config_map, monkeypatch):
    """ ".." of a link is where the walk came from, not where the folder is now."""
    (config_map / "proxy.pac").unlink()
    (config_map / "a" / "b").mkdir(parents=True)
    (config_map / "a" / "link").symlink_to("b/../../secret")
    (config_map / "secret").write_bytes(b"inside")
    real = os.open

    def move(path, flags, mode=0o777, *, dir_fd=None):
        fd = real(path, flags, mode, dir_fd=dir_fd)
        if path == b"b":
            (config_map / "a" / "b").rename(config_map.parent / "b")  # beside the real secret
        return fd

    monkeypatch.setattr(os, "open", move)
    assert fetch(Site(config_map, links=True), "/a/link")[2] == b"inside"


def test_walking_leaves_no_descriptor_behind(config_map):
    site = Site(config_map, links=True)
    before = len(os.listdir("/proc/self/fd"))
    for name in os.listdir(config_map):
        fetch(site, f"/{name}")
        fetch(site, f"/{name}/x/y")
    assert len(os.listdir("/proc/self/fd")) == before


def test_which_links_are_not_served(config_map):
    names = {os.path.basename(path) for path in unserved(str(config_map), links=True)}
    assert names == {
        *("out", "out-and-in", "absolute", "deep", "deeper", "loop", "dangling", "through"),
        "through-parent",
    }
    everything = {os.path.basename(path) for path in unserved(str(config_map), links=False)}
    assert everything == names | {"proxy.pac", "sub"}


# ---- finding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", b"<h1>hello</h1>"),
        ("/?query", b"<h1>hello</h1>"),
        ("/index.html", b"<h1>hello</h1>"),
        ("/proxy.pac", PAC),
        ("/proxy.pac?a=%zz", PAC),
        ("/pro%78y%2Epac", PAC),
        ("/empty.txt", b""),
        ("/a%20b%252Fc", b"odd"),
        ("/sub/", b"sub"),
        ("/s%75b/file", b"file"),
    ],
)
def test_found(site, path, content):
    status, fields, got = fetch(site, path)
    assert (status, got) == (200, content)
    assert fields["Content-Length"] == str(len(content))
    assert fields["Date"] == DATE.decode()
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Accept-Ranges"] == "bytes"
    assert "Connection" not in fields


@pytest.mark.parametrize(
    "path",
    [
        "/absent",
        "/absent/",
        "/proxy.pac/",
        "/proxy.pac/x",
        "/../secret",
        "/%2e%2e/secret",
        "/.%2E/secret",
        "/sub/../proxy.pac",
        "/sub/./file",
        "/..%2fsecret",
        "/sub%2Ffile",
        "/sub%2f..%2f..%2fsecret",
        "/%2f/etc/passwd",
        "//etc/passwd",
        "//",
        "/sub//file",
        "/..\\secret",
        "/back\\slash",
        "/back%5Cslash",
        "/proxy.pac%00",
        "/%00",
        "/.env",
        "/%2Eenv",
        "/.git/config",
        "/..data",
        "/link-out",
        "/link-in",
        "/dir-out",
        "/dir-out/secret",
        "/dir-in/",
        "/dir-in/file",
        "/fifo",
        "/socket",
        "/sub/empty/",
        "/odd/",
        "/%252e%252e/secret",
        "/" + "x" * 300,
        "/" + "x/" * 3000,
        "/%ff%fe",
    ],
)
def test_not_found(site, path):
    status, fields, content = fetch(site, path)
    assert (status, content) == (404, b"404 Not Found\n")
    assert fields["Content-Type"] == "text/plain; charset=utf-8"
    assert fields["Content-Length"] == str(len(content))


@pytest.mark.parametrize("path", ["/%", "/%z0", "/a%2", "/%u002e"])
def test_malformed(site, path):
    assert fetch(site, path)[0] == 400


def test_a_folder_without_its_slash(site):
    status, fields, _ = fetch(site, "/sub")
    assert (status, fields["Location"]) == (301, "/sub/")
    assert fetch(site, "/su%62?a=//b")[1]["Location"] == "/su%62/?a=//b"


def test_head_has_the_fields_of_get(site):
    for path in ("/proxy.pac", "/absent", "/sub"):
        status, fields, content = fetch(site, path, "HEAD")
        assert content == b""
        assert (status, fields) == fetch(site, path)[:2]


def test_other_methods(site):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
        status, fields, _ = fetch(site, "/proxy.pac", method)
        assert (status, fields["Allow"]) == (405, "GET, HEAD")


def test_a_file_that_may_not_be_read(site, monkeypatch):
    def refused(path, flags, mode=0o777, *, dir_fd=None):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refused)
    assert fetch(site, "/proxy.pac")[0] == 403


def test_no_descriptor_to_be_had(site, monkeypatch):
    """No fault of the request: whoever serves it answers that, and tells it."""

    def full(path, flags, mode=0o777, *, dir_fd=None):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", full)
        with pytest.raises(OSError, match="Too many open files"):
            site.find(request("/proxy.pac"))


def test_the_root_must_be_a_folder(root, tmp_path):
    with pytest.raises(NotADirectoryError):
        Site(root / "proxy.pac")
    with pytest.raises(FileNotFoundError):
        Site(root / "absent")
    (tmp_path / "current").symlink_to(root)  # the root itself may be a link
    assert fetch(Site(tmp_path / "current"), "/proxy.pac")[2] == PAC


SEGMENT = st.sampled_from(
    [
        *("", "..", ".", "%2e%2e", "%2E.", "..%2f", "%2f", "%5c", "\\", "%00", "%c0%ae", "%25"),
        *("~", "root", "secret", "sub", "file", "link-out", "link-in", "dir-out", "dir-in"),
        *("index.html", "proxy.pac", "etc", "passwd"),
    ]
)
PATHS = st.one_of(
    st.lists(SEGMENT, max_size=8).map(lambda names: "/" + "/".join(names)),
    st.text("./%2eEfF5c0\\sub", max_size=20).map(lambda text: "/" + text),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, blacklist_characters="#")).map(
        lambda text: "/" + text
    ),
)


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(PATHS)
@example("/dir-out/secret")
@example("/sub/../../secret")
@example("/sub/file")
def test_whatever_the_path_the_file_is_inside(site, root, path):
    with site.find(request(path)) as answer:
        assert answer.status in (200, 301, 400, 404)
        if answer.fd is not None:
            real = Path(os.readlink(f"/proc/self/fd/{answer.fd}"))
            assert real.is_relative_to(root)
            assert not any(part.startswith(".") for part in real.relative_to(root).parts)
        location = dict(answer.fields).get(b"Location", b"/x")
        assert location[:1] == b"/"
        assert location[1:2] not in (b"/", b"\\")


# ---- heads ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.pac", "application/x-ns-proxy-autoconfig"),
        ("wpad.dat", "application/x-ns-proxy-autoconfig"),
        ("other.dat", "application/octet-stream"),
        ("a.crt", "application/x-x509-ca-cert"),
        ("a.cer", "application/x-x509-ca-cert"),
        ("a.der", "application/x-x509-ca-cert"),
        ("a.pem", "application/x-x509-ca-cert"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
        ("a.\u00e9", "application/octet-stream"),
    ],
)
def test_content_types(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"x")
    path = "/" + name.replace("\u00e9", "%C3%A9")
    with Site(tmp_path).find(request(path)) as answer:
        assert (answer.status, answer.content_type) == (200, kind)
    assert fetch(Site(tmp_path), path)[1]["Content-Type"] == kind


def test_connection_field(site):
    with site.find(request("/")) as answer:
        assert b"\r\nConnection: close\r\n" in answer.head(DATE, 1, True)
        assert b"\r\nConnection: close\r\n" in answer.head(DATE, 0, True)
        assert b"\r\nConnection: keep-alive\r\n" in answer.head(DATE, 0, False)
        assert b"Connection" not in answer.head(DATE, 1, False)


def test_last_modified_is_never_in_the_future(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    later = time.time() + 86400
    os.utime(tmp_path / "f", (later, later))
    assert parse_date(fetch(Site(tmp_path), "/f")[1]["Last-Modified"].encode()) <= time.time()


def test_the_tag_changes_with_the_file(tmp_path):
    file, site = tmp_path / "f", Site(tmp_path)

    def tag():
        return fetch(site, "/f")[1]["ETag"]

    tags = []
    for data, stamp in ((b"one", 1), (b"longer", 1), (b"longer", 2)):
        file.write_bytes(data)
        os.utime(file, ns=(stamp, stamp))
        tags.append(tag())
        assert tag() == tags[-1]
    other = tmp_path / "g"
    other.write_bytes(b"LONGER")
    os.utime(other, ns=(2, 2))
    other.rename(file)
    tags.append(tag())
    assert len(set(tags)) == 4


# ---- preconditions -------------------------------------------------------------------

BEFORE, SAME, AFTER = (formatdate(CHANGED + n, usegmt=True) for n in (-1, 0, 1))
TAG = "TAG"  # stands for the file's entity tag


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (304, {"If_None_Match": TAG}),
        (304, {"If_None_Match": "W/" + TAG}),
        (304, {"If_None_Match": "*"}),
        (304, {"If_None_Match": f'"a,b", W/"c" ,{TAG}'}),
        (304, {"If_None_Match": ['"a"', TAG]}),
        (200, {"If_None_Match": '"other"'}),
        (200, {"If_None_Match": '""'}),
        (200, {"If_None_Match": f'"x{TAG}'}),
        (200, {"If_None_Match": f"junk {TAG}"}),
        (200, {"If_None_Match": '"other"', "If_Modified_Since": AFTER}),
        (304, {"If_None_Match": TAG, "If_Modified_Since": BEFORE}),
        (304, {"If_Modified_Since": SAME}),
        (304, {"If_Modified_Since": AFTER}),
        (200, {"If_Modified_Since": BEFORE}),
        (200, {"If_Modified_Since": "yesterday"}),
        (200, {"If_Match": TAG}),
        (200, {"If_Match": "*"}),
        (200, {"If_Match": f'"a", {TAG}'}),
        (412, {"If_Match": '"other"'}),
        (412, {"If_Match": "W/" + TAG}),
        (412, {"If_Match": ""}),
        (200, {"If_Match": TAG, "If_Unmodified_Since": BEFORE}),
        (304, {"If_Match": TAG, "If_None_Match": TAG}),
        (412, {"If_Match": '"other"', "If_None_Match": TAG}),
        (412, {"If_Unmodified_Since": BEFORE}),
        (200, {"If_Unmodified_Since": SAME}),
        (200, {"If_Unmodified_Since": "never"}),
        (304, {"If_None_Match": TAG, "Range": "bytes=0-0"}),
        (412, {"If_Match": '"other"', "Range": "bytes=0-0"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_preconditions(site, method, status, fields):
    plain = fetch(site, "/proxy.pac")[1]

    def with_tag(value):
        return value.replace(TAG, plain["ETag"])

    for name, value in fields.items():
        fields = fields | {
            name: with_tag(value) if isinstance(value, str) else [with_tag(v) for v in value]
        }
    got, answer, content = fetch(site, "/proxy.pac", method, **fields)
    assert got == status
    if status == 304:
        assert content == b""
        assert "Content-Length" not in answer
        assert (answer["ETag"], answer["Last-Modified"]) == (plain["ETag"], SAME)


def test_a_precondition_needs_a_file(site):
    assert fetch(site, "/absent", If_None_Match="*")[0] == 404
    assert fetch(site, "/sub", If_None_Match="*")[0] == 301


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Tue, 29 Feb 2028 23:59:60 GMT", 1835481599),
        (b"Tuesday, 01-Jan-30 00:00:00 GMT", 1893456000),
        (b"Wed, 29 Feb 2023 00:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 24:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"Sun, 06 Foo 1994 08:49:37 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"1994-11-06T08:49:37Z", None),
        (b"", None),
        (None, None),
    ],
)
def test_dates(text, seconds):
    assert parse_date(text) == seconds


# ---- ranges --------------------------------------------------------------------------

SIZE = len(PAC)


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("Bytes = 5-9", 5, 9),
        ("bytes=5-", 5, SIZE - 1),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=-5", SIZE - 5, SIZE - 1),
        ("bytes=-99999", 0, SIZE - 1),
        ("bytes=5-99999", 5, SIZE - 1),
        (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE - 1),
        ("bytes=1-" + "9" * 19, 1, SIZE - 1),
    ],
)
def test_a_range(site, value, first, last):
    status, fields, content = fetch(site, "/proxy.pac", Range=value)
    assert (status, content) == (206, PAC[first : last + 1])
    assert fields["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert fields["Content-Length"] == str(last + 1 - first)
    assert fields["Content-Type"] == "application/x-ns-proxy-autoconfig"


@pytest.mark.parametrize("value", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE}", "bytes=-0"])
def test_a_range_that_is_not_there(site, value):
    status, fields, _ = fetch(site, "/proxy.pac", Range=value)
    assert (status, fields["Content-Range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize(
    "value",
    [
        *("bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=2-1", "bytes=a-b", "lines=0-1", "bytes=1"),
        *("bytes=+1-2", "bytes=1-2 3", "bytes=0-" + "9" * 20, "bytes=--1"),
        ["bytes=0-1", "bytes=2-3"],
    ],
)
def test_ranges_that_are_ignored(site, value):
    status, fields, content = fetch(site, "/proxy.pac", Range=value)
    assert (status, content) == (200, PAC)
    assert "Content-Range" not in fields


def test_range_is_for_get(site):
    status, fields, _ = fetch(site, "/proxy.pac", "HEAD", Range="bytes=0-0")
    assert (status, fields["Content-Length"]) == (200, str(SIZE))


def test_ranges_of_an_empty_file(site):
    assert fetch(site, "/empty.txt", Range="bytes=0-")[0] == 416
    assert fetch(site, "/empty.txt", Range="bytes=-0")[0] == 416
    assert fetch(site, "/empty.txt", Range="bytes=-5")[0] == 200


def test_if_range(site, monkeypatch):
    tag = fetch(site, "/proxy.pac")[1]["ETag"]
    for value, status in (
        (tag, 206),
        (SAME, 206),
        ("W/" + tag, 200),
        ('"other"', 200),
        (BEFORE, 200),
        (AFTER, 200),
        ("x", 200),
    ):
        got = fetch(site, "/proxy.pac", Range="bytes=0-0", If_Range=value)
        assert got[0] == status, value
        # A range that is not there, of another version: the whole of this one.
        got = fetch(site, "/proxy.pac", Range="bytes=9999-", If_Range=value)
        assert got[0] == {206: 416, 200: 200}[status], value
    # Within the second of a change another one may follow: a date is no strong validator.
    for later, status in ((0, 200), (1, 200), (2, 206)):
        monkeypatch.setattr(files.time, "time", lambda now=CHANGED + later: now)
        assert fetch(site, "/proxy.pac", Range="bytes=0-0", If_Range=SAME)[0] == status


# ---- sendfile ------------------------------------------------------------------------


@pytest.fixture(params=LOOPS, ids=lambda make: make.__module__)
def run(request):
    loop = request.param()
    yield lambda main: loop.run_until_complete(asyncio.wait_for(main(loop), 60))
    loop.close()


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client.setblocking(False)
    server.setblocking(False)
    with client, server:
        yield client, server


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(1 << 20) * 5 + b"the end")
    with open(path, "rb+") as file:
        yield file


async def receive(loop, sock):
    data = bytearray()
    while part := await loop.sock_recv(sock, 65536):
        data += part
    return bytes(data)


def test_send_file(run, pair, big):
    data = Path(big.name).read_bytes()

    async def main(loop):
        client, server = pair
        reader = loop.create_task(receive(loop, client))
        stream = Stream(server, loop)
        await stream.send(b"head")
        await send_file(stream, big.fileno(), 0, len(data), 60.0)
        await send_file(stream, big.fileno(), 1234567, 7, 60.0)
        await send_file(stream, big.fileno(), 5, 0, 60.0)
        assert stream.sent == 4 + len(data) + 7
        stream.close()
        got = await reader
        assert got == b"head" + data + data[1234567:1234574]

    run(main)


def test_a_wake_up_sends_a_slice_at_most(run, big, monkeypatch):
    """A peer that takes everything at once does not keep the loop from the others."""
    calls = []
    monkeypatch.setattr(files.os, "sendfile", lambda out, fd, at, n: calls.append((at, n)) or n)

    async def main(loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stream = Stream(ours, loop)
            turns = []
            ticking = loop.call_soon(tick := lambda: turns.append(len(calls)) or again())

            def again():
                nonlocal ticking
                ticking = loop.call_soon(tick)

            await send_file(stream, big.fileno(), 0, 5 << 20, 60.0)
            ticking.cancel()
            stream.close()
        assert calls == [(n << 20, 1 << 20) for n in range(5)]
        # Never two slices between two turns of the loop.
        assert {b - a for a, b in itertools.pairwise(turns)} <= {0, 1}
        assert turns[-1] >= 4

    run(main)


def test_a_file_that_becomes_shorter_is_not_padded(run, pair, big):
    data = Path(big.name).read_bytes()

    async def main(loop):
        client, server = pair
        stream = Stream(server, loop)
        sending = loop.create_task(send_file(stream, big.fileno(), 0, len(data), 60.0))
        start = await loop.sock_recv(client, 1000)
        big.truncate(4_000_000)
        reader = loop.create_task(receive(loop, client))
        with pytest.raises(OSError, match="ended 1242887 bytes early"):
            await sending
        stream.close()
        assert start + await reader == data[:4_000_000]

    run(main)


def test_a_client_that_takes_nothing(run, pair, big):
    async def main(loop):
        stream = Stream(pair[1], loop)
        with pytest.raises(Failure) as caught:
            await send_file(stream, big.fileno(), 0, 5 << 20, 0.05)
        assert caught.value.error == "connection_write_timeout"
        stream.close()

    run(main)


def test_a_client_that_goes_away(run, pair, big):
    async def main(loop):
        client, server = pair
        stream = Stream(server, loop)
        sending = loop.create_task(send_file(stream, big.fileno(), 0, 5 << 20, 60.0))
        await loop.sock_recv(client, 1000)
        client.close()
        with pytest.raises(PeerGone) as caught:
            await sending
        assert caught.value.stream is stream
        stream.close()

    run(main)
