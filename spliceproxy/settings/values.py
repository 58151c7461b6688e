"""The kinds of values that settings have."""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import pwd
import re
import stat
from pathlib import Path

from spliceproxy import sizes
from spliceproxy.config import Address
from spliceproxy.observe.format_names import NAMES as FORMATS
from spliceproxy.observe.syslog_address import address_of, is_syslog
from spliceproxy.policy import listfile
from spliceproxy.policy.decision import (
    REASON_MAX,
    REASONS,
    STATUSES,
    check_reason,
    check_status,
)
from spliceproxy.policy.hosts import ALLOWED as HOSTS_ALLOWED
from spliceproxy.policy.hosts import parse_pattern
from spliceproxy.policy.networks import UNIX, parse_network
from spliceproxy.policy.times import ALLOWED as TIMES_ALLOWED
from spliceproxy.policy.times import parse_period
from spliceproxy.settings.kind import Kind, refuse

MAX_WORKERS = 1024
MOST_PER_SECOND = 1_000_000
MAX_SECONDS = 365 * 24 * 3600.0
NAME_MAX = 254  # of a host name with its final dot (RFC 1035 section 3.1)

# A host name; one that ends in a number could be taken for an IPv4 address.
_NAME = re.compile(r"([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*\.?")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_PSEUDONYM = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,9}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MODE = re.compile(r"0[0-7]{3}")

RESERVED = (
    "clients",
    "default",
    "guard",
    "host-mismatch",
    "locked",
    "route",
    "targets",
    "tls-name",
)
"""Ids of refusals that come from no rule."""


# Names, addresses and ports


def _name(text: str, _: str) -> str:
    return name_of(text) or refuse()


def _backend(text: str, _: str) -> tuple[str, int]:
    host, _, digits = text.rpartition(":")
    if "%" in text:
        refuse("an address with a zone cannot be dialled")
    port = port_of(digits)
    name = ip_of(host) or name_of(host)
    if port < 1 or not name:
        refuse()
    return name, port


def name_of(host: str) -> str:
    """A host name in lower case, "" if ``host`` is none."""
    return host.lower() if _NAME.fullmatch(host) and len(host) <= NAME_MAX else ""


def port_of(digits: str) -> int:
    """0 to 65535, or -1 for anything else."""
    port = int(digits) if _DIGITS.fullmatch(digits) else -1
    return port if port <= 65535 else -1


def ip_of(host: str) -> str:
    """The address in its canonical form, "" if ``host`` is none; IPv6 is in brackets."""
    try:
        if host.startswith("[") and host.endswith("]"):
            address = ipaddress.IPv6Address(host[1:-1])
            return "" if address.scope_id else str(address)
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""


MODE = Kind(
    lambda text, _: int(text, 8) if _MODE.fullmatch(text) else refuse(),
    "a mode in octal digits, from 0000 to 0777, such as 0660",
    schema={"pattern": f"^{_MODE.pattern}$"},
    write=lambda value: f"{value:04o}",
)
NAME = Kind(_name, "the name of a host, without a port")
BACKEND = Kind(
    _backend,
    "HOST:PORT, with a name, an IPv4 or an [IPv6] address, and a port from 1 to 65535",
    metavar="HOST:PORT",
    write=lambda value: str(Address(*value)),
)


def _server(text: str, _: str) -> str:
    """With its port, as c-ares reads it."""
    host, port = text, 53
    address = ip_of(text) or ip_of(f"[{text}]")
    if not address:
        host, _, digits = text.rpartition(":")
        address, port = ip_of(host), port_of(digits)
    if port < 1 or not address:
        refuse()
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


NAME_SERVER = Kind(
    _server,
    "ADDRESS or ADDRESS:PORT of a name server; an IPv6 address with a port is in brackets",
    metavar="ADDRESS[:PORT]",
)

# Files. None is opened here: whoever reads or writes one can say better what is wrong.


def _directory(text: str, folder: str) -> Path:
    path = Path(folder, text).absolute()
    if not text:
        refuse()
    if not stat.S_ISDIR(_mode(path, text)):
        refuse(f"{_other(path, text)}is not a directory")
    if not os.access(path, os.R_OK | os.X_OK):
        refuse(f"{_other(path, text)}cannot be read: {os.strerror(errno.EACCES)}")
    return path


def _place(text: str, folder: str) -> Path:
    path = Path(folder, text).absolute()
    if not text:
        refuse()
    _mode(path, text)
    return path


def _file_to_read(text: str, folder: str) -> Path:
    path = Path(folder, text).absolute()
    if not text:
        refuse()
    mode = _mode(path, text)
    if stat.S_ISDIR(mode):
        refuse(f"{_other(path, text)}is a directory")
    if not stat.S_ISREG(mode):
        refuse(f"{_other(path, text)}is not a regular file")
    if not os.access(path, os.R_OK):
        refuse(f"{_other(path, text)}cannot be read: {os.strerror(errno.EACCES)}")
    return path


def _file_to_write(text: str, folder: str) -> Path:
    path = Path(folder, text).absolute()
    if not text:
        refuse()
    if path.is_dir():
        refuse(f"{_other(path, text)}is a directory")
    if not stat.S_ISDIR(_mode(path.parent, "")):
        refuse(f"{path.parent} is not a directory")
    return path


def _mode(path: Path, text: str) -> int:
    """The mode of what is there."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return int(refuse(f"{_other(path, text)}does not exist"))
    except (OSError, ValueError) as error:  # the path holds a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        return int(refuse(f"{_other(path, text)}cannot be read: {reason}"))


def _other(path: Path, text: str) -> str:
    """The whole path and a space, if the path differs from what was given."""
    return "" if str(path) == text else f"{path} "


def _log_file(text: str, folder: str) -> str:
    if not text:
        refuse()
    if is_syslog(text):
        address_of(text)
        return text
    return text if text in ("-", "off") else os.path.abspath(os.path.join(folder, text))


def _log_format(text: str, folder: str) -> str:
    if text not in FORMATS:
        from spliceproxy.observe.formats import check

        check(text)
    return text


def _hook(text: str, folder: str) -> str:
    file, py, function = text.rpartition(".py")
    if py and (not function or function.startswith(":")):
        path = _file_to_read(file + py, folder)
        if function and not function[1:].isidentifier():
            refuse(f"{function[1:]!r} cannot be the name of a function")
        return f"{path}{function}"
    return text if _DOTTED.fullmatch(text) else refuse()


PLACE = Kind(_place, "a file or directory that exists")
DIRECTORY = Kind(_directory, "a directory that exists and can be read", metavar="DIR")
FILE_TO_READ = Kind(_file_to_read, "a file that exists and can be read", metavar="FILE")
HOSTS_FILE = Kind(
    lambda text, folder: text if text == "none" else str(_file_to_read(text, folder)),
    "a file that exists and can be read, or none",
    metavar="FILE",
)
FILE_TO_WRITE = Kind(_file_to_write, "a file in a directory that exists", metavar="FILE")
LOG_FORMAT = Kind(
    _log_format,
    f"{', '.join(FORMATS)}, or a format with squid's codes",
    metavar="FORMAT",
)
LOG_FILE = Kind(
    _log_file,
    "a file, -, off, syslog:, syslog:/socket or syslog:HOST:PORT",
    metavar="FILE",
)
HOOK = Kind(
    _hook,
    "a FILE.py that exists or the dotted name of a module, and :function after it if needed",
    metavar="FUNCTION",
)

# Numbers


def _workers(text: str, _: str) -> int:
    """The number, 0 for auto."""
    if text == "auto":
        return 0
    count = int(text) if _DIGITS.fullmatch(text) else 0
    return count if 1 <= count <= MAX_WORKERS else refuse()


def _seconds(text: str, _: str) -> float:
    seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
    return seconds if 0 < seconds <= MAX_SECONDS else refuse()


def _bytes(text: str, _: str) -> int:
    found = sizes.read(text)
    return refuse() if found is None else found


def _per_second(text: str, _: str) -> float:
    number = float(text) if _SECONDS.fullmatch(text) else math.nan
    # Below a thousandth nothing would come for a quarter of an hour.
    return number if 0.001 <= number <= MOST_PER_SECOND else refuse()


def _seconds_or_none(text: str, folder: str) -> float:
    return 0.0 if _SECONDS.fullmatch(text) and float(text) == 0 else _seconds(text, folder)


def _short(seconds: float) -> int | float:
    return int(seconds) if seconds.is_integer() else seconds


WORKERS = Kind(
    _workers,
    f"1 to {MAX_WORKERS}, or auto",
    metavar="N",
    types=(int, str),
    schema={"minimum": 1, "maximum": MAX_WORKERS, "pattern": "^(auto|[0-9]{1,9})$"},
    write=int,
)
COUNT = Kind(
    lambda text, _: int(text) if _DIGITS.fullmatch(text) else refuse(),
    "0 to 999999999",
    metavar="N",
    types=(int,),
    schema={"minimum": 0, "maximum": 999999999},
    write=int,
)
LIMIT = Kind(
    lambda text, _: int(text) if _DIGITS.fullmatch(text) and int(text) else refuse(),
    "1 to 999999999",
    types=(int,),
    schema={"minimum": 1, "maximum": 999999999},
    write=int,
)
BYTES = Kind(
    _bytes,
    sizes.ALLOWED,
    types=(int, str),
    schema={"minimum": sizes.LEAST, "maximum": sizes.MOST, "pattern": sizes.PATTERN},
    write=int,
)
PER_SECOND = Kind(
    _per_second,
    f"a number from 0.001 to {MOST_PER_SECOND}",
    types=(int, float),
    schema={"minimum": 0.001, "maximum": MOST_PER_SECOND},
    write=_short,
)
SECONDS = Kind(
    _seconds,
    f"seconds above 0, at most {MAX_SECONDS:.0f}",
    metavar="S",
    types=(int, float),
    schema={"exclusiveMinimum": 0, "maximum": MAX_SECONDS},
    write=_short,
)
SECONDS_OR_NONE = Kind(
    _seconds_or_none,
    f"seconds above 0, at most {MAX_SECONDS:.0f}; or 0",
    metavar="S",
    types=(int, float),
    schema={"minimum": 0, "maximum": MAX_SECONDS},
    write=_short,
)
SWITCH = Kind(
    lambda text, _: text == "true" if text in ("true", "false") else refuse(),
    "true or false",
    types=(bool,),
    write=bool,
)

_REQUIRED = {"true": True, "false": False, "by-rule": "by-rule"}

AUTH_REQUIRED = Kind(
    lambda text, _: _REQUIRED[text] if text in _REQUIRED else refuse(),
    "true, false, by-rule",
    types=(bool, str),
    schema={"enum": list(_REQUIRED.values())},
    write=lambda value: value,
)

# Words


def _via(text: str, _: str) -> str:
    """The pseudonym, "" for off."""
    if not _PSEUDONYM.fullmatch(text):
        refuse()
    return "" if text == "off" else text


def _user_and_password(text: str, _: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not password or not _is_user(user):
        refuse()
    return user, password


def _is_user(text: str) -> bool:
    """A name without a colon, as RFC 7617 section 2 wants it."""
    return bool(text) and text.isprintable() and ":" not in text


def _system_user(text: str, _: str) -> str:
    """A name or a number, but not root's."""
    if _DIGITS.fullmatch(text):
        number = int(text)
    else:
        try:
            number = pwd.getpwnam(text).pw_uid
        except (KeyError, ValueError):
            refuse("this system has no user of this name")
    return text if number else refuse("root's rights are those that are to be given up")


def _system_group(text: str, _: str) -> str:
    if _DIGITS.fullmatch(text):
        return text
    import grp  # late: few name one

    try:
        grp.getgrnam(text)
    except (KeyError, ValueError):
        refuse("this system has no group of this name")
    return text


def _realm(text: str, _: str) -> str:
    return text if text and text.isascii() and text.isprintable() else refuse()


def _peer(text: str, _: str) -> str:
    if not _DIGITS.fullmatch(text):
        try:
            pwd.getpwnam(text)
        except KeyError:
            refuse("this system has no user of this name")
    return text


VIA = Kind(
    _via,
    "letters, digits and -._:, at most 64; or off",
    metavar="NAME",
    schema={"pattern": "^[A-Za-z0-9._:-]{1,64}$"},
    write=lambda value: value or "off",
)
USER_AND_PASSWORD = Kind(
    _user_and_password,
    "USER:PASSWORD, neither of them empty",
    metavar="USER:PASSWORD",
    schema={"pattern": "^[^:]+:."},
    write=":".join,
    secret=True,
)
USER = Kind(
    lambda text, _: text if _is_user(text) else refuse(),
    "a user's name, without a colon or control characters",
    schema={"pattern": "^[^:]+$"},
)
REALM = Kind(_realm, "printable ASCII, at least one character", schema={"minLength": 1})
METHOD = Kind(
    lambda text, _: text if _TOKEN.fullmatch(text) and text == text.upper() else refuse(),
    "a method in capitals, such as GET or CONNECT",
    schema={"pattern": "^[^a-z]+$"},
)
SYSTEM_USER = Kind(
    _system_user,
    "the name or number of a user of this system other than root",
    metavar="USER",
)
SYSTEM_GROUP = Kind(_system_group, "the name or number of a group of this system", metavar="GROUP")
PEER = Kind(_peer, "the name or number of a user of this system")

# Access rules


def _network(text: str, _: str) -> str:
    if "%" not in text:
        ipaddress.ip_network(text)  # its errors say more
    return str(parse_network(text))


def _clients(text: str, folder: str) -> str:
    return text if text == UNIX else _network(text, folder)


def _host(text: str, folder: str) -> str:
    if text.startswith(listfile.MARK):
        return listfile.read(text, folder, parse_pattern, HOSTS_ALLOWED)
    parse_pattern(text)
    return text


def _rule_network(text: str, folder: str) -> str:
    if text.startswith(listfile.MARK):
        return listfile.read(text, folder, lambda one: _network(one, ""), NETWORK.allowed)
    return _network(text, "")


def _rule_clients(text: str, folder: str) -> str:
    if text.startswith(listfile.MARK):
        return listfile.read(text, folder, lambda one: _clients(one, ""), CLIENTS.allowed)
    return _clients(text, "")


def _ports(text: str, _: str) -> str:
    first, dash, last = text.partition("-")
    if not 1 <= port_of(first) <= (port_of(last) if dash else 65535):
        refuse()
    return text


def _times(text: str, _: str) -> str:
    try:
        parse_period(text)
    except ValueError:
        refuse()
    return text


def _status(text: str, _: str) -> int:
    try:
        return check_status(int(text) if _DIGITS.fullmatch(text) else None)
    except (TypeError, ValueError):
        refuse()
        raise


def _reason(text: str, _: str) -> str:
    try:
        return check_reason(text)
    except ValueError:
        refuse()
        raise


def _rule_id(text: str, _: str) -> str:
    if text in RESERVED:
        refuse("the proxy itself uses this id")
    return text if _ID.fullmatch(text) else refuse()


def _prefix(most: int) -> Kind:
    return Kind(
        lambda text, _: (
            int(text) if _DIGITS.fullmatch(text) and 1 <= int(text) <= most else refuse()
        ),
        f"1 to {most}",
        types=(int,),
        schema={"minimum": 1, "maximum": most},
        write=int,
    )


PREFIX4, PREFIX6 = _prefix(32), _prefix(128)
NETWORK = Kind(
    _network,
    "a network or an address, such as 10.0.0.0/8, fd00::/8 or 127.0.0.1",
    metavar="NETWORK",
)
CLIENTS = Kind(_clients, f"{NETWORK.allowed}, or {UNIX} (Unix sockets)", metavar="NETWORK")
_OR_LIST = "@FILE with one of them a line"
HOST = Kind(_host, f"{HOSTS_ALLOWED}; or {_OR_LIST}")
RULE_NETWORK = Kind(_rule_network, f"{NETWORK.allowed}, or {_OR_LIST}", metavar="NETWORK")
RULE_CLIENTS = Kind(_rule_clients, f"{CLIENTS.allowed}, or {_OR_LIST}", metavar="NETWORK")
PORTS = Kind(
    _ports,
    "a port from 1 to 65535, or a range such as 8000-8999",
    types=(int, str),
    schema={"minimum": 1, "maximum": 65535, "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"},
    write=lambda value: int(value) if value.isdigit() else value,
)
TIMES = Kind(_times, TIMES_ALLOWED)
STATUS = Kind(
    _status,
    STATUSES,
    types=(int,),
    schema={"minimum": 400, "maximum": 599, "not": {"const": 407}},
    write=int,
)
REASON = Kind(_reason, REASONS, schema={"minLength": 1, "maxLength": REASON_MAX, "pattern": "^\\S"})
RULE_ID = Kind(
    _rule_id,
    f"letters, digits and ._:-, at most 64, but not {', '.join(RESERVED)}",
    schema={"pattern": f"^{_ID.pattern}$", "not": {"enum": list(RESERVED)}},
)
