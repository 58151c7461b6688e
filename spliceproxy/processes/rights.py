"""Workers and the admin process have fewer rights than the supervisor: --user, --group.

The supervisor keeps what it was started with: it reads the settings, opens sockets, and starts the
program anew. Each of its children gives up all but the rights of the user before it does anything
else, for good (credentials(7), capabilities(7), PR_SET_NO_NEW_PRIVS in prctl(2)).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from typing import NamedTuple

from spliceproxy.config import Config
from spliceproxy.observe.standard import STANDARD
from spliceproxy.observe.syslog_address import is_syslog
from spliceproxy.processes import kernel

LOG_MODE = 0o640


class Rights(NamedTuple):
    """A user, a group, and the other groups."""

    user: int
    group: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, config: Config) -> Rights | None:
        """None where workers are as the supervisor is. ValueError: there is no such user."""
        if not config.user:
            return None
        user, primary, name = _user(config.user)
        group = _group(config.group) if config.group else primary
        if group is None:
            raise ValueError(
                f"--user {config.user}: this number has no name, and so no group; allowed: with "
                "--group"
            )
        # As login(1) does: those that the name is in, of /etc/group and its like.
        groups = tuple(os.getgrouplist(name, group)) if name else (group,)
        return cls(user, group, groups)

    @property
    def owner(self) -> tuple[int, int]:
        """Of files that are made for them."""
        return self.user, self.group

    def make_log(self, path: str) -> None:
        """A log that is not there yet is the user's, also where only root may write to its folder.
        OSError."""
        if path in STANDARD or path == "off" or is_syslog(path):
            return
        # Nothing that somebody has put there is given to the user, and no link is followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, flags, LOG_MODE)
            try:
                os.fchown(fd, self.user, self.group)
            finally:
                os.close(fd)

    def take(self) -> None:
        """This process has these rights from here on, and can never have others. OSError."""
        if (os.getuid(), os.getgid()) != (self.user, self.group) or os.geteuid() == 0:
            os.setgroups(self.groups)
            os.setresgid(self.group, self.group, self.group)
            os.setresuid(self.user, self.user, self.user)
        kernel.no_capabilities()
        kernel.no_new_privileges()
        kernel.dumpable()


def _user(text: str) -> tuple[int, int | None, str]:
    """Number, group and name of a user; a number may have neither."""
    try:
        found = pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)
    except KeyError:
        if text.isdigit():
            return int(text), None, ""
        raise ValueError(f"--user {text}: this system has no user of this name") from None
    return found.pw_uid, found.pw_gid, found.pw_name


def _group(text: str) -> int:
    try:
        return int(text) if text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"--group {text}: this system has no group of this name") from None
