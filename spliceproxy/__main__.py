"""The ``spliceproxy`` command, and ``python -m spliceproxy``.

The rest takes a while to load. What the world does meanwhile is taken care of here, before
anything else is imported.
"""

import gc
import os
import signal
import sys

STOPS = (signal.SIGTERM, signal.SIGINT)
"""Stop the proxy: one that has not started yet ends with status 0."""

LATER = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
"""Mean something to a proxy that runs, or nothing, and must not end one that starts."""


def main() -> int:
    """Runs it; returns the exit status."""
    _open_standard_streams()
    if not sys.argv[1:] or sys.argv[1].startswith("-"):  # not one of the other commands
        _take_signals()
        gc.disable()  # modules make no garbage, and looking for it takes a tenth of the start
    from spliceproxy.cli.main import main as run

    return run()


def _open_standard_streams() -> None:
    """Those that the parent has closed lead to /dev/null, or what is opened first would get
    their descriptors: a listening socket to which the access log is written."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest descriptor that is free
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            stream = os.fdopen(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, stream)


def _take_signals() -> None:
    """A signal that is ignored stays so, as nohup(1) and background jobs expect; but SIGTERM,
    which stops every daemon. The supervisor takes over by blocking them. SIGHUP is blocked from
    here on: it asks to read settings again that may have been read already when it comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    for number in STOPS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    for number in LATER:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _pass)


def _end(number: int, frame: object) -> None:
    # Not by an exception, which a module that is being loaded may catch, or show.
    os._exit(0)


def _pass(number: int, frame: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
