"""The README's own code and commands do what they say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example() -> str:
    """The README's Python block."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_readme_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example(), "README.md", "exec"), names)  # noqa: S102 - the README's code is what is tested
    release = names["release"]
    assert all(7.99 < epsilon <= 8.0 for epsilon in release.epsilon.values())  # type: ignore[attr-defined]
    assert (tmp_path / "run" / "card.html").stat().st_size > 1000


def test_the_readme_names_real_pages_and_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    assert "pip install . && private-distdd demo" in text
    assert 'pip install ".[test]" && pytest' in text


def test_the_docs_take_in_the_examples_as_they_stand() -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    taken = re.findall(r"^:::\{literalinclude\} \.\./(examples/\w+\.py)$", text, re.MULTILINE)
    assert taken == ["examples/quickstart.py", "examples/own_dataset.py", "examples/tables.py"]
    assert all((ROOT / name).exists() for name in taken)


@pytest.mark.parametrize("name", ["quickstart", "own_dataset", "tables"])
def test_examples_run_in_their_quick_mode(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "epsilon = 8.00" in printed or "4.00 of 10 spent" in printed
