"""A table in a CSV file: a line of column names, then one row an example; one column is its class."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import split_off_test
from private_distdd.errors import DataError
from private_distdd.limits import CLASSES, FEATURES, TABLE_BYTES

# float() alone would also take "nan", "inf", "1_000" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_CLASS = re.compile(r"0|[1-9][0-9]{0,5}")
_LARGEST = float(torch.finfo(torch.float32).max)
_EXAMPLE = "a file such as\n  age,income,group\n  31,2800.5,0\n"


@dataclass(frozen=True)
class _Table:
    """The cells of one file.

    Args:
        path: the file.
        features: names of the columns of numbers, in order.
        label: name of the column of classes.
        rows: float64 [n, features].
        labels: what the column of classes holds, n texts.
        lines: the line of the file in which each row ends.
    """

    path: Path
    features: list[str]
    label: str
    rows: Tensor
    labels: list[str]
    lines: list[int]

    def numbered(self, classes: list[str]) -> Tensor:
        """Labels as int64 [n]: each class's place in `classes`.

        Raises:
            DataError: a label is none of them; it is not shown, for it may be anything that stands in a wrong column.
        """
        places = {name: place for place, name in enumerate(classes)}
        for line, label in zip(self.lines, self.labels, strict=True):
            if label not in places:
                raise DataError(
                    f"{self.path.name}, line {line}: column {self.label!r} holds none of the classes",
                    f"one of {classes}",
                    "Correct the cell, or say all classes with classes=[...] or num_classes=.",
                )
        return torch.tensor([places[label] for label in self.labels], dtype=torch.int64)


def load_csv(wanted: Wanted) -> Loaded:
    """The table as (train, test); see `load_dataset`.

    Raises:
        DataError: a file cannot be read, or is no such table.
    """
    table = _read(wanted.path, wanted.label)
    if not table.labels:
        raise DataError(f"{wanted.path.name}: no row below the column names", "at least one", "Check the file.")
    classes = wanted.class_names() or _found_classes(table)
    called, shape = wanted.called or wanted.path.stem, (len(table.features),)
    info = DatasetInfo(called, len(classes), shape, classes=tuple(classes), **wanted.constants)
    if wanted.test is None:
        return split_off_test(table.rows, table.numbered(classes), info)
    other = _read(Path(wanted.test), table.label)
    if other.features != table.features:
        raise DataError(
            f"{other.path.name}: columns {other.features}",
            f"those of {table.path.name}: {table.features}",
            "Sort them.",
        )
    train, test = (ImageDataset(info.normalise(t.rows), t.numbered(classes), info) for t in (table, other))
    return train, test


def _found_classes(table: _Table) -> list[str]:
    """Where nobody said: 0 ... the largest number, or the names that occur, sorted."""
    found = sorted(set(table.labels))
    if all(_CLASS.fullmatch(name) for name in found):
        found = [str(label) for label in range(1 + max(map(int, found)))]
    if len(found) > CLASSES:
        raise DataError(
            f"{table.path.name}: {len(found)} classes in column {table.label!r}", f"at most {CLASSES}", "Name another."
        )
    return found


def _read(path: Path, label: str | None) -> _Table:
    try:
        if path.stat().st_size > TABLE_BYTES:
            raise DataError(f"{path.name} is longer than {TABLE_BYTES} bytes", "a smaller file", "Split it.")
        # utf-8-sig: spreadsheets put a mark before the first name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(path, file, label)
    except FileNotFoundError as error:
        raise DataError(f"no file {str(path)!r}", "an existing .csv", "Check the path.") from error
    except UnicodeDecodeError:
        # Without its cause, which quotes bytes of the file.
        raise DataError(f"{path.name} is no text in UTF-8", _EXAMPLE, "Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path.name}: {error}", "a readable file", "Check the path.") from error


def _parse(path: Path, file: Iterator[str], label: str | None) -> _Table:
    reader = csv.reader(file, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        columns = _columns(path, names, label)
        features = [name for place, name in enumerate(names) if place != columns]
        values, labels, lines = array("d"), list[str](), list[int]()
        for cells in reader:
            if not cells:  # an empty line, as many files have at their end
                continue
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(names):
                raise DataError(f"{where}: {len(cells)} cells", f"{len(names)}, one a column", "Correct the line.")
            labels.append(cells.pop(columns).strip())
            lines.append(reader.line_num)
            values.extend(_number(cell, where, name) for cell, name in zip(cells, features, strict=True))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}", _EXAMPLE, "Correct the line.") from error
    rows = torch.frombuffer(values, dtype=torch.float64) if values else torch.empty(0, dtype=torch.float64)
    return _Table(path, features, names[columns], rows.reshape(-1, len(features)), labels, lines)


def _columns(path: Path, names: list[str], label: str | None) -> int:
    """The place of the column of classes, once the names are found to be names."""
    if not names:
        raise DataError(f"{path.name} begins with no line of column names", _EXAMPLE, "Is it empty?")
    if any(_NUMBER.fullmatch(name) for name in names):
        raise DataError(
            f"{path.name} has numbers in its first line", "the columns' names", "Put a line of names before the rows."
        )
    if not all(names) or len(set(names)) != len(names):
        raise DataError(f"{path.name}: columns {names}", "different names, none empty", "Name each column once.")
    if not 2 <= len(names) <= 1 + FEATURES:
        raise DataError(
            f"{path.name}: {len(names)} columns",
            f"a column of classes and 1 ... {FEATURES} of numbers, with commas between them",
            "Check what is between the columns.",
        )
    if label is None:
        return len(names) - 1
    if label not in names:
        raise DataError(f"label = {label!r}", f"one of the columns of {path.name}: {names}", "Name one of them.")
    return names.index(label)


def _number(cell: str, where: str, name: str) -> float:
    """The cell's value; a cell that has none is not shown, for it is somebody's."""
    text = cell.strip()
    value = float(text) if _NUMBER.fullmatch(text) else _LARGEST * 2
    if abs(value) > _LARGEST:
        raise DataError(
            f"{where}: column {name!r} holds no number",
            f"a number such as -1.5 or 2e3, of magnitude at most {_LARGEST:.2g}",
            "Fill the cell, or leave its row or column out.",
        )
    return value


register_source(
    Source(
        "a file ending in .csv",
        load_csv,
        recognises=lambda path: path.suffix == ".csv",
        options=frozenset({"num_classes", "classes", "label", "test", "name"}),
    )
)
