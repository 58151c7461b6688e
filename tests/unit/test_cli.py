"""Flags to settings, and one clear line for every bad value."""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import command

from spliceproxy.cli import main as cli
from spliceproxy.config import Address, AuthConfig, Config, PolicyConfig, Timeouts
from spliceproxy.processes import logs
from spliceproxy.settings.loading import SettingsError, load
from spliceproxy.settings.table import SETTINGS
from spliceproxy.version import __version__


def parse(line: str) -> Config:
    return cli.parse(shlex.split(line))


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a bad command line prints: one line."""
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("spliceproxy: ")
    assert err.count("\n") == 1
    return err


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return command(*args, env={**os.environ, "COLUMNS": "80"})


def test_defaults() -> None:
    config = parse("")
    assert config == Config(
        listen=(Address(port=8888),),
        workers=len(os.sched_getaffinity(0)),
        via=config.via,  # has a random part
    )


def test_via_has_a_part_of_its_own_or_is_off() -> None:
    assert re.fullmatch("spliceproxy-[0-9a-f]{8}", parse("").via)
    assert parse("").via != parse("").via
    assert parse("--via off").via == ""


def test_every_flag(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    config = parse(
        "--listen :1 --listen [::1]:2 --workers 3 --engine splice --default-backend Web:80 "
        "--max-connections 1000 --timeout-head 1 --timeout-dial 2.5 --timeout-dns .5 "
        f"--timeout-idle 4 --timeout-half-close 5 --timeout-drain 0 --access-log {log} "
        "--log-level debug --via front --forwarded-for on"
    )
    assert config == Config(
        listen=(Address(port=1), Address(host="::1", port=2)),
        workers=3,
        engine="splice",
        default_backend=("web", 80),
        max_connections=1000,
        via="front",
        forwarded_for="on",
        timeouts=Timeouts(1.0, 2.5, 0.5, 4.0, 5.0, 0.0),
        access_log=str(log),
        log_level="debug",
    )
    assert parse(f"--serve {tmp_path}").serve == tmp_path


def test_every_policy_flag(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("# alice:x\n")
    config = parse(
        "--auth ada:se:cret --guard private --policy package.module:function "
        f"--learn {tmp_path / 'seen'} --allow-clients 10.0.0.0/8 --allow-clients ::1"
    )
    assert config.auth == AuthConfig(user=("ada", "se:cret"))
    assert config.policy == PolicyConfig(
        guard="private",
        hook="package.module:function",
        learn=tmp_path / "seen",
        clients=("10.0.0.0/8", "::1/128"),
    )
    assert parse(f"--auth ada:x --htpasswd {file}").auth.htpasswd == file
    assert parse(f"--locked {file}").policy.locked == file


def test_policy_file_may_name_a_function(tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.touch()
    assert parse(f"--policy {hook}").policy.hook == str(hook)
    assert parse(f"--policy {hook}:decide").policy.hook == f"{hook}:decide"


@pytest.mark.parametrize("value", ["secret", ":secret", "ada:", "a\tb:secret"])
def test_password_is_never_shown(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(f"--auth '{value}'", capsys)
    assert "--auth: invalid value; allowed: USER:PASSWORD" in text
    assert "secret" not in text


def test_access_log_words() -> None:
    assert parse("--access-log off").access_log == "off"


@pytest.mark.parametrize(
    ("value", "address", "text"),
    [
        (":8888", Address(port=8888), ":8888"),
        ("8888", Address(port=8888), ":8888"),
        ("127.0.0.1:0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535), "0.0.0.0:65535"),
        ("[::1]:8888", Address("::1", 8888), "[::1]:8888"),
        ("[0:0::0:1]:8888", Address("::1", 8888), "[::1]:8888"),
        ("unix:/run/proxy", Address(path="/run/proxy"), "unix:/run/proxy"),
        ("unix:/run/a:1", Address(path="/run/a:1"), "unix:/run/a:1"),
        ("unix:/" + 106 * "x", Address(path="/" + 106 * "x"), "unix:/" + 106 * "x"),
    ],
)
def test_listen(value: str, address: Address, text: str) -> None:
    (found,) = parse(f"--listen {value}").listen
    assert found == address
    assert str(found) == text


def test_paths_are_from_the_directory_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hook.py").touch()
    assert parse("--listen unix:sock").listen == (Address(path=f"{tmp_path}/sock"),)
    assert parse("--serve .").serve == tmp_path
    assert parse("--access-log log").access_log == f"{tmp_path}/log"
    assert parse("--policy hook.py").policy.hook == f"{tmp_path}/hook.py"
    assert parse("--learn seen").policy.learn == tmp_path / "seen"


@pytest.mark.parametrize(
    "value",
    [
        "''",
        ":",
        ":x",
        ":65536",
        ":-1",
        ":+1",
        ":1_0",
        ":٣",
        "-1",
        "localhost:8888",
        "::1:8888",
        "[::1]",
        "[127.0.0.1]:1",
        "[fe80::1%lo]:1",
        "127.1:8888",
        "127.0.0.01:8888",
        "http://127.0.0.1:8888",
        "127.0.0.1:8888/",
        "unix:",
        "unix:/" + 107 * "x",
    ],
)
def test_bad_listen(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(f"--listen {value}", capsys)
    assert "--listen: invalid value " + repr(value.strip("'")) in text
    assert "allowed: " in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":1", ":1"),
        (":1", "127.0.0.1:1"),
        ("[::1]:1", ":1"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:1", "[0::1]:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::1]:1", "[::]:1"),
        ("unix:/a", "unix:/b/../a"),
    ],
)
def test_overlapping_listen(one: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "overlaps with --listen" in refused(f"--listen {one} --listen {other}", capsys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":0", ":0"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        (":1", ":2"),
        ("127.0.0.1:1", "127.0.0.2:1"),
        ("127.0.0.1:1", "[::1]:1"),
        ("0.0.0.0:1", "[::]:1"),
        ("0.0.0.0:1", "[::1]:1"),
        ("unix:/a", "unix:/b"),
        ("unix:/a", ":0"),
    ],
)
def test_listen_side_by_side(one: str, other: str) -> None:
    assert len(parse(f"--listen {one} --listen {other}").listen) == 2


@pytest.mark.parametrize(
    ("value", "backend"),
    [
        ("Example.COM:80", ("example.com", 80)),
        ("my_app:8080", ("my_app", 8080)),
        ("a.b.:1", ("a.b.", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_default_backend(value: str, backend: tuple[str, int]) -> None:
    assert parse(f"--default-backend {value}").default_backend == backend


@pytest.mark.parametrize(
    ("flag", "values", "allowed"),
    [
        (
            "--default-backend",
            [
                "a",
                ":80",
                "a:",
                "a:0",
                "a:65536",
                "::1:1",
                "256.1.1.1:1",
                "a..b:1",
                "a/b:1",
                "http://a:1",
            ],
            "HOST:PORT",
        ),
        ("--default-backend", [f"{255 * 'a'}:1"], "HOST:PORT"),
        ("--workers", ["0", "-1", "1025", "x", "2.0", "1e3", "''", "Auto"], "1 to 1024, or auto"),
        ("--via", ["''", "'a b'", "a,b", "é"], "letters"),
        ("--max-connections", ["-1", "x", "1.5", "1_000", "9999999999"], "0 to 999999999"),
        ("--serve", ["/nonexistent", "/etc/passwd"], "a directory"),
        ("--access-log", ["''"], "a file, -, off, syslog:, syslog:/socket or syslog:HOST:PORT"),
        *(
            (
                f"--timeout-{name}",
                ["-1", "nan", "inf", "-inf", "x", "1e3", "1_0", "''", "31536001", "1s"],
                "seconds above 0",
            )
            for name in ("head", "dial", "dns", "idle", "half-close", "drain")
        ),
        ("--timeout-idle", ["0", "0.0"], "seconds above 0"),
        ("--htpasswd", ["/nonexistent", "/etc", "''"], "a file that exists and can be read"),
        ("--locked", ["/nonexistent", "/etc", "''"], "a file that exists and can be read"),
        ("--learn", ["/nonexistent/file", "/etc", "''"], "a file in a directory that exists"),
        ("--policy", ["a-b", "a/b", "/x.py", "a:", "a:1", "a.", "''"], "a FILE.py that exists"),
    ],
)
def test_bad_value(
    flag: str, values: list[str], allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        text = refused(f"{flag}={value}", capsys)
        shown = re.escape(repr(value.strip("'")))
        assert re.search(rf"{flag}: invalid value {shown}( \(.+\))?; allowed: {allowed}", text)


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--engine", "auto, native, splice, copy"),
        ("--log-level", "debug, info, warning, error"),
        ("--forwarded-for", "transparent, on, off, delete"),
    ],
)
def test_bad_choice(flag: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same words as of the variable and of the file."""
    text = refused(f"{flag} bad", capsys)
    assert text == f"spliceproxy: {flag}: invalid value 'bad'; allowed: {allowed} (see --help)\n"
    variable = f"SPLICEPROXY_{flag.removeprefix('--').replace('-', '_').upper()}"
    with pytest.raises(SettingsError) as caught:
        load({}, None, {variable: "bad"})
    assert caught.value.problems == (f"{variable}: invalid value 'bad'; allowed: {allowed}",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        # no abbreviations
        ("--work 3", "spliceproxy: --work: no such option; did you mean --workers? (see --help)"),
        (
            "--timeout-d 3",
            "--timeout-d: no such option; did you mean --timeout-dial or --ti",
        ),
        ("--log_levle=info", "--log_levle: no such option; did you mean --log-level? (see --help)"),
        ("-confg x", "-confg: no such option; did you mean --config? (see --help)"),
        ("--nonsense x", "spliceproxy: --nonsense: no such option (see --help)"),
        ("-x", "spliceproxy: -x: no such option (see --help)"),
        ("--rule-default deny", "no such option; it is a key of the file that --config names"),
        ("--proxy-auth a:b", "names, or the variable SPLICEPROXY_PROXY_AUTH (see --help)"),
        ("--via a check", "check: a command comes before all options (see --help)"),
        ("--via a :8888", ":8888: only options and their values are allowed here (see --help)"),
        ("127.0.0.1:8888", "127.0.0.1:8888"),
        (
            "chekc",
            "no such command: 'chekc'; allowed: check, completion, ctl, explain, import, "
            "manifests, top, unit, or an option",
        ),
        ("--workers", "--workers: expected one argument"),
        ("--serve-links=yes", "--serve-links: it takes no value, but was given 'yes' (see --help)"),
        ("chekc", "or an option; did you mean check? (see --help)"),
        ("'two\nlines\x1b[31m'", r"two\nlines\x1b[31m"),
        ("--serve / --default-backend a:1", "cannot be combined with --default-backend"),
        (
            "--learn /tmp/a --locked /etc/passwd",
            "--learn /tmp/a: it cannot be combined with --locked",
        ),
        ("--config /nonexistent", "--config /nonexistent: cannot read it (No such file"),
        ("--access-log /", "--access-log /: cannot write to it (Is a directory)"),
        ("--access-log /nonexistent/log", "(No such file or directory)"),
    ],
)
def test_bad_line(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(line, capsys)


@pytest.mark.parametrize("flag", ["--htpasswd", "--locked", "--serve", "--policy", "--learn"])
def test_what_is_wrong_with_a_file(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is there, and what it is."""
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "file.py").touch()
    (tmp_path / "folder.py").mkdir()
    wrong = {
        "none.py": "does not exist",
        "file.py/x.py": "cannot be read: Not a directory",
        "folder.py": "is a directory",
        "fifo.py": "is not a regular file",
    }
    if flag == "--serve":
        del wrong["folder.py"]
        wrong["fifo.py"] = wrong["file.py"] = "is not a directory"
    if flag == "--learn":
        wrong = {"folder.py": "is a directory"}
        text = refused(f"--learn {tmp_path}/none/x", capsys)
        assert f"({tmp_path}/none does not exist)" in text
    for name, why in wrong.items():
        text = refused(f"{flag} {tmp_path}/{name}", capsys)
        assert f"{flag}: invalid value '{tmp_path}/{name}' ({why}); allowed: " in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--serve {}/closed", "(cannot be read: Permission denied); allowed: a directory that"),
        ("--serve {}/closed/inside", "(cannot be read: Permission denied); allowed: a directory"),
        ("--htpasswd {}/log", "(cannot be read: Permission denied); allowed: a file that exists"),
        ("--locked {}/log", "(cannot be read: Permission denied); allowed: a file that exists"),
        ("--policy {}/hook.py", "(cannot be read: Permission denied); allowed: a FILE.py that"),
        ("--config {}/log", "/log: cannot read it (Permission denied)"),
        ("--access-log {}/log", "cannot write to it (Permission denied)"),
        ("--access-log {}/new", "cannot write to it (Permission denied)"),
    ],
)
def test_files_of_others(flag: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "closed", "inside").mkdir(parents=True)
        Path(folder, "closed").chmod(0o700)
        Path(folder, "log").touch(mode=0o600)
        Path(folder, "hook.py").touch(mode=0o600)
        pid = os.fork()
        if pid == 0:  # access(2) asks for the real user, which a process changes for good
            status = 1
            try:
                os.setuid(65534)
                status = 0 if words in refused(flag.format(folder), capsys) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_access_log_is_opened_as_the_log_will(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("kept\n")
    parse(f"--access-log {log}")
    assert log.read_text() == "kept\n"
    parse(f"--access-log {tmp_path / 'new'}")
    assert (tmp_path / "new").stat().st_mode & 0o137 == 0


def test_help_fits_a_terminal_and_names_every_flag() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) < 80
    settings = [setting.name for setting in SETTINGS if setting.section]
    for flag in ["config", *settings, "version"]:
        assert re.search(rf"^  --{flag}\b", result.stdout, re.M), flag
    for default in (":8888", "auto", "0", "30", "9", "4", "3600", "60", "-", "info"):
        assert re.search(rf"default:\s+{default}[,)]", result.stdout), default


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    native = "native engine (not built|built|built for debugging)"
    pattern = rf"spliceproxy {__version__} \(\w+ 3\.\d+\.\S+, {native}, \w+\)\n"
    assert re.fullmatch(pattern, result.stdout)


def test_flags_are_answered_without_loading_the_proxy() -> None:
    code = (
        "import sys; from spliceproxy.cli import main as cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert "spliceproxy.config" in out
    heavy = {"asyncio", "uvloop", "logging", "socket", "idna", "tomllib", "tomli_w"}
    assert not {*heavy, "spliceproxy.processes.supervisor"} & set(out)


def test_port_in_use_exits_1_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--listen", f"127.0.0.1:{port}")
    assert result.returncode == 1
    assert result.stderr.endswith(f"cannot listen on 127.0.0.1:{port}: another program uses it\n")
    assert result.stderr.count("\n") == 1


# Messages


@pytest.fixture
def _root_logger() -> object:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.mark.usefixtures("_root_logger")
def test_messages_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("warning")
    log = logging.getLogger("spliceproxy.test")
    log.info("too low")
    log.warning("no origin %s", "a\r\nb\x1b[31m\x00\x7f\x9b ü")
    err = capsys.readouterr().err
    assert err.endswith("WARNING no origin a\\x0d\\x0ab\\x1b[31m\\x00\\x7f\\x9b ü\n")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("_root_logger")
def test_tracebacks_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("error")
    try:
        raise RuntimeError("here")
    except RuntimeError:
        logging.getLogger("spliceproxy.test").exception("it failed")
    err = capsys.readouterr().err
    assert "ERROR it failed\nTraceback (most recent call last):\n" in err
    assert err.endswith("RuntimeError: here\n")
