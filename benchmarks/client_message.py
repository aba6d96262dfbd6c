"""A client's message against plain backpropagation and a user's own Opacus loop: python benchmarks/client_message.py.

ConvNet-3 on 28 x 28 images, all examples in the batch (q = 1).  `plain` is backpropagation alone, class by class;
`hooks` is Opacus' per-example gradients, in batches of 64; `own loop` is what a user would write without this library:
class by class, clipped and summed in float32, with torch's noise, which no theorem covers.  `message` is
`Client.answer`, all in: checks, ledger, hooks, lattice, cryptographic noise, bytes.
"""

from __future__ import annotations

import itertools

import torch
from opacus import GradSampleModule
from side_by_side import Benchmark

from private_distdd import Client, DatasetInfo, ImageDataset, ModelSpec, PrivacyPlan
from private_distdd.networks.loss import loss_sum
from private_distdd.questions.per_example import sum_gradient
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

CLASSES, SHAPE = 10, (1, 28, 28)


def compare(benchmark: Benchmark, width: int, count: int, repeats: int) -> None:
    """One setting: so many examples, a tenth of each class."""
    info = DatasetInfo("noise", CLASSES, SHAPE)
    spec, device = ModelSpec("convnet", {"width": width}), benchmark.device
    images = torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % CLASSES
    plan = PrivacyPlan(1.0, 1.0, 1.0, 1.0, 10**6, delta=1e-5)
    run = Run("speed", info, plan)
    client = Client("client", ImageDataset(images, labels, info), device=device)
    client.enroll(run)
    rounds = itertools.count()
    model, plain = (spec.build(SHAPE, CLASSES, seed=0) for _ in range(2))
    state = dict(model.state_dict())
    arguments = {"model": spec.to_json(), "granularity": "class"}
    hooked, plain = GradSampleModule(model.to(device), loss_reduction="sum"), plain.to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    images, labels = images.to(device), labels.to(device)

    def message() -> None:
        client.answer(Query(run.run_id, next(rounds), "class_gradients", arguments, state, plan))

    def hooks(examples: torch.Tensor = images, own: torch.Tensor = labels) -> None:
        for part, targets in zip(examples.split(64), own.split(64), strict=True):
            hooked.zero_grad(set_to_none=True)
            loss_sum(hooked, part.detach().requires_grad_(True), targets).backward()

    def own_loop() -> None:
        for label in range(CLASSES):
            hooks(images[labels == label], labels[labels == label])
            own = [vars(p)["grad_sample"] for p in parameters]
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in own]).norm(dim=0)
            factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
            for g in own:
                torch.einsum("n,n...->...", factors, g).add_(torch.randn(g.shape[1:], device=device))

    def backpropagation() -> None:
        for label in range(CLASSES):
            for part in (labels == label).nonzero().flatten().split(64):
                sum_gradient(plain, images[part], labels[part])

    cases = {"plain": backpropagation, "hooks": hooks, "own loop": own_loop, "message": message}
    benchmark.compare(f"width {width}, {count} examples", cases, against="plain", repeats=repeats)


if __name__ == "__main__":
    benchmark = Benchmark("client_message", "Examples a second, over plain backpropagation")
    for width, count in ((32, 320), (128, 320), (128, 40)):
        compare(benchmark, width, count, repeats=3 if benchmark.quick else 9)
    benchmark.finish()
