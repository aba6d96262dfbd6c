"""What several networks in one query cost in accuracy, where the whole run's epsilon is fixed and sigma follows.

    python benchmarks/networks_per_query.py [--quick] [--out FOLDER]

Digits, a quarter of the training images held out (the test set stays unread), five clients.  K networks a query, in one
event or in an event each, over as many rounds; each row has the bytes that a client sent, too.
"""

from __future__ import annotations

import itertools

import torch
from side_by_side import Benchmark, Spread

from private_distdd import DistDD, ImageDataset, Privacy, dirichlet_split, evaluate, load_dataset

KNOBS = {"ipc": 10, "rounds": 10, "matching_steps": 25, "memory": 10, "reinit_every": 1, "network_steps": 0}
NETWORK = {"width": 16, "depth": 2}


def held_out(split: int) -> tuple[ImageDataset, ImageDataset]:
    """The training digits without a quarter, and the quarter."""
    train, _ = load_dataset("digits")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1000 + split))
    held, kept = order[: len(order) // 4], order[len(order) // 4 :]
    return tuple(ImageDataset(train.images[part], train.labels[part], train.info) for part in (kept, held))


def main() -> None:
    """Rows by epsilon, sample rate, way and K."""
    bench = Benchmark("networks_per_query", "K networks a query: accuracy (%) at one epsilon")
    splits = range(1 if bench.quick else 3)
    counts = (1, 2) if bench.quick else (1, 2, 4, 8)
    for target, rate in itertools.product((8.0,) if bench.quick else (8.0, 1.0), (0.2, 1.0)):
        for events, count in ((e, k) for e in ("one", "each") for k in counts if k > 1 or e == "one"):
            found, sent, epsilon, sigma = [], 0, 0.0, 0.0
            for split in splits:
                kept, held = held_out(split)
                method = DistDD(
                    **KNOBS,
                    model_args=NETWORK,
                    privacy=Privacy(target_epsilon=target, sample_rate=rate),
                    networks_per_query=count,
                    network_events=events,
                    seed=split,
                )
                release = method.fit(dirichlet_split(kept, 5, seed=split))
                release.verify()
                epsilon = max(release.epsilon.values())
                sent = max(counts["sent"] for counts in release.traffic.values())
                sigma = release.card["plan"]["noise_multiplier"]
                scores = evaluate(release.dataset, held, model_args={"width": 32}, seeds=range(2)).accuracies
                found += [100 * score for score in scores]
            bench.row(
                target=target,
                q=rate,
                K=count,
                events=events if count > 1 else "",
                sigma=round(sigma, 3),
                epsilon=round(epsilon, 3),
                accuracy=Spread.of(found),
                mean=round(sum(found) / len(found), 1),
                megabytes=round(sent / 1e6, 2),
            )
    bench.finish()


if __name__ == "__main__":
    main()
