"""The native engine guesses what epoll would say of a tunnel that alone has something to say
(native/core/guess.pxd). Steps are made by hand, so each message is a step."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from relay_rig import (
    native_relay,
    open_fds,
    payload,
    pump,
    recv_exactly,
    reset,
    send_all,
    tcp_pair,
    unix_pair,
)

from spliceproxy.relay.interface import CLIENT_RESET, DONE, Relay, RelayOptions

SURE = 8  # native/core/guess.pxd
BLIND = 16
PAIRS = {"tcp": tcp_pair, "unix": unix_pair}


class Talk(NamedTuple):
    """A tunnel from outside."""

    client: socket.socket
    origin: socket.socket

    def say(self, relay: Relay, text: bytes) -> None:
        """The client says something, and the origin answers the same."""
        self.client.sendall(text)
        relay.step()
        assert recv_exactly(self.origin, len(text)) == text
        self.origin.sendall(text)
        relay.step()
        assert recv_exactly(self.client, len(text)) == text


@pytest.fixture
def relay() -> Iterator[Relay]:
    before = open_fds()
    made = native_relay()(RelayOptions())
    yield made
    made.close()
    assert open_fds() <= before


@pytest.fixture(params=PAIRS)
def talk(relay: Relay, request: pytest.FixtureRequest) -> Iterator[Talk]:
    yield from tunnel(relay, request.param)


@pytest.fixture
def other(relay: Relay) -> Iterator[Talk]:
    yield from tunnel(relay, "tcp")


def tunnel(relay: Relay, kind: str) -> Iterator[Talk]:
    client, inner_client = PAIRS[kind]()
    origin, inner_origin = PAIRS[kind]()
    relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", "token")
    yield Talk(client, origin)
    client.close()
    origin.close()


def count(relay: Relay, what: str = "guesses") -> int:
    found = re.search(rf" {what}=(\d+)", relay.dump(0))
    assert found is not None
    return int(found[1])


def in_conversation(relay: Relay, talk: Talk) -> None:
    """So that what comes next is guessed."""
    for turn in range(SURE):
        talk.say(relay, b"%d" % turn)
    assert count(relay) > 0


def test_a_conversation_is_guessed(relay: Relay, talk: Talk) -> None:
    for turn in range(100):
        talk.say(relay, payload(64, turn))
    assert count(relay) > 200 - 2 * SURE - 200 // BLIND - 5
    assert count(relay, "events") == 200
    assert relay.stats().copied == 200 * 64


def test_nothing_is_guessed_where_two_speak(relay: Relay, talk: Talk, other: Talk) -> None:
    for turn in range(3 * SURE):
        talk.say(relay, b"a%d" % turn)
        other.say(relay, b"b%d" % turn)
    assert count(relay) == 0


def test_the_answer_that_is_there_is_taken_at_once(relay: Relay, talk: Talk) -> None:
    in_conversation(relay, talk)
    talk.origin.sendall(b"answer")  # before it is asked
    talk.client.sendall(b"question")
    relay.step()
    relay.step()
    assert recv_exactly(talk.origin, 8) == b"question"
    assert recv_exactly(talk.client, 6) == b"answer"


def test_nobody_else_waits_for_long(relay: Relay, talk: Talk, other: Talk) -> None:
    in_conversation(relay, talk)
    other.client.sendall(b"late")
    other.origin.setblocking(False)
    for _ in range(BLIND):
        talk.say(relay, b"x")
        try:
            assert other.origin.recv(10) == b"late"
            return
        except BlockingIOError:
            continue
    raise AssertionError(f"{BLIND} messages and their answers, and no turn for another tunnel")


@pytest.mark.parametrize("before", range(BLIND + 1))
def test_so_many_in_a_row(relay: Relay, talk: Talk, before: int) -> None:
    """Also where two are made in one step, the second of which would be one too many."""
    in_conversation(relay, talk)
    sides = [talk.client, talk.origin]

    def speak(text: bytes) -> int:
        sides[0].sendall(text)
        made = guesses_of_a_step(relay)
        assert recv_exactly(sides[1], len(text)) == text
        sides.reverse()
        return made

    while speak(b"until epoll is asked"):
        pass
    row = sum(speak(b"one") for _ in range(before))
    assert row == min(before, BLIND)
    sides[1].sendall(b"answer")  # before it is asked
    sides[0].sendall(b"question")
    made = guesses_of_a_step(relay)
    assert made == (2 if before <= BLIND - 2 else BLIND - row)
    relay.step()
    assert recv_exactly(sides[1], 8) == b"question"
    assert recv_exactly(sides[0], 6) == b"answer"


def guesses_of_a_step(relay: Relay) -> int:
    before = count(relay)
    relay.step()
    return count(relay) - before


def test_a_side_that_speaks_twice(relay: Relay, talk: Talk) -> None:
    in_conversation(relay, talk)
    for turn in range(20):
        talk.client.sendall(b"1")
        relay.step()
        talk.client.sendall(b"2")  # where the origin's answer is foreseen
        relay.step()
        assert recv_exactly(talk.origin, 2) == b"12"
        talk.say(relay, b"%d" % turn)


def test_bulk_behind_a_conversation(relay: Relay, talk: Talk) -> None:
    in_conversation(relay, talk)
    data = payload(8 << 20)
    sender = send_all(talk.client, data)
    got = bytearray()
    talk.origin.settimeout(0.0)

    def whole() -> bool:
        try:
            while part := talk.origin.recv(1 << 20):
                got.extend(part)
        except BlockingIOError:
            pass
        return len(got) == len(data)

    pump(relay, whole)
    assert bytes(got) == data
    sender.result()


def ended(relay: Relay) -> Any:
    ends: list[Any] = []

    def has_ended() -> bool:
        ends.extend(relay.step())
        return bool(ends)

    ends += pump(relay, has_ended)
    return ends[0][1]


def test_half_close_in_a_conversation(relay: Relay, talk: Talk) -> None:
    in_conversation(relay, talk)
    talk.client.sendall(b"last words")
    talk.client.shutdown(socket.SHUT_WR)
    relay.step()
    relay.step()
    assert recv_exactly(talk.origin, 10) == b"last words"
    assert talk.origin.recv(1) == b""
    talk.origin.sendall(b"answer")
    relay.step()
    assert recv_exactly(talk.client, 6) == b"answer"
    talk.origin.close()
    assert ended(relay).reason == DONE


def test_a_reset_in_a_conversation(relay: Relay, other: Talk) -> None:
    in_conversation(relay, other)
    reset(other.client)
    end = ended(relay)
    assert end.reason == CLIENT_RESET
    with pytest.raises(ConnectionError):
        other.origin.recv(1)


def test_another_flow_in_the_same_slot(relay: Relay) -> None:
    """The tunnel that is foreseen ends, and another takes its slot."""
    for _ in range(3):
        for talk in tunnel(relay, "tcp"):
            in_conversation(relay, talk)
            talk.client.close()
            talk.origin.close()
            assert ended(relay).reason == DONE
