"""Progress: a bar on a terminal, lines elsewhere, nothing where it was not asked for; words only when they are due."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from private_distdd import progress
from private_distdd.progress import Progress, showing


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return super().isatty() or True  # which refuses where it is closed


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    monkeypatch.setattr(progress, "_AT_MOST", 0.01)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A notebook without ipywidgets."""
    monkeypatch.setattr(progress, "Console", _InNotebook)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    progress._has_widgets.cache_clear()
    yield
    progress._has_widgets.cache_clear()


class _InNotebook(Console):
    def __init__(self, **others: bool) -> None:
        super().__init__(**others)  # type: ignore[arg-type]
        self.is_jupyter = True


def wait_for(stream: io.StringIO, pattern: str) -> str:
    """What was written, as soon as a line is like that."""
    end = time.monotonic() + 10
    while not re.search(pattern, stream.getvalue(), re.MULTILINE) and time.monotonic() < end:
        time.sleep(0.005)
    return stream.getvalue()


def test_a_log_gets_a_line_at_the_start_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(3, unit="round", shown=True) as shown:
        for done in (1, 2, 3):
            shown.at(done, lambda done=done: f"loss {done}")  # type: ignore[misc]
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == ["round 0/3, 0:00:00", "round 3/3, 0:00:00, loss 3"]


@pytest.mark.usefixtures("often")
def test_lines_go_on_while_the_work_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with showing(9, unit="step", shown=True) as shown:
        shown.say("1 of 2 clients have replied")
        said = wait_for(log, "^step 0/9, 0:00:00, 1 of 2 clients have replied$")
        assert said.count("1 of 2 clients have replied") >= 1
        shown.at(2, lambda: "loss 0.5")
        shown.at(4)
        wait_for(
            log, r"^step 4/9, 0:00:00, 0:00:0\d left, loss 0.5$"
        )  # what was said of a unit stands; the note does not
    assert log.getvalue().splitlines()[-1].startswith("step 4/9, 0:00:00, ")
    size = len(log.getvalue())
    time.sleep(0.05)
    assert len(log.getvalue()) == size  # its thread has ended


def test_the_time_left_is_told_by_whole_units_and_from_where_the_work_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with showing(10, unit="round", shown=True, done=4) as shown:
        for done in (5, 6):
            now[0] += 50
            shown.say("2 of 2 clients have replied")  # most of a round is waiting
            now[0] += 10
            shown.at(done)
    assert capsys.readouterr().err.splitlines() == ["round 4/10, 0:00:00", "round 6/10, 0:02:00, 0:04:00 left"]


def test_waiting_before_the_first_unit_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with showing(10, unit="step", shown=True) as shown:
        now[0] += 1000
        shown.at(0)  # a round is over
        now[0] += 2
        shown.at(2)
    assert capsys.readouterr().err.splitlines()[-1] == "step 2/10, 0:16:42, 0:00:08 left"


class Gone(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class HungUp(Gone):
    """A terminal whose window was closed."""

    def isatty(self) -> bool:
        return True


def closed() -> io.StringIO:
    stream = Terminal()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Gone(), HungUp(), closed(), None], ids=["gone", "hung up", "closed", "none"])
def test_work_outlives_standard_error(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with showing(3, unit="round", shown=True) as shown:
        shown.at(3)


@pytest.mark.usefixtures("often")
def test_no_time_left_is_told_of_units_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with showing(9, unit="audit", shown=True, even=False) as shown:
        shown.at(1)
        shown.at(2)
        wait_for(log, "^audit 2/9")
    assert "left" not in log.getvalue()


def test_lines_end_with_the_work_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with showing(9, unit="step", shown=True) as shown:
            shown.at(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 2/9, 0:00:00")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with showing(4, unit="round", shown=True) as shown:
        shown.at(4, lambda: "loss [0.5]")  # no markup
    said = terminal.getvalue()
    assert "\x1b[" in said
    assert "━━━━━" in said
    assert "loss [0.5]" in said
    assert "round 4/4, " not in said


def test_nothing_is_shown_unless_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(3, unit="round", shown=False) as shown:
        shown.at(1, pytest.fail)
        shown.say("a note")
    found = capsys.readouterr()
    assert found.out + found.err == ""


@pytest.mark.usefixtures("notebook")
def test_a_notebook_without_widgets_gets_lines_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with showing(1, unit="round", shown=True) as shown:
            shown.at(1)
    found = capsys.readouterr()
    assert found.err == ""  # which is red there
    lines = found.out.splitlines()
    assert "pip install ipywidgets" in lines[0]
    assert lines[1:] == ["round 0/1, 0:00:00", "round 1/1, 0:00:00"] * 2


def test_words_are_made_at_most_once_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told, drawn = [100.0], list[float](), list[tuple[int, str]]()

    def words() -> str:
        told.append(now[0])
        now[0] += 0.3  # slow: a twentieth of the time may go into it, so the next is due after 6 s
        return f"words {len(told)}"

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(100, lambda done, words: drawn.append((done, words)))
    for done in range(1, 101):
        now[0] += 0.1
        shown.at(done, words)
    assert 2 <= len(told) <= 4
    assert told[1] - told[0] >= 6
    assert [done for done, _ in drawn] == list(range(1, 101))
    assert drawn[-1] == (100, f"words {len(told)}")
