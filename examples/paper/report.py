"""What sweeps found, in the paper's form: a picture for a figure, a table with the paper's own figures for Table 1."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from examples.paper.experiments import Experiment
from private_distdd.experiments.cell import flat
from private_distdd.experiments.frontier import Axis, Mark, frontier
from private_distdd.release.bill import as_number
from private_distdd.rounding import rounded_up

Record = Mapping[str, Any]

_ALPHAS = (1.0, 0.5, 0.1)
_TABLE_1 = {  # the paper's: accuracy in percent by alpha, or for all of them
    "MNIST": {
        "Whole Dataset": (99.3,),
        "GM (IPC=100)": (97.2,),
        "FedAvg": (98.8, 94.3, 92.5),
        "FedProx": (99.1, 95.7, 93.8),
        "DistDD (IPC=10)": (94.1, 90.3, 82.3),
        "DistDD (IPC=50)": (95.6, 92.8, 83.1),
        "DistDD (IPC=100)": (96.9, 93.2, 84.0),
    },
    "FashionMNIST": {
        "Whole Dataset": (93.6,),
        "GM (IPC=100)": (91.1,),
        "FedAvg": (92.5, 86.3, 74.3),
        "FedProx": (92.6, 90.7, 86.2),
        "DistDD (IPC=10)": (82.1, 75.3, 67.6),
        "DistDD (IPC=50)": (84.7, 82.5, 69.3),
        "DistDD (IPC=100)": (90.1, 84.3, 72.5),
    },
    "CIFAR": {
        "Whole Dataset": (87.2,),
        "GM (IPC=100)": (80.7,),
        "FedAvg": (86.3, 75.3, 65.9),
        "FedProx": (86.5, 80.1, 72.1),
        "DistDD (IPC=10)": (51.3, 47.4, 41.5),
        "DistDD (IPC=50)": (75.2, 62.4, 51.5),
        "DistDD (IPC=100)": (78.2, 69.2, 57.3),
    },
}


def published(row: str, dataset: str, alpha: float) -> float | None:
    """The paper's figure of Table 1 in percent, None where it has none."""
    figures = _TABLE_1.get(dataset, {}).get(row, ())
    if len(figures) == 1:
        return figures[0]
    return dict(zip(_ALPHAS, figures, strict=False)).get(alpha)


def table(experiment: Experiment, found: Mapping[str, Sequence[Record]]) -> str:
    """Table 1 as Markdown: ours, the paper's, and how far they are apart, in percent."""
    lines = ["| data | row | alpha | ours | paper | ours - paper |", "| --- | --- | --- | --- | --- | --- |"]
    for label, records in found.items():
        row, _, dataset = label.rpartition(" on ")
        for alpha, mark in _marks(records, "split.alpha"):
            one_owner = experiment.lines[label]["split"]["num_clients"] == 1
            theirs = published(row, dataset, alpha)
            ours = f"{100 * mark.accuracy:.1f}" + (f" ± {100 * mark.spread:.1f}" if mark.spread is not None else "")
            apart = ("-", "-") if theirs is None else (f"{theirs:.1f}", f"{100 * mark.accuracy - theirs:+.1f}")
            shown = "-" if one_owner else f"{alpha:g}"
            lines.append(f"| {dataset} | {row} | {shown} | {ours} | {' | '.join(apart)} |")
    return "\n".join(lines)


def picture(experiment: Experiment, found: Mapping[str, Sequence[Record]]) -> str:
    """A figure as SVG, with its key: accuracy and its spread over seeds, a line or a level for each label."""
    marks = {label: _marks(records, experiment.knob) for label, records in found.items()}
    places = [at for line in marks.values() if len(line) > 1 for at, _ in line]
    ends = (min(places), max(places)) if places else (1.0, 1.0)
    lines = {
        label: [line[0][1]._replace(at=end) for end in ends] if len(line) == 1 else [mark for _, mark in line]
        for label, line in marks.items()
    }
    return frontier(lines, _axis(experiment, found), keyed=True)


def _axis(experiment: Experiment, found: Mapping[str, Sequence[Record]]) -> Axis:
    costs: dict[float, float] = {}
    for records in found.values():
        for record in records:
            at = flat(record["settings"]).get(experiment.knob)
            if at is not None:
                costs[float(at)] = max(as_number(record["epsilon"]), costs.get(float(at), 0.0))

    def tick(at: float) -> str:
        cost = costs.get(at, math.inf)
        return f"{at:g}" if math.isinf(cost) else f"{at:g}\n{float(rounded_up(cost, 2)):,g}"

    return Axis(experiment.axis, "", experiment.logarithmic, tick)


def _marks(records: Iterable[Record], knob: str) -> list[tuple[Any, Mark]]:
    """(the knob's value, its mark) over seeds; the value is None where the line has none."""
    groups: dict[Any, list[float]] = {}
    for record in records:
        groups.setdefault(flat(record["settings"]).get(knob), []).append(record["accuracy"])
    return [
        (at, Mark(at or 0.0, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None))
        for at, values in groups.items()
    ]
