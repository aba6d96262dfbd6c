"""The map is the house: its rooms, its places, its tests and its faults are looked up, each of them."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from pathlib import Path

import pytest

from private_distdd.auditing.mutants.mutants import MUTANTS
from private_distdd.questions.audited import Audited
from private_distdd.questions.register import PRIVATE_QUESTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "private_distdd"
MAP = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
DUTIES = [f"A{number}" for number in range(1, 9)]


def section(text: str, title: str) -> str:
    """The part below one heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def picture(text: str) -> list[list[str]]:
    """The rooms of the picture, line by line."""
    fenced = re.search(r"```text\n(.*?)```", section(text, "The house"), re.DOTALL)
    assert fenced is not None
    return [re.findall(r"\S+", line[:29]) for line in fenced[1].splitlines()]


def layers() -> list[list[str]]:
    """The rooms of pyproject.toml, line by line."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    found = [contract for contract in contracts if contract["type"] == "layers"]
    return [re.split(r"\s*[|:]\s*", layer) for layer in found[0]["layers"]]


def rooms_on_disk() -> set[str]:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    return folders | {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def file_of(path: str) -> Path:
    """A file as the map writes it: below the repository, or below the package."""
    return ROOT / path if path.startswith("tests/") else PACKAGE / path


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    """What a file defines: names, and "Class.name"."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    parts = target.elts if isinstance(target, ast.Tuple) else [target]
                    found.update(prefix + part.id for part in parts if isinstance(part, ast.Name))

    visit(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


def elsewhere(path: str, name: str) -> str:
    """For whoever moved it: where a name is now."""
    folder = ROOT / "tests" if path.startswith("tests/") else PACKAGE
    found = [str(file.relative_to(ROOT)) for file in sorted(folder.rglob("*.py")) if name and name in names_in(file)]
    return f"{name or path} is in {found}"


def faults(text: str) -> list[str]:
    """Places that a text names and that do not exist."""
    wrong = []
    for path, name in re.findall(r"`([\w./]+\.py)(?:::([\w.]+))?`", text):
        file = file_of(path)
        if not file.is_file():
            wrong.append(f"no file {path}; {elsewhere(path, name)}")
        elif name and name not in names_in(file):
            wrong.append(f"no {name} in {path}; {elsewhere(path, name)}")
        elif name and not path.startswith("tests/"):
            module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
            functools.reduce(getattr, name.split("."), module)
    return wrong


def duties(text: str) -> dict[str, list[str]]:
    """The rows of the table of duties: code, test and fault, by assumption."""
    rows = re.findall(r"^\| \*\*(A\d)\*\*.*$", text, re.MULTILINE)
    lines = re.findall(r"^\| \*\*A\d\*\*.*$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in line.split(" | ")[1:]] for name, line in zip(rows, lines, strict=True)}


def mutants_in(cell: str) -> set[str]:
    """The faults of a row; what it says after "none" explains why there is none, or none more."""
    return set(re.findall(r"`([^`]+)`", re.split(r"(?:^|<br>)none\b", cell)[0]))


def test_the_rooms_of_the_map_are_those_on_disk_and_in_the_list_of_imports() -> None:
    assert [sorted(line) for line in picture(MAP)] == [sorted(line) for line in layers()]
    assert {room for line in picture(MAP) for room in line} == rooms_on_disk()


def test_every_room_has_its_words() -> None:
    text = section(MAP, "The rooms")
    told = re.findall(r"\*\*`(\w+)`\*\*", text)
    assert sorted(told) == sorted(rooms_on_disk())


def test_every_place_on_the_map_exists() -> None:
    assert len(re.findall(r"::", MAP)) > 100
    assert faults(MAP) == []


def test_every_assumption_of_the_theorem_has_code_tests_and_faults() -> None:
    theorem = (ROOT / "docs" / "theorem.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(A\d),", theorem, re.MULTILINE) == DUTIES
    table = duties(MAP)
    assert list(table) == DUTIES
    for name, (code, tests, mutants) in table.items():
        assert re.search(r"`[\w/]+\.py::\w", code), f"{name} names no code"
        assert "`tests/" not in code
        found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert found, f"{name} names no test"
        assert all(test.startswith("test_") for _, test in found)
        assert mutants_in(mutants) or mutants.startswith("none, because"), f"{name} names no fault, and not why"


def test_the_faults_of_the_table_are_the_mutants() -> None:
    told = set().union(*(mutants_in(mutants) for _, _, mutants in duties(MAP).values()))
    assert told == {mutant.name for mutant in MUTANTS}


def test_what_can_be_added_is_registered_in_one_way() -> None:
    rows = re.findall(r"^\| ([\w ]+) \| (.*?) \| (.*?) \|", section(MAP, "Add something"), re.MULTILINE)
    assert [name for name, _, _ in rows[1:]] == [
        "method",
        "question",
        "question without privacy",
        "engine",
        "aggregation rule",
        "network",
        "data set",
        "command",
        "form of data",
    ]
    for name, copied, registered in rows[1:]:
        assert re.search(r"`[\w/]+\.py`", copied), name
        assert "::" in registered or registered.startswith("nothing"), name


def test_every_private_question_says_how_it_is_audited() -> None:
    for name, made in PRIVATE_QUESTIONS.items():
        assert isinstance(made, Audited), name


def test_the_words_are_sorted_and_each_is_told_once() -> None:
    words = re.findall(r"^\| ([^|]+?) \| .*? \| `", section(MAP, "The words"), re.MULTILINE)
    assert len(words) > 30
    assert len(set(words)) == len(words)
    assert [word.lower() for word in words] == sorted(word.lower() for word in words)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("site/endpoint.py::Endpoint.handle`", "site/endpoint.py::Endpoint.handles`", "no Endpoint.handles"),
        ("`privacy/plan.py::Privacy`", "`privacy/spec.py::Privacy`", "no file privacy/spec.py"),
        ("::test_coins_round_the_probability_down`", "::test_coins_round_it_down`", "no test_coins_round_it_down"),
        ("`engines/in_process.py`", "`engines/pigeon.py`", "no file engines/pigeon.py"),
    ],
)
def test_a_wrong_place_is_found(old: str, new: str, message: str) -> None:
    assert old in MAP
    assert any(fault.startswith(message) for fault in faults(MAP.replace(old, new)))


def test_a_wrong_room_a_wrong_mutant_and_a_missing_duty_are_found() -> None:
    assert picture(MAP.replace("\nengines ", "\nmachines ")) != picture(MAP)
    assert "no nose" in mutants_in(duties(MAP.replace("`no noise`", "`no nose`"))["A8"][2])
    assert list(duties(MAP.replace("| **A3**", "| **B3**"))) != DUTIES


def test_the_audits_of_their_page_exist() -> None:
    text = section((ROOT / "docs" / "auditing.md").read_text(encoding="utf-8"), "The audits")
    first = " ".join(re.findall(r"^\| (`\w+\.\w+`(?:, `\w+\.\w+`)*) \|", text, re.MULTILINE))
    audits = re.findall(r"`(\w+)\.(\w+)`", first)
    assert len(audits) > 20
    places = {
        file.stem: file for folder in ("checks", "attacks") for file in (PACKAGE / "auditing" / folder).glob("*.py")
    }
    others = [(module, name) for module, name in re.findall(r"`(\w+)\.(\w+)", text) if module in places]
    for module, name in [*audits, *others]:
        assert module in places, f"{module}.{name}"
        assert name in names_in(places[module]), f"{module}.{name}"
