"""Rewriting as one value, which says whether the lane may repeat it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from spliceproxy import Config, Proxy
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.http1.chain import FORWARDED_MODES
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.http1.rewrite import origin_request

HEAD = parse_request(b"GET http://h/ HTTP/1.1\r\nHost: h\r\nForwarded: for=_x\r\n\r\n")
CLIENTS = ("192.0.2.7", "2001:db8::7", "")


@dataclass(frozen=True, slots=True)
class Naming(Rewriting):
    """A rule to come: a field that names the client, "" for none."""

    field: str = ""

    def request(self, head: RequestHead, body: Body, client: str) -> bytes:
        written = Rewriting.request(self, head, body, client)
        if not self.field:
            return written
        return written[:-2] + f"{self.field}: {client}\r\n\r\n".encode()


@pytest.mark.parametrize("via", ["", "sp"])
@pytest.mark.parametrize("mode", FORWARDED_MODES)
def test_what_is_repeated_is_what_the_lane_writes(via: str, mode: str) -> None:
    """The same for every client, and as http1 has it with Via alone."""
    rewriting = Rewriting.of(Config(listen=("127.0.0.1:0",), via=via, forwarded_for=mode))
    written = {rewriting.request(HEAD, Body.NONE, client) for client in CLIENTS}
    assert rewriting.repeatable == (written == {origin_request(HEAD, Body.NONE, via.encode())})


def test_a_value_of_each_client_is_not_repeated() -> None:
    named = Naming(b"sp", field="X-Client")
    assert len({named.request(HEAD, Body.NONE, client) for client in CLIENTS}) == len(CLIENTS)
    assert not named.repeatable
    assert Naming(b"sp").repeatable


def test_every_request_has_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second of a client, which the lane would serve by itself."""
    monkeypatch.setattr(Rewriting, "of", lambda config: Naming(b"sp", field="X-Client"))
    seen: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                break
            writer.write(b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(origin, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        ask = f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        config = Config(listen=("127.0.0.1:0",), access_log="off")
        async with server, Proxy(config=config) as proxy:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(proxy.url.rsplit(":", 1)[1])
            )
            for _ in range(3):
                writer.write(ask)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())
    assert [b"X-Client: 127.0.0.1\r\n" in head for head in seen] == [True] * 3
