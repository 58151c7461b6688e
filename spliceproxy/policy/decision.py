"""What a policy function answers."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

from spliceproxy import sizes
from spliceproxy.policy.networks import canonical_address

STATUSES = "a whole number from 400 to 599, not 407"
"""Of the answer to what is denied; 407 asks for credentials."""


def check_status(status: object) -> int:
    """The number of a status, one of STATUSES. TypeError for a value that is no whole number,
    ValueError for another number."""
    number = operator.index(status)  # type: ignore[arg-type]  # which is the question
    if not 400 <= number <= 599 or number == 407:
        raise ValueError(f"status {number}; allowed: {STATUSES}")
    return number


TLS_NAMES = ("check", "require", "off")
"""What may be asked of the name inside TLS (``policy.tls_names``)."""

TLS_REFUSABLE = ("ech", "no-name", "not-tls", "address")
"""What ``check`` lets pass, and may be told to refuse."""

REASON_MAX = 200
"""Characters of the reason of a rule: it is for a person, who reads it on one line."""

REASONS = f"one line of at most {REASON_MAX} characters that can be printed"


def check_reason(text: object) -> str:
    """The reason of a rule, one of REASONS. TypeError for a value that is no text, ValueError for
    another text."""
    if not isinstance(text, str):
        raise TypeError(f"reason {text!r}; allowed: {REASONS}")
    if not text.isprintable() or not 0 < len(text) <= REASON_MAX or text != text.strip():
        raise ValueError(f"reason {text!r}; allowed: {REASONS}")
    return text


_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, init=False)
class Allow:
    """Go ahead. ``Allow()`` is the same object each time.

    ``source_address`` is the IP address to dial from. ``addresses`` are dialled instead of those
    of the request, in this order; the rules and the guard check them, too. None stands for those
    of the request. ``tags`` are kept in the record of the request. ``tls_name`` is one of
    TLS_NAMES, "" for what the rules say. ``limits`` are ids of those that count the request, beside
    those that match it. ``parent`` is the name of the parent by way of which it goes, or DIRECT,
    whatever the routes say; "" for what they say. ``rate_in`` and ``rate_out`` are bytes per second
    from the client and to it, as numbers or as ``sizes`` has them; 0 for any number. ``rate``
    stands for those of both that are left out. ValueError for a text that is no IP address, for a
    rate that is none, and for empty ``addresses``: a function that has left none means no, not all.
    TypeError for a value of another type.
    """

    source_address: str
    addresses: tuple[str, ...] | None
    tags: Mapping[str, str]
    tls_name: str
    limits: tuple[str, ...]
    parent: str
    rate_in: int
    rate_out: int

    def __new__(
        cls,
        source_address: str = "",
        addresses: tuple[str, ...] | None = None,
        tags: Mapping[str, str] = _NO_TAGS,
        tls_name: str = "",
        limits: Sequence[str] = (),
        parent: str = "",
        rate_in: int | str = 0,
        rate_out: int | str = 0,
        *,
        rate: int | str = 0,
    ) -> Allow:
        plain = source_address == "" and addresses is None and tls_name == "" and limits == ()
        plain = plain and parent == "" and rate_in is rate_out is rate is _ANY
        if plain and tags is _NO_TAGS and cls is Allow:
            return YES
        if source_address != "":
            source_address = _address(source_address)
        if addresses is not None:
            addresses = _addresses(addresses)
        # Of a dict that is clear without a look at its bases, which takes as long as to make it.
        if type(tags) is not dict and not isinstance(tags, Mapping):
            raise TypeError(f"Allow: tags {tags!r}; allowed: a mapping")
        if plain:
            return _allow(cls, tags)
        if tls_name not in ("", *TLS_NAMES):
            raise ValueError(f"Allow: tls_name {tls_name!r}; allowed: {', '.join(TLS_NAMES)}")
        if not isinstance(parent, str):
            raise TypeError(f"Allow: parent {parent!r}; allowed: a text")
        both = _rate("rate", rate)
        rates = _rate("rate_in", rate_in) or both, _rate("rate_out", rate_out) or both
        named = _texts(limits) if limits != () else ()
        return _allow(cls, tags, source_address, addresses, tls_name, named, parent, *rates)

    def __reduce__(self) -> tuple[type[Allow], tuple[object, ...]]:
        """For copy and pickle, which would fill in the object that is shared."""
        return type(self), (
            self.source_address,
            self.addresses,
            dict(self.tags),
            self.tls_name,
            self.limits,
            self.parent,
            self.rate_in,
            self.rate_out,
        )

    @property
    def rates(self) -> tuple[int, int]:
        """Both."""
        return self.rate_in, self.rate_out

    def after(self, first: Allow) -> Allow:
        """What both of two answers say: what this one leaves out is taken from the ``first``, but
        for ``addresses`` and ``tags``."""
        if first is YES:
            return self
        return _allow(
            Allow,
            self.tags,
            self.source_address or first.source_address,
            self.addresses,
            self.tls_name or first.tls_name,
            self.limits or first.limits,
            self.parent or first.parent,
            self.rate_in or first.rate_in,
            self.rate_out or first.rate_out,
        )


def _allow(
    cls: type[Allow],
    tags: Mapping[str, str],
    source_address: str = "",
    addresses: tuple[str, ...] | None = None,
    tls_name: str = "",
    limits: Sequence[str] = (),
    parent: str = "",
    rate_in: int = 0,
    rate_out: int = 0,
) -> Allow:
    allow = _new(cls)
    _set_source_address(allow, source_address)
    _set_addresses(allow, addresses)
    _set_tags(allow, tags)
    _set_tls_name(allow, tls_name)
    _set_limits(allow, limits)
    _set_parent(allow, parent)
    _set_rate_in(allow, rate_in)
    _set_rate_out(allow, rate_out)
    return allow


_new = object.__new__
# What object.__setattr__ finds by the name of an attribute, each time.
(
    _set_source_address,
    _set_addresses,
    _set_tags,
    _set_tls_name,
    _set_limits,
    _set_parent,
    _set_rate_in,
    _set_rate_out,
) = (Allow.__dict__[field.name].__set__ for field in fields(Allow))

# To make one costs as much as all the rest of a decision, and most are this one.
YES = _allow(Allow, _NO_TAGS)
"""That of a request which nobody has said more of."""


_ANY = 0
"""Bytes per second: any number. By identity, for False is 0, too, and is a mistake."""


def _rate(name: str, value: object) -> int:
    """Bytes per second, 0 for any number."""
    if value is _ANY:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"Allow: {name} {value!r}; allowed: {sizes.ALLOWED}")
    found = sizes.read(str(value))
    if found is None:
        raise ValueError(f"Allow: {name} {value!r}; allowed: {sizes.ALLOWED}")
    return found


def _texts(limits: object) -> tuple[str, ...]:
    """The ids of limits. One that is named twice counts once."""
    if isinstance(limits, (str, bytes)) or not isinstance(limits, Iterable):
        raise TypeError(f"Allow: limits {limits!r}; allowed: a tuple of texts")
    found = tuple(limits)
    if not all(isinstance(one, str) for one in found):
        raise TypeError(f"Allow: limits {limits!r}; allowed: a tuple of texts")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Deny:
    """No. The client is told the ``reason`` and the ``rule``, an id to ask about. ``status`` is
    that of the answer, one of STATUSES. ValueError for another number, TypeError for a value of
    another type."""

    reason: str
    rule: str = ""
    status: int = 403

    def __post_init__(self) -> None:
        for name, value in (("reason", self.reason), ("rule", self.rule)):
            if not isinstance(value, str):
                raise TypeError(f"Deny: {name} {value!r}; allowed: a text")
        try:
            # HTTPStatus.FORBIDDEN is a number, too, but would be written by its name.
            object.__setattr__(self, "status", check_status(self.status))
        except TypeError:
            raise TypeError(f"Deny: status {self.status!r}; allowed: {STATUSES}") from None
        except ValueError as error:
            raise ValueError(f"Deny: {error}") from None


def _addresses(texts: object) -> tuple[str, ...]:
    """Those to dial."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"Allow: addresses {texts!r}; allowed: a tuple of texts")
    found = tuple(map(_address, texts))
    if not found:
        raise ValueError("Allow: addresses are empty; leave them out, or answer Deny")
    return found


def _address(text: object) -> str:
    """The canonical text of an address that can be dialled, or dialled from."""
    if not isinstance(text, str):
        raise TypeError(f"Allow: {text!r}; allowed: an IP address as text")
    if "%" in text:
        raise ValueError(f"Allow: {text!r}; allowed: an IP address without a zone")
    return canonical_address(text)
