"""The page of man(1), from the table of settings: ``docs/spliceproxy.1`` is its output.

``python -m spliceproxy.cli.manpage > docs/spliceproxy.1`` renews it. The macros are those of
man(7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spliceproxy.cli.flags import COMMANDS
from spliceproxy.settings.table import SECTIONS, SETTINGS, Setting, default_words
from spliceproxy.version import __version__

_SIGNALS = (
    ("SIGTERM, SIGINT", "Begin a graceful stop: no new clients, and open requests and tunnels have "
     "--timeout-drain seconds to finish. A second one stops at once."),
    ("SIGHUP", "Read the settings again. What is wrong with them is told, and nothing changes "
     "then."),
    ("SIGUSR1", "Open the access log anew."),
    ("SIGUSR2", "Start the program anew, which takes over all connections."),
    ("SIGQUIT", "Print every open connection to standard error."),
)  # fmt: skip

_STATUSES = (
    ("0", "It stopped, and everything had finished."),
    ("1", "It could not start, or a worker failed while it stopped."),
    ("2", "A value is bad; standard error names it and says what is allowed."),
    ("128+N", "A second signal, number N, stopped it at once."),
)


def page() -> str:
    """The page."""
    lines = [
        f'.TH SPLICEPROXY 1 - "spliceproxy {__version__}" "User Commands"',
        ".SH NAME",
        r"spliceproxy \- HTTP and CONNECT forward proxy",
        ".SH SYNOPSIS",
        ".B spliceproxy",
        r"[\fB\-\-listen\fR \fIADDR\fR]... [\fIoption\fR]...",
        ".br",
        ".B spliceproxy",
        r"\fIcommand\fR [\fIargument\fR]...",
        ".SH DESCRIPTION",
        _text(
            "spliceproxy is an HTTP and CONNECT forward proxy for Linux. Python decides, the "
            "kernel moves the bytes. Without an option it serves this machine and private networks "
            "on port 8888. It stays in the foreground, and writes the access log to standard "
            "output and messages to standard error."
        ),
        ".PP",
        _text(
            "Every option is also a key of the TOML file that --config names (log-level = "
            '"info") and an environment variable (SPLICEPROXY_LOG_LEVEL=info; lists have commas). '
            "Options override variables, and variables override the file."
        ),
        ".SH COMMANDS",
        *_tagged((name, _sentence(one.text)) for name, one in COMMANDS.items()),
        ".PP",
        _text("Each has a --help of its own."),
        ".SH OPTIONS",
        *_tagged([("--config FILE", "A TOML file of settings, access rules among them.")]),
        *_options(),
        *_tagged(
            [
                ("--version", "Print the version and exit."),
                ("-h, --help", "Print a summary and exit."),
            ]
        ),
        ".SH KEYS WITHOUT AN OPTION",
        _text(
            "These stand in the file only, or in an environment variable unless they are tables."
        ),
        *_tagged((one.name, _about(one)) for one in SETTINGS if not one.section),
        ".SH SIGNALS",
        *_tagged(_SIGNALS),
        ".SH EXIT STATUS",
        *_tagged(_STATUSES),
        ".SH EXAMPLES",
        ".EX",
        _text("spliceproxy --listen 127.0.0.1:3128"),
        _text("curl -x http://127.0.0.1:3128 https://example.org/"),
        ".EE",
        ".SH SEE ALSO",
        _text("curl(1), htpasswd(1), splice(2), systemd.service(5)"),
    ]
    return "\n".join(lines) + "\n"


def _options() -> Iterator[str]:
    for section, text in SECTIONS.items():
        yield f".SS {_escaped(section[0].upper() + section[1:])}"
        if text:
            yield _text(text)
        yield from _tagged((_flag(one), _about(one)) for one in SETTINGS if one.section == section)


def _flag(setting: Setting) -> str:
    if setting.kind.types == (bool,):
        return setting.flag_name
    values = "|".join(setting.kind.choices)
    return f"{setting.flag_name} {values or setting.kind.metavar or setting.name.upper()}"


def _about(setting: Setting) -> str:
    text = _sentence(setting.help)
    if setting.many and setting.section:
        text += " May be repeated."
    default = default_words(setting)
    return f"{text} Default: {default}." if default else text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _tagged(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for tag, text in pairs:
        yield ".TP"
        yield rf"\fB{_escaped(tag)}\fR"
        yield _text(text)


def _text(text: str) -> str:
    """A paragraph. A line that begins with a dot or an apostrophe would be a request."""
    line = _escaped(text)
    return rf"\&{line}" if line[:1] in (".", "'") else line


_WRITTEN = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
"""What groff would show as another sign (groff_char(7))."""


def _escaped(text: str) -> str:
    return text.translate(_WRITTEN)


if __name__ == "__main__":
    print(page(), end="")
