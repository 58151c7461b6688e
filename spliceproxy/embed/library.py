"""The proxy inside another program: on its event loop, or in a thread beside a test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from threading import Thread
from types import TracebackType

from spliceproxy.config import Address, Config, Timeouts
from spliceproxy.embed.destinations import Destinations, tell
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import Authorize, OnClose, checked
from spliceproxy.policy.verdict import Notes
from spliceproxy.policy.witness import Witness
from spliceproxy.processes import listeners
from spliceproxy.processes.instance import Instance
from spliceproxy.processes.worker import new_loop
from spliceproxy.relay.choice import choose, ignore_sigpipe
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.listening import LISTEN, contradictions
from spliceproxy.upstream.resolver import Resolver

DRAIN = 0.2
"""Seconds that the end of a block waits for open requests and tunnels, unless the configuration
says otherwise. That is enough for the last bytes of an answer, not for a pool of open tunnels."""

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Proxy:
    """A proxy on the event loop that enters it::

        from spliceproxy import Allow, Deny, Proxy, Request

        async def authorize(request: Request) -> Allow | Deny:
            return Allow() if request.host.endswith(".example.com") else Deny("not ours")

        async with Proxy(listen=["127.0.0.1:0"], policy=authorize) as proxy:
            print(proxy.url)

    ``listen`` are addresses as for ``--listen``. ``policy`` and ``on_close`` are functions as
    in a ``--policy`` file, plain or asynchronous, and are called on the proxy's event loop.
    ``config`` has all other settings, and none of them is changed: without one there is no
    access log, and leaving waits no longer than :data:`DRAIN`. ``workers`` is of no meaning
    here. ``record`` keeps every request and tunnel in :attr:`records`, which grow then for as
    long as it runs.

    ValueError for a bad address, TypeError for a ``policy`` that is no function.

    Entering it raises ValueError for settings that make no sense, ListenError where it cannot
    listen, EngineError where the relay asked for cannot run. Leaving it waits
    ``config.timeouts.drain`` seconds at most for requests and tunnels, and cuts off the rest.
    """

    def __init__(
        self,
        *,
        listen: Sequence[str] = ("127.0.0.1:0",),
        policy: Authorize | None = None,
        on_close: OnClose | None = None,
        config: Config | None = None,
        record: bool = False,
    ) -> None:
        if config is None:
            config = Config(
                listen=(),
                via=f"spliceproxy-{os.urandom(4).hex()}",  # else two of them look like a loop
                timeouts=Timeouts(drain=DRAIN),
                access_log="off",
            )
        self._config = replace(config, listen=_addresses(listen), workers=1)
        for problem in contradictions(
            self._config.places, config.balancers, "listen: {}".format, "config:"
        ):
            raise ValueError(problem)
        given = policy is not None or on_close is not None
        names = "policy", "on_close"
        self._functions = checked(policy, on_close, names) if given else None
        self._records: list[Record] | None = [] if record else None
        self._addresses: Sequence[Address] = ()
        self._instance: Instance | None = None
        self._listening: listeners.Listeners | None = None

    @property
    def url(self) -> str:
        """For clients: ``http://`` and the first address, ``unix:`` and a path if it is of a
        Unix socket. An address of every interface becomes loopback."""
        if not self._addresses:
            raise RuntimeError("the proxy has no address before it has been entered")
        first = self._addresses[0].where
        if first.path:
            return str(first)
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.host, first.host)
        return f"http://{replace(first, host=host)}"

    @property
    def records(self) -> tuple[Record, ...]:
        """Every request and tunnel that asked to go anywhere, in the order of their coming;
        those that were refused, and failed, among them. Status and bytes are final where
        ``ended``, and all have ended when the proxy has been left."""
        if self._records is None:
            raise RuntimeError("nothing is recorded: use record=True")
        return tuple(self._records)

    @property
    def destinations(self) -> frozenset[str]:
        """``host:port`` of all :attr:`records`."""
        return frozenset(record.destination for record in self.records)

    def assert_only(self, *allowed: str) -> None:
        """AssertionError if a record is of another destination than these: ``host:port``,
        ``host`` for any port, ``*.host`` with a port or without for all names below one,
        ``.host`` for it and those::

            proxy.assert_only("github.com:443", "*.example.com:443")

        A request that was refused or failed counts too: it was meant to go there.
        """
        __tracebackhide__ = True
        destinations = Destinations(allowed)
        others = [record for record in self.records if record not in destinations]
        if others:
            raise AssertionError(tell(others, allowed))

    async def __aenter__(self) -> Proxy:
        if self._instance is not None:
            raise RuntimeError("the proxy runs already")
        async with AsyncExitStack() as undo:
            listening = listeners.bind(self._config.places, 1)
            undo.callback(listening.close)
            counts = Counts.private()
            relay, _ = choose(self._config.engine, RelayOptions.of(self._config, counts.row))
            undo.callback(relay.close)
            resolver = Resolver.of(self._config, counts.row)
            undo.push_async_callback(resolver.close)
            witness = None if self._records is None else _Recorder(self._records)
            policy = Policy(
                self._config,
                resolver,
                self._functions,
                witness=witness,
                row=counts.row,
                report=counts.report,
            )
            instance = Instance(self._config, listening.of(0), relay, resolver, policy, counts)
            undo.pop_all()
        instance.start()
        self._instance, self._listening = instance, listening
        self._addresses = tuple(listening.addresses)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        instance, listening = self._instance, self._listening
        assert instance is not None
        assert listening is not None
        self._instance = self._listening = None
        try:
            await instance.stop()
        finally:
            listening.close()


def _addresses(listen: Sequence[str]) -> tuple[Address, ...]:
    if isinstance(listen, str):
        raise TypeError(f"listen: {listen!r}; allowed: a list of addresses")
    try:
        return tuple(LISTEN.read(text, os.getcwd()) for text in listen)
    except Invalid as error:
        raise ValueError(f"listen: {error}") from None


class _Recorder(Witness):
    """Keeps the records of what the policy was asked."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def asked(self, notes: Notes) -> None:
        assert isinstance(notes, Record)
        if not notes.host:  # the same request may be judged again, with more addresses
            self._records.append(notes)


@contextmanager
def run(
    *,
    listen: Sequence[str] = ("127.0.0.1:0",),
    policy: Authorize | None = None,
    on_close: OnClose | None = None,
    config: Config | None = None,
    record: bool = True,
    environment: bool = False,
    no_proxy: str = "",
) -> Iterator[Proxy]:
    """A :class:`Proxy` that runs in a thread, on an event loop of its own, for the block::

        with spliceproxy.run(environment=True) as proxy:
            requests.get("https://github.com/")
        proxy.assert_only("github.com:443")

    The arguments are those of :class:`Proxy`, but it records unless told otherwise. With
    ``environment`` HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name it, in upper and lower case, in
    this process and those that it starts; NO_PROXY is ``no_proxy``, by default nothing, not even
    localhost. (``urllib.request.urlopen`` keeps the proxy that it has seen first in a process:
    use ``build_opener``.)
    """
    proxy = Proxy(listen=listen, policy=policy, on_close=on_close, config=config, record=record)
    ignore_sigpipe()  # only a main thread can
    with _running(proxy):
        if not environment:
            yield proxy
            return
        values = {name: proxy.url for name in VARIABLES} | {"NO_PROXY": no_proxy}
        with _environment(values | {name.lower(): value for name, value in values.items()}):
            yield proxy


@contextmanager
def _running(proxy: Proxy) -> Iterator[None]:
    """The proxy, entered in a thread; what fails there is raised here."""
    loop, _ = new_loop()
    stop = asyncio.Event()
    ready: Future[None] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        async with proxy:
            ready.set_result(None)
            await stop.wait()

    def thread() -> None:
        try:
            loop.run_until_complete(main())
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            (ended if ready.done() else ready).set_exception(error)
        finally:
            loop.close()

    runner = Thread(target=thread, name="spliceproxy", daemon=True)
    runner.start()
    ready.result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        runner.join()
        ended.result()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block; "" for none."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values.items())
        yield
    finally:
        _set(before.items())


def _set(variables: Iterable[tuple[str, str | None]]) -> None:
    for name, value in variables:
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
