"""The page of all settings, from the table: ``docs/settings.md`` is its output.

``python -m spliceproxy.settings.page > docs/settings.md`` renews it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from spliceproxy.settings.kind import TOML_TYPES, Kind
from spliceproxy.settings.table import SECTIONS, SETTINGS, Setting, default_words

_WIDTH = 100
"""Columns of the page, but for what has no blank in it."""

_BEGIN = """\
# Which settings are there?

This page is made from `spliceproxy/settings/table.py` by

    python -m spliceproxy.settings.page > docs/settings.md

A setting has one name. It is a flag (`--log-level debug`), a key of the TOML file that
`--config FILE` or `SPLICEPROXY_CONFIG` names (`log-level = "debug"`), and an environment variable
(`SPLICEPROXY_LOG_LEVEL=debug`). Flags override variables, variables override the file.

- A flag that may be repeated is a list in the file, and its variable has commas between the values.
- Relative paths in the file start from the folder of the file, others from the current folder.
- A setting without a flag is a key of the file, and a variable unless it is a table.
- A bad value ends the proxy with status 2 and one line for each mistake (for flags: for the first
  one). The line names the flag, variable or key, the value, and what is allowed.
- `spliceproxy check --config FILE` lists every mistake, or prints the effective settings as TOML.
  Passwords that a flag or a variable gave are left out. It takes the same flags. It also loads the
  module of `policy`, to see whether it can.
- The package has the JSON Schema of the file, for editors. This prints where it is:

      python -c 'import spliceproxy.settings as s; print(s.__path__[0] + "/schema.json")'

A reload (SIGHUP, `spliceproxy ctl reload`) reads all of it again:
[operation.md](operation.md#how-do-i-change-a-setting-while-it-runs). A setting that it cannot
change says so here.

`--version` and `--help` print and end. They are flags only. `--config` has no key.
"""

NOTES: Mapping[str, str] = {
    "listen": "`:8888` listens on every address of this machine, IPv4 and IPv6. With port 0 the "
    "proxy takes a free port and prints it. The permissions of a Unix socket follow the umask; its "
    "owner is `user`. Clients speak HTTP or SOCKS there; `http+tcp://:8888` is for HTTP alone, "
    "`socks+tcp://:1080` and `socks+unix:/path` for SOCKS alone ([socks.md](socks.md)). In "
    "`proxy+tcp://:8888` and `proxy+unix:/path` a balancer brings the clients: each connection "
    "must begin with a header of the PROXY protocol, version 1 or 2. See "
    "[scale-out.md](scale-out.md). `systemd:NAME` is a socket that systemd passes by this name; "
    "an address may be that of one, too: see [install.md](install.md#with-a-socket-of-systemds).",
    "proxy-protocol-from": "Whoever connects from anywhere else is closed without an answer. For "
    "`proxy+unix:/path` no network is needed: who may write to the file may send headers. Name "
    "balancers alone: a header can say any address. See [scale-out.md](scale-out.md).",
    "default-backend": "Without it, and without `serve`, such a request gets a 400 that explains "
    "how to configure a client. Not together with `serve`.",
    "serve": "Links are not followed, and names that begin with a dot are not served: both are "
    "404. Not together with `default-backend`.",
    "serve-links": "Only relative links that stay within the directory are followed. Without this "
    "setting a link is 404, and a warning at the start says so.",
    "workers": "A quota that is no whole number of CPUs is rounded up.",
    "user": "The supervisor keeps root's rights: it opens sockets, also below port 1024, and "
    "starts the program anew. Workers and the admin process have no capability left, and get "
    "none. What they read and write must be the user's to read and write; a log that is not "
    "there yet is made for the user, and so are Unix sockets. See [install.md]"
    "(install.md#as-another-user).",
    "landlock": "See [install.md](install.md#as-another-user) for what they can open.",
    "group": "The user has its other groups, too. A number for `user` that has no name needs a "
    "`group`.",
    "engine": "`native` is the compiled relay. `splice` and `copy` are Python. A message at the "
    "start says which one was taken, and why.",
    "max-connections": "The share of a worker is rounded up. A client beyond it gets 503.",
    "allow-clients": "Other clients get 403. `unix` stands for the clients of Unix sockets. Behind "
    "a balancer on this machine every client comes from loopback: see `guard-local`.",
    "auth": "See [users.md](users.md).",
    "htpasswd": "See [users.md](users.md).",
    "auth-file": "See [users.md](users.md).",
    "auth-required": "With `false` a client without a user may go on, and rules can tell it from "
    "users. See [users.md](users.md).",
    "auth-no-delay": "One may be the network of a balancer that you trust: see "
    "[passwords.md](passwords.md). `unix` stands for the clients of Unix sockets.",
    "auth-networks": "No password is asked for. If a client sends credentials, they decide.",
    "auth-peers": "The kernel says who is there (SO_PEERCRED, unix(7)). If a client sends "
    "credentials, they decide.",
    "guard": "`on` refuses link-local addresses and cloud metadata to all, and the addresses of "
    "this machine to clients that are not on it. `private` refuses every address that is not "
    "public. See [rules.md](rules.md).",
    "guard-local": "With `none` nobody may reach this machine under `guard`, and loopback is not "
    "in the default of `allow-clients`.",
    "report-only": "It is about all rules and `rule-default`. A single rule can have a "
    "`report-only` of its own.",
    "policy": "A dotted name is that of an installed module, or of one on PYTHONPATH. See "
    "[policy-function.md](policy-function.md).",
    "policy-timeout": "A function that takes longer is cancelled, and its request gets 500.",
    "policy-cache": "It is used for the same client, user, method, host, port and addresses only.",
    "learn": "Not together with `locked`. See [rules.md](rules.md).",
    "locked": "Not together with `learn`. See [rules.md](rules.md).",
    "targets": "See [rules.md](rules.md#names-alone).",
    "tls-name": "See [tls-name.md](tls-name.md).",
    "tls-refuse": 'Together with `tls-name = "check"` only. See [tls-name.md](tls-name.md).',
    "forwarded-for": "`transparent` leaves both fields as they come, `on` adds the client's "
    "address, `off` adds `unknown`, and `delete` removes them.",
    "timeout-proxy-header": "It is sent at once, in front of everything else. Whoever has not sent "
    "all of it by then is closed without an answer.",
    "timeout-head": "A client's connection between two requests ends after this time, too.",
    "timeout-dial": "The limit is for all connection attempts of one request together. Clients "
    "give up after 10 s; with this default they get an answer before.",
    "timeout-half-close": "See [half-close.md](half-close.md).",
    "timeout-drain": "Docker kills what has not ended 10 s after its SIGTERM.",
    "drain-delay": "The time of `timeout-drain` begins behind it.",
    "pid-file": "It is written when the proxy listens, and removed at the end. A program that "
    "takes over by an upgrade writes its own number. One that was left behind is replaced; where "
    "another proxy has it and runs, the start fails with status 1.",
    "reload-tunnels": "With `recheck` a tunnel is judged with the user, the client and the address "
    "that it has; a function of `policy` is asked, too, and sees no fields. What ends is PD in the "
    "access log, and a message says why.",
    "admin": "It is off by default. On TCP, `admin-token-file` is required; on a Unix socket the "
    "permissions of its file decide. See [admin.md](admin.md).",
    "admin-token-file": "A line is a token of 16 characters or more, each of which is right; a "
    "line that begins with `#` says nothing. The file is read again when it changes.",
    "admin-hosts": "A request to any other name gets 421, because a page of somebody else's may "
    "have sent it.",
    "access-log": "`-` and `/dev/stdout` are standard output, `/dev/stderr` is standard error. See "
    "[log.md](log.md).",
    "log-level": "Messages of this level and of the more serious ones are written. `debug` tells "
    "each step of every request, and makes the proxy slower. See "
    "[operation.md](operation.md#how-do-i-follow-one-request).",
    "rule": "Each rule is a table `[[rule]]`. A rule matches if all its conditions do. A condition "
    "matches if one item of its list does; only one of `users` and `groups` has to match. A rule "
    "without conditions matches everything. The supervisor reads the files of `@FILE` with the "
    "settings. See [rules.md](rules.md).",
    "limit": "Each limit is a table `[[limit]]`. It counts the requests that match, as rules do; "
    "one without conditions counts all. A request has to fit into every limit that counts it. See "
    "[limits.md](limits.md).",
    "proxy": "What `no-proxy` and the routes do not name goes there. See [parents.md](parents.md).",
    "proxy-auth": "Set it by its variable: everyone may see flags, and there is none.",
    "limits-store": "It needs redis: `pip install 'spliceproxy[redis]'`. See "
    "[limits.md](limits.md#over-several-machines).",
    "limits-store-auth": "Set it by its variable, or in a file that only the proxy may read.",
    "pac": "It needs pacparser: `pip install 'spliceproxy[pac]'`. See [parents.md](parents.md).",
    "no-proxy": "`example.com` and `.example.com` stand for that name and all below it; "
    "`10.0.0.0/8` for hosts that are written as such an address; `example.com:8443` for one port; "
    "`*` for everything.",
    "proxy-from-environment": "Lower case wins, and `http_proxy` counts in lower case only. A "
    "message at the start says what was found. See [parents.md](parents.md).",
    "route": "Each route is a table `[[route]]`. It matches if all its conditions do; a condition "
    "matches if one item of its list does, and only one of `users` and `groups` has to match. See "
    "[parents.md](parents.md).",
    "parent": "See [parents.md](parents.md).",
    "rule.status": "From 400 to 599, but not 407.",
    "rule.tls-refuse": 'Together with `tls-name = "check"` in the same rule only.',
    "rule.reason": "One line, such as `Ask the platform team in #egress`. See "
    "[rules.md](rules.md#what-does-the-client-get).",
}
"""What the page says beyond the help of a setting; a field of a rule is ``rule.NAME``."""


def page() -> str:
    """The page, in Markdown."""
    lines = [*_BEGIN.splitlines()]
    for title, settings in _groups():
        names = ", ".join(f"[{one.name}](#{one.name})" for one in settings)
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *_wrapped(names)]
        if SECTIONS.get(title):
            lines += ["", *_wrapped(SECTIONS[title])]
        for setting in settings:
            lines += ["", *_setting(setting)]
    return "\n".join(lines) + "\n"


def _groups() -> Iterator[tuple[str, list[Setting]]]:
    """The sections of ``--help``. A setting without a flag is in that of the one before it; an
    array of tables is a section by itself."""
    groups: dict[str, list[Setting]] = {section: [] for section in SECTIONS}
    section = ""
    for setting in SETTINGS:
        section = setting.section or section
        groups.setdefault(setting.name if setting.fields else section, []).append(setting)
    yield from groups.items()


def _setting(setting: Setting) -> Iterator[str]:
    yield f"### {setting.name}"
    yield ""
    ways = [f"flag `{_flag(setting)}`"] if setting.section else []
    ways.append(f"key `{setting.name}` ({_type(setting)})")
    ways += [f"variable `{setting.variable}`"] if setting.in_environment else []
    yield from _wrapped(", ".join(ways))
    yield ""
    yield from _wrapped(" ".join([_sentence(setting.help), NOTES.get(setting.name, "")]))
    yield ""
    if setting.fields:
        for field in setting.fields:
            yield from _field(setting, field)
        return
    yield from _item(f"Default: {_default(setting)}")
    if setting.keys is not None:
        yield from _item(f"Keys: {_allowed(setting.keys)}")
    yield from _item(f"Allowed: {_allowed(setting.kind)}{_how_many(setting)}")
    if setting.fixed:
        yield from _item(f"A reload does not change it, and warns: {setting.fixed}.")


def _field(setting: Setting, field: Setting) -> Iterator[str]:
    must = "required; " if field.required else ""
    note = NOTES.get(f"{setting.name}.{field.name}", "")
    allowed = "" if note else f" Allowed: {_allowed(field.kind)}."
    text = f"`{field.name}` ({must}{_type(field)}): {_sentence(field.help)} {note}{allowed}"
    yield from _item(text.strip())


def _flag(setting: Setting) -> str:
    if setting.kind.types == (bool,):
        return setting.flag_name
    values = "|".join(setting.kind.choices)
    return f"{setting.flag_name} {values or setting.kind.metavar or setting.name.upper()}"


def _type(setting: Setting) -> str:
    if setting.fields:
        return "tables"
    types = [TOML_TYPES[each] for each in setting.kind.types]
    one = types[-1] if "a number" in types else " or ".join(types)  # a whole one is a number, too
    if setting.many:
        one = f"a list, each item {one}; or {one}" if setting.alone else f"a list, each item {one}"
    return f"a table, each value {one}" if setting.keys is not None else one


def _default(setting: Setting) -> str:
    words = default_words(setting)
    if not words:
        return "none"
    return f"`{words}`" if " " not in words else words


def _allowed(kind: Kind) -> str:
    return kind.allowed.replace("*", "\\*")


def _how_many(setting: Setting) -> str:
    if not setting.many and setting.keys is None:
        return ""
    what = "table" if setting.keys is not None else "list"
    return (
        f". An empty {what}: {setting.empty}" if setting.empty else f". An empty {what} is an error"
    )


def _sentence(text: str) -> str:
    text = text.replace("*", "\\*")
    return f"{text[0].upper()}{text[1:]}."


def _item(text: str) -> Iterator[str]:
    yield from _wrapped(text, "- ")


def _wrapped(text: str, first: str = "") -> Iterator[str]:
    """Lines of at most _WIDTH columns, without breaking what is in backquotes or a link."""
    line, indent = first, " " * len(first)
    for word in _words(text):
        if len(line) + 1 + len(word) > _WIDTH and line.strip("- "):
            yield line
            line = indent
        line += word if line in (first, indent) else f" {word}"
    yield line


def _words(text: str) -> Iterable[str]:
    """The words; a blank between backquotes is part of one."""
    word = ""
    for part in text.split():
        word = f"{word} {part}" if word else part
        if word.count("`") % 2 == 0:
            yield word
            word = ""


if __name__ == "__main__":
    print(page(), end="")
