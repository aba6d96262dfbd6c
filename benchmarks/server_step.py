"""The server's step: the slope in S of a distance of class gradients; against DC's loop, and against `vmap` (before).

    python benchmarks/server_step.py [--quick] [--device cuda]

IPC 10, ten classes of 28 x 28, ConvNet-3, DC's layer-wise cosine in every case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from side_by_side import Benchmark
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from private_distdd.matching.gradients import distance_slope, layer_cosine, parameter_shapes
from private_distdd.networks.spec import ModelSpec

IPC, CLASSES, SHAPE = 10, 10, (1, 28, 28)


def dc(model: nn.Module, images: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Zhao, Mopuri and Bilen 2021 (arXiv 2006.05929): class by class, then one `backward` of the sum of distances."""
    images = images.detach().requires_grad_()
    parameters, shapes = list(model.parameters()), parameter_shapes(model)
    loss = torch.zeros((), device=images.device)
    for own, targets, row in zip(images, labels, target, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(own), targets), parameters, create_graph=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        loss = loss + layer_cosine(flat[None], row[None], shapes)
    loss.backward()
    model.zero_grad()
    assert images.grad is not None
    return images.grad


def by_vmap(model: nn.Module, images: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """This library until issue 11."""
    images = images.detach().requires_grad_()
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], own: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (own,)), targets)

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(state, images, labels)
    flat = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
    (slope,) = torch.autograd.grad(layer_cosine(flat, target, parameter_shapes(model)), [images])
    return slope


def main() -> None:
    benchmark = Benchmark("server_step", "Server: one step on S, IPC 10, ConvNet-3, 28 x 28, layer-wise cosine")
    for width in (32, 128):
        spec = ModelSpec("convnet", {"width": width})
        model = spec.build(SHAPE, CLASSES, seed=0).to(benchmark.device)
        activations = spec.size(SHAPE, CLASSES).activations
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((CLASSES, IPC, *SHAPE), generator=generator).to(benchmark.device)
        labels = torch.arange(CLASSES, device=benchmark.device)[:, None].expand(-1, IPC)
        parameters = sum(p.numel() for p in model.parameters())
        target = torch.randn((CLASSES, parameters), generator=generator).to(benchmark.device)
        step = (model, images, labels, target)
        cases: dict[str, Callable[[], object]] = {
            "ours": partial(distance_slope, layer_cosine, *step, activations),
            "vmap (before)": partial(by_vmap, *step),
            "DC": partial(dc, *step),
        }
        benchmark.compare(f"width {width}", cases, against="DC", repeats=5 if benchmark.quick else 15)
    benchmark.finish()


if __name__ == "__main__":
    main()
