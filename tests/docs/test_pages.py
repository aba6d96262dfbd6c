"""What the documentation's pages show comes from the commands beside it, and what they tell one to type exists."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import runpy
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from shown import Runner, blocks

from private_distdd.cli import main

ROOT = Path(__file__).parents[2]
OUTPUTS = {"verifying": 7, "bill": 8, "quickstart": 3, "methods": 3, "limits": 0, "sites": 9, "tutorial": 9}
"""Pages, and how many outputs each shows at least: so that none gets out of the test's sight."""


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One folder for all pages: they share the release that `distill` makes.  Processes that a page left are ended."""
    folder = tmp_path_factory.mktemp("pages")
    yield Runner(folder)
    for path in folder.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGTERM)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_on_a_page_is_what_its_command_prints(name: str, runner: Runner) -> None:
    assert runner.check(page(name)) >= OUTPUTS[name]


def test_the_pictures_of_the_tutorial_are_parts_of_the_pages_that_it_writes(runner: Runner) -> None:
    runner.check(page("tutorial"))  # its commands are not run again
    pictures = runpy.run_path(str(ROOT / "benchmarks" / "pictures.py"))
    shown = set(re.findall(r"images/(tutorial-\w+)\.png", page("tutorial")))
    assert shown == {"tutorial-s", *pictures["PARTS"]}
    for name, (file, begin, end) in pictures["PARTS"].items():
        text = (runner.folder / file).read_text(encoding="utf-8")
        assert 2000 < len(pictures["part"](text, begin, end)) < len(text), name
    with pytest.raises(ValueError, match="substring not found"):
        pictures["part"]("<style></style><p>another page</p>", "", "<h2>")


def commands(text: str) -> list[list[str]]:
    """The library's own commands on a page: in indented blocks and in those that are fenced."""
    indented = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    fenced = [block.body for block in blocks(text) if block.language in ("sh", "bash")]
    lines = "\n".join([re.sub(r"^ {4}", "", part, flags=re.MULTILINE) for part in indented] + fenced)
    found = re.findall(r"^private-distdd [^;|&\n]*", lines.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in found]


PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_on_a_page_exist_with_these_options(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, *arguments in commands(path.read_text(encoding="utf-8")):
        with pytest.raises(SystemExit, match="0"):
            main(
                [command, *arguments[:1], "--help"] if arguments[:1] and arguments[0][0] != "-" else [command, "--help"]
            )
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        asked = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert asked <= known, f"{path.name}: private-distdd {command} has no {asked - known}"


def test_commands_are_found_where_they_stand() -> None:
    text = "    private-distdd plan --rounds 5 \\\n        --delta 1\n\n```sh\nprivate-distdd verify run; echo\n```\n"
    assert commands(text) == [["plan", "--rounds", "5", "--delta", "1"], ["verify", "run"]]
    assert len(commands(page("quickstart"))) >= 5


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_between_pages_hold(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", text):
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*?)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}
            assert anchor in slugs, f"{path.name}: {target}#{anchor}"


def test_the_api_page_names_what_exists() -> None:
    names = re.findall(r"^::: (\S+)$", page("api"), re.MULTILINE)
    assert len(names) > 20
    assert len(set(names)) == len(names)
    for name in names:
        assert pkgutil.resolve_name(name)


WIDEST = 88
"""Characters of a line of code, or of an output, that a page shows without scrolling."""


def code_lines(text: str) -> list[str]:
    """The lines of a page's code, of its outputs, and of what is indented as code."""
    lines, left, fenced = list[str](), list[str](), False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            lines.append(line)
        else:
            left.append(line)
    indented = re.findall(r"(?:\A|\n)\n((?:    .*\n)+)", "\n" + "\n".join(left) + "\n")  # a list's lines follow its own
    return lines + [line[4:] for part in indented for line in part.splitlines()]


TAKEN_IN = [ROOT / "examples" / f"{name}.py" for name in ("quickstart", "own_dataset", "tables")]
"""Whole programs that a page shows."""


@pytest.mark.parametrize("path", [*PAGES, *TAKEN_IN], ids=lambda path: path.name)
def test_no_code_runs_off_the_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path in TAKEN_IN else code_lines(text)
    long = [line for line in lines if len(line) > WIDEST]
    assert not long, "\n".join([f"{path.name}: {len(long)} lines of code above {WIDEST} characters", *long])


def test_lines_of_code_are_found_where_they_stand() -> None:
    text = "Words.\n\n    indented\n    more\n\n- an item\n    of a list\n\n```sh\nfenced\n    deep\n```\nafter\n"
    assert code_lines(text) == ["fenced", "    deep", "indented", "more"]


def test_modules_named_on_pages_exist() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"\bprivate_distdd(?:\.\w+)+\b(?!/\d)", text):  # with /1 it is a format
            assert pkgutil.resolve_name(name), f"{path.name}: {name}"
        for name in re.findall(r"\b(?:private_distdd|tests|examples|benchmarks|audits)/[\w/]+\.py\b", text):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"
