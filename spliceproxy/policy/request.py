"""What a policy decides about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, overload


class Request(NamedTuple):
    """One request or tunnel, before anything is looked up or dialled.

    ``client`` is an IP address, "" for a Unix socket. ``user`` is "" for nobody. ``host`` is in
    the canonical form of :func:`spliceproxy.policy.names.canonical`. ``path`` is "" for CONNECT;
    in any other, what is not ASCII is percent-encoded. ``fields`` are name and value as received.

    ``addresses`` are None in the first call of a function, even if ``host`` is an address:
    nothing has been looked up. A function with ``wants_addresses = True`` is called a second
    time; then they are those that may be dialled, in the order to try. There is no second call
    for a request that the proxy answers itself, such as one for a file of --serve.
    """

    client: str = ""
    user: str = ""
    groups: frozenset[str] = frozenset()
    method: str = "CONNECT"
    scheme: str = ""
    host: str = ""
    port: int = 443
    path: str = ""
    addresses: tuple[str, ...] | None = None
    fields: Sequence[tuple[bytes, bytes]] = ()

    def field(self, name: str) -> str:
        """The value of the first field of this name in any case, "" without one."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.fields:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return ""


class _Head(Protocol):
    @property
    def fields(self) -> Sequence[tuple[bytes, bytes]]: ...


class Fields(Sequence[tuple[bytes, bytes]]):
    """The fields of a head, which is not asked for them before somebody looks."""

    __slots__ = ("_head",)

    def __init__(self, head: _Head) -> None:
        self._head = head

    @overload
    def __getitem__(self, at: int) -> tuple[bytes, bytes]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[tuple[bytes, bytes]]: ...
    def __getitem__(self, at: int | slice) -> tuple[bytes, bytes] | Sequence[tuple[bytes, bytes]]:
        return self._head.fields[at]

    def __len__(self) -> int:
        return len(self._head.fields)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._head.fields)

    def __eq__(self, other: object) -> bool:
        """As the list that it stands for."""
        if isinstance(other, Fields):
            return list(self) == list(other)
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(
        self,
    ) -> tuple[type[list[tuple[bytes, bytes]]], tuple[list[tuple[bytes, bytes]]]]:
        return list, (list(self),)  # copied and pickled as what it stands for
