"""Can images be rebuilt from a message?  PSNR, SSIM and labels, beside the public class-mean guess.

python audits/gradient_inversion.py --root ROOT    Fashion-MNIST, about fifteen minutes on one core
python audits/gradient_inversion.py --quick        digits, some seconds
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from private_distdd.auditing.attacks.inversion import gradient_inversion
from private_distdd.auditing.attacks.optimisers import Attack, CosineAttack, LBFGSAttack
from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.page import render_inversions
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset
from private_distdd.errors import NotPrivateWarning
from private_distdd.networks.spec import ModelSpec

PROTECTIONS = (None, 0.0, 0.01, 0.1, 1.0)  # nothing, clipping alone, and sigma
ALIKE = 4  # images of one class that a client of the last part holds

SMOOTH = ModelSpec("convnet", {"width": 32, "norm": "group", "activation": "tanh"})
LENET = ModelSpec("lenet", {"activation": "tanh", "pooling": "average"})
RECTIFIED = ModelSpec("convnet", {"width": 32})


def parts(quick: bool) -> list[tuple[str, ModelSpec, Attack, int, int]]:
    """What is attacked in words, the network, the attack, restarts, and images a client."""
    if quick:
        return [
            ("ConvNet, tanh, GroupNorm", SMOOTH, LBFGSAttack(60), 1, 1),
            ("ConvNet, ReLU, InstanceNorm", RECTIFIED, CosineAttack(200, total_variation=1e-3), 1, 1),
        ]
    return [
        ("ConvNet, tanh, GroupNorm", SMOOTH, LBFGSAttack(300), 1, 1),
        ("LeNet, tanh, average pooling", LENET, LBFGSAttack(), 1, 1),
        ("ConvNet, ReLU, InstanceNorm", RECTIFIED, CosineAttack(), 2, 1),
        ("ConvNet, tanh, with a prior", SMOOTH, CosineAttack(300, total_variation=3e-2), 1, 1),
        (f"ConvNet, tanh, mean of {ALIKE}", SMOOTH, LBFGSAttack(300), 1, ALIKE),
    ]


def holders(train: ImageDataset, count: int, each: int, seed: int) -> list[ImageDataset]:
    """`count` clients, each with `each` images of the class of a random one."""
    rng = np.random.default_rng(seed)
    held = []
    for first in rng.choice(len(train), size=count, replace=False):
        alike = torch.nonzero(train.labels == train.labels[first])[:, 0].numpy()
        drawn = np.append(first, rng.choice(alike[alike != first], size=each - 1, replace=False))
        held.append(ImageDataset(train.images[drawn], train.labels[drawn], train.info))
    return held


def show(name: str, inversion: Inversion) -> None:
    """One line."""
    figures = inversion.record.figures
    shown = (("PSNR", 1), ("gain", 1), ("SSIM", 2))
    cells = (f"{figures[key]:5.{digits}f} ± {figures[f'{key} spread']:4.{digits}f}" for key, digits in shown)
    print(
        f"{name:30}{inversion.protection:15}{'   '.join(cells)}   {figures['label accuracy']:6.2f}"
        f"  {figures['epsilon']:8.3g}  {figures['failed searches']:6.0%}  {inversion.record.seconds:6.1f} s",
        flush=True,
    )


def main() -> int:
    """1 where an attack on bare gradients does not beat the public guess: then its failures show nothing at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="as for load_dataset (default fashionmnist; digits with --quick)")
    parser.add_argument("--root", help="where torchvision's files are")
    parser.add_argument("--quick", action="store_true", help="fewer networks and steps")
    parser.add_argument("--images", type=int, default=5, help="clients attacked, each with its own image (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of all public and reproducible randomness (default 0)")
    parser.add_argument("--output", metavar="STEM", default="gradient_inversion", help="of the .json and the .html")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, test = load_dataset(options.dataset or ("digits" if options.quick else "fashionmnist"), root=options.root)
    print(f"{'network':30}{'protection':15}{'PSNR, dB':15}{'gain, dB':15}{'SSIM':15}labels   epsilon  failed      time")
    found: dict[str, list[Inversion]] = {}
    for name, spec, attack, restarts, each in parts(options.quick):
        clients = holders(train, options.images, each, options.seed)
        found[name] = []
        for sigma in PROTECTIONS:
            inversion = gradient_inversion(
                clients, test, spec, sigma, attack, restarts=restarts, images=each, seed=options.seed
            )
            found[name].append(inversion)
            show(name, inversion)
    print(
        "mean ± standard deviation over images.  gain: over the class mean of the test images.  epsilon: one release,"
    )
    print("at delta = 1e-5.  Descriptions of one attack: where it fails, another may not.")
    records = [{"attacked": name, **item.record.to_json()} for name, items in found.items() for item in items]
    stem = Path(options.output)
    stem.with_suffix(".json").write_text(json.dumps(records, indent=2, allow_nan=False) + "\n")
    stem.with_suffix(".html").write_text(render_inversions(f"Images rebuilt from messages: {train.info.name}", found))
    return int(any(items[0].record.figures["gain"] <= 0 for items in found.values()))


if __name__ == "__main__":
    sys.exit(main())
