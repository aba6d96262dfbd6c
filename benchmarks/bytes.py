"""Accuracy against the bytes that a client sends: formats of messages, and federated averaging beside them.

    python benchmarks/bytes.py [--quick] [--out FOLDER]

Digits, a quarter of the training images held out (the test set stays unread), five clients; ConvNets of width 32 are
trained on S.  The reference is the library's `FedAvg` of the same network, with privacy at the same epsilon (one local
step a round, sampling rate 1), each number of rounds a run of its own.  Bytes are counted on the line, ledgers
included.  The last column of a row says how much the reference had sent when it first was as good.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

from networks_per_query import NETWORK, held_out
from side_by_side import Benchmark, Spread

from private_distdd import CollabDM, DistDD, FedAvg, NotPrivateWarning, Privacy, dirichlet_split, evaluate
from private_distdd.protocol import accuracy

TRAINED = {"width": 32}
ROUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 60)
EPSILON = 8.0
EXAMPLES = 200.0  # the divisor of the reference: about a client's
REFERENCES: dict[str, dict[str, Any]] = {
    "none": {"local_steps": 7},  # about an epoch
    "8": {"local_steps": 1, "learning_rate": 0.5, "privacy": Privacy(target_epsilon=EPSILON, divisor=EXAMPLES)},
}
OURS: dict[str, Any] = {
    "DistDD, 10 rounds": lambda **own: DistDD(
        ipc=10, rounds=10, matching_steps=25, memory=10, reinit_every=1, network_steps=0, model_args=NETWORK, **own
    ),
    "DistDD, 10 rounds of 4 networks": lambda **own: DistDD(
        ipc=10, rounds=10, matching_steps=25, memory=10, reinit_every=1, network_steps=0, model_args=NETWORK,
        networks_per_query=4, network_events="each", **own
    ),
    "CollabDM": lambda **own: CollabDM(ipc=10, matching_steps=500, **own),
    "CollabDM, 8 networks of 64": lambda **own: CollabDM(ipc=10, matching_steps=500, networks=8, frequencies=64, **own),
}  # fmt: skip


def reference(knobs: dict[str, Any], rounds: int, split: int) -> tuple[float, int]:
    """Accuracy in percent of one run, and the bytes that its busiest client sent."""
    kept, held = held_out(split)
    release = FedAvg(rounds=rounds, model_args=TRAINED, seed=split, **knobs).fit(dirichlet_split(kept, 5, seed=split))
    assert release.teacher is not None
    return 100 * accuracy(release.teacher.build(), held), max(counts["sent"] for counts in release.traffic.values())


def first(curve: list[tuple[float, int]], level: float) -> str:
    """Kilobytes sent by the shortest run that is as good."""
    return next((f"{sent / 1000:.0f}" for score, sent in curve if score >= level), "never")


def main() -> None:
    """Rows of the reference, then of ours by privacy, method and format."""
    warnings.simplefilter("ignore", NotPrivateWarning)
    bench = Benchmark("bytes", "accuracy (%) against kilobytes that a client sends")
    splits = range(1 if bench.quick else 2)
    curves: dict[str, list[tuple[float, int]]] = {}
    for epsilon, knobs in REFERENCES.items():
        for rounds in ROUNDS[::5] if bench.quick else ROUNDS:
            runs = [reference(knobs, rounds, split) for split in splits]
            scores, sent = [score for score, _ in runs], max(sent for _, sent in runs)
            curves.setdefault(epsilon, []).append((statistics.fmean(scores), sent))
            name = f"FedAvg, {rounds} rounds"
            bench.row(epsilon=epsilon, method=name, format="float32", kB=round(sent / 1000), accuracy=Spread.of(scores))
    for epsilon, privacy in (("none", None), ("8", Privacy(target_epsilon=EPSILON))):
        for name, make in OURS.items():
            for form in ("float32",) if privacy is None else ("float32", "float16", "int8", "int4"):
                found, sent = [], 0
                for split in splits:
                    kept, held = held_out(split)
                    release = make(privacy=privacy, message_format=form, seed=split).fit(
                        dirichlet_split(kept, 5, seed=split)
                    )
                    sent = max(counts["sent"] for counts in release.traffic.values())
                    scores = evaluate(release.dataset, held, model_args=TRAINED, seeds=range(2)).accuracies
                    found += [100 * score for score in scores]
                bench.row(
                    epsilon=epsilon,
                    method=name,
                    format=form,
                    kB=round(sent / 1000),
                    accuracy=Spread.of(found),
                    fedavg_kB=first(curves[epsilon], statistics.fmean(found)),
                )
    bench.finish()


if __name__ == "__main__":
    main()
