"""A live line of progress: so many of so many, and what else is to be said. Without a terminal there is none."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import TaskID


class Bar:
    """A progress bar on standard error that knows how to stay away."""

    def __init__(self, title: str, *, wanted: bool) -> None:
        """Prepare the bar; it is shown within `with`."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        shown = wanted and sys.stderr.isatty()
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[more]}"),
        ]
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not shown)
        self._task: TaskID = self._progress.add_task(title, total=None, more="")

    def __enter__(self) -> Self:
        """Show it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self.stop()

    def start(self) -> None:
        """Show it."""
        self._progress.start()

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def move(self, *, done: int, found: int, more: str) -> None:
        """Say how far it is."""
        self._progress.update(self._task, completed=done, total=found, more=more)

    def advance(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)
