"""Lines of the lane about tunnels that live."""

from __future__ import annotations

import contextlib
import json
import socket
import time

from plain_oracle import Plain, conversation
from relay_rig import native_relay


def test_thousands_are_told_of_in_parts() -> None:
    """A step of the relay tells of a batch, in which each has its turn; after the last there is
    nothing to do until they are due again."""
    native_relay()
    head_of_tunnel = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
    with (
        contextlib.closing(Plain(log=True, form="json", live=0.2)) as plain,
        contextlib.ExitStack() as stack,
    ):
        one = stack.enter_context(conversation(plain))
        one.allow(head_of_tunnel)
        for _ in range(300):
            outer, inner = socket.socketpair()
            stack.enter_context(outer)
            inner.setblocking(False)
            plain.lane._native.hand_over(inner.detach(), "", head_of_tunnel, 0)
            stack.enter_context(plain.accept())
        plain.step()
        assert plain.relay.tunnels == 300
        text, count = plain.lane._native.take_log()
        events = [json.loads(line)["event"] for line in text.splitlines()]
        assert events.count("start") == 300
        time.sleep(0.25)
        seen: list[str] = []
        steps = 0
        while len(seen) < 300:
            assert plain.relay.next_wake() == 0.0
            plain.relay.step()
            steps += 1
            text, count = plain.lane._native.take_log()
            assert count <= 64
            seen += [json.loads(line)["id"] for line in text.splitlines()]
        assert steps >= 5
        assert len(set(seen)) == 300
        plain.relay.abort_all()
        while plain.relay.tunnels:
            plain.step()
        text, count = plain.lane._native.take_log()
        ends = [json.loads(line) for line in text.splitlines()]
        assert [end["event"] for end in ends if end["event"] == "end"] == ["end"] * 300
        time.sleep(0.25)
        plain.step()
        assert plain.lane._native.take_log() == (b"", 0)
