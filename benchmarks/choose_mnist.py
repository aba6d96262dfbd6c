"""How MNIST's knobs were chosen: accuracy on 5,000 training images held out; the test set stays unread.

    python benchmarks/choose_mnist.py ROOT '{"rounds": 100, "initialization": "real", "model_args": {"width": 32}}'
    python benchmarks/choose_mnist.py ROOT '{"rounds": 50, "matching_steps": 20, "memory": 50,
        "model_args": {"width": 8, "depth": 2}}' --epsilon 1 --sample-rate 0.1

ROOT holds torchvision's MNIST.  10 clients, IID, IPC 10, seed 0; prints CPU seconds of the distillation and the
accuracy of ConvNet-3, without and with shifted images while it trains.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch

from private_distdd import DistDD, ImageDataset, NotPrivateWarning, Privacy, dirichlet_split, evaluate, load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("knobs", type=json.loads)
    parser.add_argument("--epsilon", type=float)
    parser.add_argument("--sample-rate", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=32, help="of the ConvNet-3 that is scored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, _ = load_dataset("mnist", root=options.root)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))
    held, kept = (ImageDataset(train.images[p], train.labels[p], train.info) for p in (order[:5000], order[5000:]))
    privacy = None
    if options.epsilon is not None:
        privacy = Privacy(target_epsilon=options.epsilon, delta=1e-5, sample_rate=options.sample_rate)
    started = time.process_time()
    release = DistDD(ipc=10, privacy=privacy, **options.knobs).fit(dirichlet_split(kept, 10), progress=True)
    print(f"{options.knobs}: {time.process_time() - started:.0f} CPU s")
    for augment in (False, True):
        result = evaluate(release.dataset, held, model_args={"width": options.width}, seeds=range(1), augment=augment)
        print(f"  ConvNet-3 of width {options.width}, {'with' if augment else 'without'} shifts: {result}")


if __name__ == "__main__":
    main()
