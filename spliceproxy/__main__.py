"""The ``spliceproxy`` command, and ``python -m spliceproxy``."""

import signal
import sys


def main() -> int:
    """Runs it; returns the exit status."""
    # The rest takes a while to load, and log rotation must not kill a proxy that starts.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    from spliceproxy.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
