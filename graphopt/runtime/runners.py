"""What can be timed: a model loaded in some runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from graphopt.data.feeds import Feeds


class TimedRunner(Protocol):
    """A loaded model. A ``Session`` is one; so is a model in another runtime."""

    @property
    def provider(self) -> str:
        """graphopt's name of where it runs: cpu, cuda, openvino, ..."""
        ...

    @property
    def threads(self) -> int:
        """Threads inside one operator."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """What it really runs on, in the runtime's words."""
        ...

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """A call that runs ``feeds`` with no checks around it."""
        ...
