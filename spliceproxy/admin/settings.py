"""The settings, as one process of a proxy hands them to another: in a file without a name."""

from __future__ import annotations

import os

from spliceproxy.config import Config


def hand(config: Config) -> int:
    """A descriptor with a configuration in it, which is the caller's. OSError."""
    import pickle  # late: most proxies are never given another

    fd = os.memfd_create("spliceproxy-settings", os.MFD_CLOEXEC)
    try:
        with open(os.dup(fd), "wb") as file:
            pickle.dump(config, file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def handed(fd: int) -> Config:
    """The configuration that another process of this proxy has written. Several read it, so the
    place in the file stays where it is."""
    import pickle

    found = pickle.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    assert isinstance(found, Config)
    return found
