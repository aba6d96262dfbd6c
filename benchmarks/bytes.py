"""Accuracy against the bytes that a client sends: formats of messages, and federated averaging beside them.

    python benchmarks/bytes.py [--quick] [--out FOLDER]

Digits, a quarter of the training images held out (the test set stays unread), five clients; ConvNets of width 32 are
trained on S.  Bytes of ours are counted on the line, ledgers included.  The reference is a minimal FedAvg of the same
network (McMahan et al. 2017: one local epoch a round, SGD 0.1, momentum 0.9), whose client sends its float32 weights
each round and nothing else.  With privacy its clients send clipped and noisy sums of gradients instead (DP-SGD of the
same epsilon, sampling rate 1, 40 rounds, Adam at the server).  The last column of a row says how much the reference had
sent when it first was as good.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from typing import Any

import torch
from networks_per_query import NETWORK, held_out
from side_by_side import Benchmark, Spread
from torch import Tensor, nn

from private_distdd import CollabDM, DistDD, ImageDataset, NotPrivateWarning, Privacy, dirichlet_split, evaluate
from private_distdd.gradients import clipped_class_sums
from private_distdd.networks.spec import ModelSpec

TRAINED = {"width": 32}
ROUNDS, PRIVATE_ROUNDS = 60, 40
EPSILON = 8.0
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


def accuracy(model: nn.Module, held: ImageDataset) -> float:
    """In percent."""
    with torch.inference_mode():
        return 100 * float((model(held.images).argmax(dim=1) == held.labels).float().mean())


def fedavg(parts: list[ImageDataset], held: ImageDataset, seed: int) -> list[float]:
    """Accuracy after each round of federated averaging, without privacy."""
    info, generator = held.info, torch.Generator().manual_seed(seed)
    model = ModelSpec("convnet", TRAINED).build(info.shape, info.num_classes, seed)
    total, found = sum(len(part) for part in parts), []
    for _ in range(ROUNDS):
        mean = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        for part in parts:
            own = copy.deepcopy(model)
            optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
            for batch in torch.randperm(len(part), generator=generator).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(own(part.images[batch]), part.labels[batch]).backward()
                optimizer.step()
            for name, value in own.state_dict().items():
                mean[name] += value * (len(part) / total)
        model.load_state_dict(mean)
        found.append(accuracy(model, held))
    return found


def private_fedavg(parts: list[ImageDataset], held: ImageDataset, seed: int) -> list[float]:
    """Accuracy after each round of DP-SGD at `EPSILON`, each client's noise its own; noise of torch: a simulation."""
    info, generator = held.info, torch.Generator().manual_seed(seed)
    model = ModelSpec("convnet", TRAINED).build(info.shape, info.num_classes, seed)
    sigma = Privacy(target_epsilon=EPSILON).plan(PRIVATE_ROUNDS).noise_multiplier
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for _ in range(PRIVATE_ROUNDS):
        sums: list[Tensor] = []
        for part in parts:
            clean = clipped_class_sums(copy.deepcopy(model), part.images, part.labels, 10, 1.0).sum(0)
            sums.append(clean + sigma * torch.randn(clean.shape, generator=generator))
        flat = torch.stack(sums).sum(0) / sum(len(part) for part in parts)
        for parameter, gradient in zip(
            model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad = gradient.reshape(parameter.shape)
        optimizer.step()
        found.append(accuracy(model, held))
    return found


def first(curves: list[list[float]], level: float, each: int) -> str:
    """Kilobytes sent when the mean accuracy first is as good."""
    mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    rounds = next((t + 1 for t, value in enumerate(mean) if value >= level), None)
    return "never" if rounds is None else f"{rounds * each / 1000:.0f}"


def main() -> None:
    """Rows of FedAvg, then of ours by privacy, method and format."""
    warnings.simplefilter("ignore", NotPrivateWarning)
    bench = Benchmark("bytes", "accuracy (%) against kilobytes that a client sends")
    splits = range(1 if bench.quick else 2)
    curves: dict[str, list[list[float]]] = {"none": [], "8": []}
    weights = 4 * sum(p.numel() for p in ModelSpec("convnet", TRAINED).build((1, 8, 8), 10).parameters())
    for split in splits:
        kept, held = held_out(split)
        parts = [ImageDataset(c._images, c._labels, kept.info) for c in dirichlet_split(kept, 5, seed=split)]
        curves["none"].append(fedavg(parts, held, split))
        curves["8"].append(private_fedavg(parts, held, split))
    for epsilon, own in curves.items():
        last = statistics.fmean(curve[-1] for curve in own)
        bench.row(
            epsilon=epsilon,
            method="FedAvg" if epsilon == "none" else "DP-SGD",
            format="float32",
            kB=round(len(own[0]) * weights / 1000),
            accuracy=Spread.of([curve[-1] for curve in own]),
            fedavg_kB=first(own, last, weights),
        )
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
                    fedavg_kB=first(curves[epsilon], statistics.fmean(found), weights),
                )
    bench.finish()


if __name__ == "__main__":
    main()
