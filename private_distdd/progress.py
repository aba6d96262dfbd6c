"""How far long work is: a bar on a terminal, elsewhere plain lines with times, now and then.  No torch in here."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TextIO, TypeAlias, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

_PAUSE = 1.0  # seconds at least between two texts that cost something, such as an epsilon
_SHARE = 0.05  # of the time, at most, goes into them
_EVERY, _AT_MOST = 10.0, 60.0  # seconds between two lines: at first, and of work of hours
_Draw: TypeAlias = Callable[[int | None, str], None]


class Progress:
    """What is told of one piece of work, by the thread that does it; see `showing`.

    Args:
        total: of units.
        draw: called with how many are done, None for as many as before, and words on it; None shows nothing.
    """

    def __init__(self, total: int, draw: _Draw | None = None) -> None:
        self._total, self._draw = total, draw
        self._words, self._due = "", 0.0

    def at(self, done: int, words: Callable[[], str] | None = None) -> None:
        """So many units are done.

        Args:
            done: in [0, total].
            words: makes words on it; called where they are due: once a second at most, in a twentieth of the time, and
                at the end.
        """
        if self._draw is None:
            return
        now = time.monotonic()
        if words is not None and (now >= self._due or done == self._total):
            self._words = words()
            self._due = now + max(_PAUSE, (time.monotonic() - now) / _SHARE)
        self._draw(done, self._words)

    def say(self, note: str) -> None:
        """What goes on between two units; it stands until the next one is done."""
        if self._draw is not None:
            self._draw(None, f"{self._words}  {note}".strip())


@contextlib.contextmanager
def showing(total: int, *, unit: str, shown: bool, done: int = 0, even: bool = True) -> Iterator[Progress]:
    """What the block tells of its work, on standard error: as a bar on a terminal, else as lines.

    A line comes at the start, at the end, and meanwhile every ten seconds (of work of hours every minute).  In a
    notebook the bar needs ipywidgets; without them it is said once, and lines are printed.

    Args:
        total: of units.
        unit: what is counted, in one word: "round 12/100".
        shown: show anything?
        done: units that were done before, as of a run that is resumed, in [0, total].
        even: do units take about the same time, so that the time left can be told?
    """
    if not shown or sys.stderr is None:  # as of a process without a terminal
        yield Progress(total)
        return
    stream = cast(TextIO, _Lasting(sys.stderr))
    console = Console(file=stream)
    if console.is_jupyter and not _has_widgets():
        drawing = _lines(total, unit, done, even, cast(TextIO, _Lasting(sys.stdout)))  # standard error is red there
    elif console.is_jupyter or (stream.isatty() and not console.is_dumb_terminal):
        drawing = _bar(total, unit, done, even, console)
    else:
        drawing = _lines(total, unit, done, even, stream)
    with drawing as draw:
        yield Progress(total, draw)


class _Lasting(io.TextIOBase):
    """A stream that may have no reader any more, as of a terminal that hung up: no reason to lose the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):  # it is closed
            return self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@functools.cache  # said once
def _has_widgets() -> bool:
    if importlib.util.find_spec("ipywidgets") is not None:
        return True
    print("No ipywidgets in this Python, so progress is told in lines; pip install ipywidgets for a bar.")
    return False


@contextlib.contextmanager
def _bar(total: int, unit: str, done: int, even: bool, console: Console) -> Iterator[_Draw]:
    columns = (
        TextColumn(unit),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        BarColumn(bar_width=5),
        TextColumn("{task.description}", markup=False),
        _Clock(even),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda done, words: bar.update(task, completed=done, description=words)


class _Clock(ProgressColumn):
    """The time left, with a minus, where it can be told; else the time that has passed."""

    def __init__(self, even: bool) -> None:
        super().__init__()
        self._even = even

    def render(self, task: Task) -> Text:
        left = task.time_remaining if self._even and not task.finished else None
        return Text(f"-{_clock(left)}" if left is not None else _clock(task.elapsed or 0.0))


@contextlib.contextmanager
def _lines(total: int, unit: str, done: int, even: bool, file: TextIO) -> Iterator[_Draw]:
    """Lines of a thread of their own: they go on while the work waits for somebody."""
    began, over = time.monotonic(), threading.Event()
    now, first = (done, ""), (done, began)  # the latter: until when no more were done than so many

    def draw(done: int | None, words: str) -> None:
        nonlocal now, first
        if done is not None and done <= first[0]:
            first = done, time.monotonic()
        now = now[0] if done is None else done, words

    def line() -> None:
        done, words = now
        passed = time.monotonic() - began
        parts = [f"{unit} {done}/{total}", _clock(passed)]
        if even and first[0] < done < total:
            parts.append(f"{_clock((time.monotonic() - first[1]) * (total - done) / (done - first[0]))} left")
        print(", ".join([*parts, *([words] if words else [])]), file=file, flush=True)

    def tick() -> None:
        while not over.wait(min(_AT_MOST, max(_EVERY, (time.monotonic() - began) / 20))):
            line()

    line()
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield draw
    finally:
        over.set()
        thread.join()
        line()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
