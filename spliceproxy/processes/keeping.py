"""What the files of a policy said, kept for workers that are started later.

A worker tells the supervisor by its control channel, with a descriptor of a file without a name
(memfd_create(2)) that has the texts:

    {"kept": "fixed", "generation": 3}      the modules of --policy and the file of --locked, before
                                            it serves the first client of that generation
    {"kept": "followed", "generation": 3}   the files of users; again whenever one has changed

The supervisor looks into none of them, and gives them to each worker that it starts. Of what is
fixed it keeps what it was told first: a worker that somebody has taken over can change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spliceproxy.kept import Kept, packed, written
from spliceproxy.messages import log, plain
from spliceproxy.processes.shelf import FIXED, FOLLOWED

if TYPE_CHECKING:
    from spliceproxy.admin.worker import Replies
    from spliceproxy.processes.instance import Instance


class Keeping:
    """The part of one worker."""

    def __init__(self, instance: Instance, replies: Replies) -> None:
        self._instance = instance
        self._replies = replies

    def tell(self) -> None:
        """It goes by another policy, or by its first one."""
        kept = self._kept
        if kept is not None:
            kept.told = self._tell_followed
            self._tell(FIXED, kept.read.modules, kept.read.files)
            self._tell_followed()

    @property
    def _kept(self) -> Kept | None:
        return self._instance.services.policy.kept

    def _tell_followed(self) -> None:
        if self._kept is not None:
            self._tell(FOLLOWED, {}, self._kept.read.followed)

    def _tell(
        self, kind: str, modules: Mapping[str, tuple[str, bytes]], files: Mapping[str, bytes]
    ) -> None:
        if not modules and not files:
            return
        try:
            fd = written(packed(modules, files))
        except OSError as error:
            log.warning(
                "what the files of the policy say is not kept for workers to come: %s", plain(error)
            )
            return
        generation = self._instance.services.generation
        self._replies.report({"kept": kind, "generation": generation, "fds": [fd]})
