"""The outputs that the documentation shows, held against what the commands beside them print.

A page's fenced blocks are read in order.  ```` ```python ```` and ```` ```sh ```` are run; ```` ```text ```` is what
the block before it printed, and says so in a comment that the rendered page does not show:

    <!-- output -->                       the whole output; a line "..." stands for any lines, and one that ends in
                                          a backslash goes on in the next, so that pages need no long lines
    <!-- output; masked: hash loss -->    the same, but for values that are different every time (see `MASKS`)
    <!-- not run: why -->                 before a python or sh block: it takes too long, or needs data

What is printed of the folder's own path is left out.  Numbers with a point may differ by a millionth of themselves, as
in `Release.verify`; all else must be equal.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from private_distdd.cli import main

RUN, SHOWN = ("python", "sh"), "text"
MASKS = {
    "accuracy": r"\b\d+\.\d ?%(?: ± \d+\.\d ?%)? *",  # with the blanks that fill a table
    "auc": r"(?<=AUC )[01]\.\d+",
    "bytes": r'(?<="sent": )\d+',  # the last digits of an epsilon, which is signed, may be one more or less
    "day": r"\b\d{4}-\d\d-\d\d\b",
    "hash": r"\b(?:[0-9a-f]{64}){1,2}\b",  # and signatures, which are twice as long
    "loss": r"(?<=loss )\d+\.\d+",
    "run": r"(?<=\brun )'?[0-9a-f]{16}\b",
    "run_id": r'(?<="run_id": ")[0-9a-f]{16}',
    "time": r"\b\d+:\d\d:\d\d\b",
    "version": r"(?<=private-distdd )[\d.]+\d",
    "versions": r'(?<=")(?:\d+\.)+\d[^"]*',
}
"""Values that noise, the machine or the time decide."""

_BLOCK = re.compile(r"(?:^<!-- (?P<note>[^>\n]*) -->\n\n?)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
_ALONE = re.compile(r"private-distdd (?:[^;|&<>$`\n]|\\\n)*\n")
"""One command of this library and nothing else: run here, and spared an interpreter with all its imports."""
_NUMBER = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?")
_RELATIVE = 1e-6


class ShownError(AssertionError):
    """A page shows what its commands do not print, or shows something that nothing is said to print."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its line in the page, the comment before it ("" for none), its language and its text."""

    line: int
    note: str
    language: str
    body: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        yield Block(page[: found.start("body")].count("\n"), found["note"] or "", found["language"], found["body"])


@dataclass
class Runner:
    """Runs pages in one folder; a shell block that ran there before is not run again.

    Args:
        folder: the working directory of all commands.
    """

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)

    def check(self, page: str) -> int:
        """Run a page, and return how many outputs were compared.

        Raises:
            ShownError: an output is not what was printed, or nobody says where it comes from.
        """
        names: dict[str, Any] = {"__name__": "__main__"}
        output: str | None = None
        compared = 0
        for block in blocks(page):
            if block.language == SHOWN:
                if not re.fullmatch(r"output(; masked:( \w+)+)?", block.note):
                    raise ShownError(f"line {block.line}: an output without its comment, or with {block.note!r}")
                if output is None:
                    raise ShownError(f"line {block.line}: an output of no command")
                masked = block.note.partition("masked:")[2].split()
                compare(block.body, output.replace(f"{self.folder}/", ""), masked, f"line {block.line}")
                compared += 1
            elif block.language not in RUN:
                raise ShownError(f"line {block.line}: {block.language!r} is neither run nor an output")
            elif block.note.startswith("not run: "):
                output = None
            elif block.note:
                raise ShownError(f"line {block.line}: what does {block.note!r} mean before a command?")
            else:
                output = self._python(block, names) if block.language == "python" else self._shell(block.body)
        return compared

    def _python(self, block: Block, names: dict[str, Any]) -> str:
        code = compile("\n" * block.line + block.body, "<page>", "exec")
        with self._at_home() as printed:
            exec(code, names)  # noqa: S102 - the page's code is what is tested
        return printed.getvalue()

    def _own(self, command: str) -> str:
        with self._at_home() as printed, contextlib.redirect_stderr(printed):
            try:
                status = main(shlex.split(command.replace("\\\n", " "))[1:])
            except SystemExit as ended:  # --version, --help, and an option that there is not
                status = int(ended.code or 0)
        if status:
            raise ShownError(f"exit status {status}: {command}\n{printed.getvalue()}")
        return printed.getvalue()

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[io.StringIO]:
        """In the folder, with what is printed in the value."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                yield printed
        finally:
            os.chdir(before)

    def _shell(self, command: str) -> str:
        if command not in self.printed and _ALONE.fullmatch(command):
            self.printed[command] = self._own(command)
        if command not in self.printed:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            kept = {
                name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "FORCE_COLOR")
            }
            finished = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env={**kept, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "dumb"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=300,
                check=False,
            )
            self.printed[command] = finished.stdout.decode()
            if finished.returncode:
                raise ShownError(f"exit status {finished.returncode}: {command}\n{self.printed[command]}")
        return self.printed[command]


def compare(shown: str, printed: str, masked: Sequence[str], where: str) -> None:
    """Hold an output on a page against what was printed.

    Raises:
        ShownError: they differ, or a mask covers nothing.
    """
    shown = shown.replace("\\\n", "")
    for name in masked:
        if not re.search(MASKS[name], shown):
            raise ShownError(f"{where}: no {name} is shown, so none is to be masked")
    parts: list[list[str]] = [[]]
    for line in _lines(shown, masked):
        if line.strip() == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    lines, start = _lines(printed, masked), 0
    for number, part in enumerate(parts):
        ends, last = number == len(parts) - 1, len(lines) - len(part)
        places: Sequence[int] = [0] if number == 0 else [last] if ends else range(start, last + 1)
        place = next((i for i in places if i >= start and _alike(part, lines[i : i + len(part)])), None)
        if place is None or (ends and place + len(part) != len(lines)):
            raise ShownError(f"{where} shows\n" + "\n".join(part) + "\n-- but printed was\n" + "\n".join(lines))
        start = place + len(part)


def _lines(text: str, masked: Sequence[str]) -> list[str]:
    for name in masked:
        text = re.sub(MASKS[name], f"<{name}>", text)
    return [line.rstrip() for line in text.strip().splitlines()]


def _alike(shown: Sequence[str], printed: Sequence[str]) -> bool:
    return len(shown) == len(printed) and all(map(_equal, shown, printed))


def _equal(shown: str, printed: str) -> bool:
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", printed):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=_RELATIVE) for a, b in pairs)
