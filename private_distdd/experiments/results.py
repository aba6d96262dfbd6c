"""What a sweep found: a line a cell as CSV, everything as JSON, and cells that differ in their seed as one point."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from private_distdd.encoding import to_json
from private_distdd.experiments.cell import flat
from private_distdd.experiments.run import DONE, FORMAT, Record
from private_distdd.release.bill import as_number

_LEVELS = ("privacy.target_epsilon", "privacy.noise_multiplier")  # what moves a point along its line


@dataclass(frozen=True)
class Point:
    """Cells that differ in their seed only.

    Args:
        label: the method, and those of its knobs that the sweep varies, but for the level of privacy.
        records: of the cells that were run, at least one.
    """

    label: str
    records: tuple[Record, ...]

    @property
    def done(self) -> tuple[Record, ...]:
        """Of those that were finished."""
        return tuple(record for record in self.records if record["status"] == DONE)

    def epsilon(self, name: str = "epsilon") -> float:
        """The largest claim: "epsilon", the smaller of both accountants', "epsilon_rdp" or "epsilon_prv"."""
        return max(as_number(record[name]) for record in self.done)

    def score(self, name: str = "accuracy") -> tuple[float, float | None] | None:
        """Mean and sample standard deviation over seeds of "accuracy" or "teacher_accuracy".

        The deviation is None where there is one seed; all of it is None where nothing was scored.
        """
        values = [record[name] for record in self.done if record[name] is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def points(records: Sequence[Record]) -> list[Point]:
    """The points of a sweep, in the order of its cells."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(to_json(record["settings"] | {"seed": None}), []).append(record)
    first = [group[0]["settings"] for group in groups.values()]
    return [Point(_label(group[0]["settings"], first), tuple(group)) for group in groups.values()]


def _label(settings: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    """The method, and what varies among the cells of this method."""
    own, name = flat(settings), settings["method"]["name"]
    alike = [flat(other) for other in every if other["method"]["name"] == name]
    varied = []
    for knob, value in own.items():
        # A run without privacy is the end of the line of those with it.
        others = [other for other in alike if knob in other or not knob.startswith("privacy.")]
        if knob not in (*_LEVELS, "seed") and any(other.get(knob) != value for other in others):
            varied.append(f"{knob.partition('.')[2]} = {value}")
    return ", ".join([name, *varied])


def as_csv(records: Sequence[Record]) -> str:
    """A line a cell: texts as they are, empty where there is nothing, all else as JSON."""
    rows = [_row(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(record: Record) -> dict[str, str]:
    row = {"id": record["id"], "status": record["status"], **flat(record["settings"])}
    for name, value in record.items():
        if isinstance(value, Mapping) and name != "settings":
            row |= {f"{name}.{part}": one for part, one in value.items()}
        elif name not in ("format", "settings"):
            row[name] = value
    return {
        name: value if isinstance(value, str) else "" if value is None else json.dumps(value)
        for name, value in row.items()
    }


def as_json(config: Mapping[str, Any], cells: int, records: Sequence[Record]) -> dict[str, Any]:
    """The configuration, how many cells it means, and the record of each that was run."""
    return {"format": FORMAT, "config": config, "cells": cells, "records": list(records)}
