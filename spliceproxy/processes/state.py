"""What the parts of a supervisor share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spliceproxy.config import Config
from spliceproxy.observe.board import Board
from spliceproxy.processes.history import History
from spliceproxy.processes.listeners import Listeners
from spliceproxy.processes.shelf import Shelf

if TYPE_CHECKING:
    from spliceproxy.processes.landlock import Confinement
    from spliceproxy.processes.rights import Rights


@dataclass(slots=True, eq=False, repr=False)
class State:
    """Of one proxy. ``config`` is in force, and ``generation`` its number; ``asked`` has the socket
    of the admin process, None without one. ``draining``: it was told to stop, but clients are still
    accepted until it is ``stopping``. ``killed``: nobody is started any more. ``status`` is that of
    the exit. ``busy`` says why nothing may be changed just now, "" where it may. ``rights`` are
    those of workers and the admin process, None where they are as this process is; ``confinement``
    says what they may open, None where that is as well. The ``shelf`` has what files said that the
    workers go by, and ``tokens`` what the admin process goes by, which is nobody else's."""

    config: Config
    listening: Listeners
    asked: Listeners | None
    board: Board
    generation: int = 1
    history: History = field(default_factory=History)
    draining: bool = False
    stopping: bool = False
    killed: bool = False
    status: int = 0
    busy: str = ""
    confinement: Confinement | None = None
    rights: Rights | None = None
    shelf: Shelf = field(default_factory=Shelf)
    tokens: Shelf = field(default_factory=Shelf)

    def fail(self, status: int) -> None:
        """It ends with this status, unless something else has failed before."""
        self.status = self.status or status
