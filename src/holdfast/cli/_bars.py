"""Progress in the terminal: one bar per stage, and below them one line of news."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from holdfast.cli._common import printable, shorten


class Bars(Progress):
    """Bars with rate and time left, on stderr."""

    def __init__(self) -> None:
        self.news = ""
        columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[rate]}"))  # fmt: skip
        super().__init__(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))

    def __enter__(self) -> Bars:
        """Wait for the first bar: what fails before it leaves no empty line behind."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End the display; after an error a bar that never moved goes, as it would stand above the reason."""
        if kind is not None:
            for task in self.tasks:
                if task.total is None:
                    self.remove_task(task.id)
            self.live.transient = not self.tasks
        self.stop()

    def stop(self) -> None:
        """End the display, if there was one."""
        if self.live.is_started:
            # without any bar there is no line to end either
            super().stop() if self.tasks else self.live.stop()

    def announce(self, title: str) -> _Bar:
        """Add a bar and return what moves it."""
        self.start()
        return _Bar(self, self.add_task(shorten(title, 36), total=None, rate=""))

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars and, if there are any, the news."""
        yield self.make_tasks_table(self.tasks)
        if self.news:
            yield Text(printable(self.news), no_wrap=True, overflow="ellipsis")


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def __call__(self, done: int, total: int) -> None:
        speed = next(item.speed for item in self._bars.tasks if item.id == self._task)
        self._bars.update(self._task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

    def tell(self, text: str) -> None:
        self._bars.news = text
