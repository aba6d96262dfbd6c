"""The table at epsilon 1: a whole federation, its S and its teacher, scored on images that it never saw.

    python benchmarks/epsilon_one.py ROOT mnist --method collabdm --knobs '{"teacher_rounds": 32}' --json FILE

Clients, split, epsilon and the size of the evaluation are options.  `--held` scores 5,000 training images that were
held out, for choices; without it the test set is scored, once for each protocol.  One line of figures is printed and,
with `--json`, appended to FILE: settings, epsilon by the card, S's accuracies, the teacher's, CPU seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import Any

import torch

from private_distdd import Client, CollabDM, DistDD, ImageDataset, Privacy, dirichlet_split, evaluate, load_dataset
from private_distdd.protocol import accuracy

METHODS: dict[str, Any] = {"collabdm": CollabDM, "distdd": DistDD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("dataset")
    parser.add_argument("--method", choices=METHODS, default="collabdm")
    parser.add_argument("--knobs", type=json.loads, default={})
    parser.add_argument("--privacy", type=json.loads, default={})
    parser.add_argument("--epsilon", type=float, default=1.0, help="0: without privacy")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--dirichlet", type=float, default=100.0, help="alpha of the split; 100: nearly even")
    parser.add_argument("--seed", type=int, default=0, help="public; noise is fresh in every run")
    parser.add_argument("--held", action="store_true")
    parser.add_argument("--protocols", nargs="*", default=["hard", "mixed"])
    parser.add_argument("--evaluation", type=json.loads, default={"model_args": {"width": 128}, "epochs": 300})
    parser.add_argument("--networks", type=int, default=1, help="that are trained on S in each protocol")
    parser.add_argument("--device", default="cpu", help="of clients, server and evaluation")
    parser.add_argument("--json")
    parser.add_argument("--save")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load_dataset(options.dataset, root=options.root)
    if options.held:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))
        test, train = (ImageDataset(train.images[p], train.labels[p], train.info) for p in (order[:5000], order[5000:]))
    make_client = functools.partial(Client, device=options.device)
    clients = dirichlet_split(
        train, options.clients, alpha=options.dirichlet, seed=options.seed, make_client=make_client
    )
    private = Privacy(target_epsilon=options.epsilon, delta=1e-5, **options.privacy) if options.epsilon else None
    method = METHODS[options.method](privacy=private, seed=options.seed, device=options.device, **options.knobs)
    begun = time.process_time()
    release = method.fit(clients)
    found: dict[str, Any] = {"distillation": round(time.process_time() - begun)}
    if options.save:
        release.save(options.save)
    found["epsilon"] = max(release.epsilon.values())
    if release.teacher is not None:
        found["teacher"] = accuracy(release.teacher.build().to(options.device), test, device=options.device)
    for labels in options.protocols:
        if labels != "hard" and release.dataset.soft_labels is None:
            continue
        begun = time.process_time()
        seeds = range(options.networks)
        scored = evaluate(
            release.dataset, test, labels=labels, seeds=seeds, device=options.device, **options.evaluation
        )
        found[labels] = list(scored.accuracies)
        found[f"seconds of {labels}"] = round(time.process_time() - begun)
    line = json.dumps({**vars(options), "found": found})
    print(line, flush=True)
    if options.json:
        with open(options.json, "a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
