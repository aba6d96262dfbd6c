"""Per-example gradients of a network, by Opacus hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.micro_batch import MICRO_BATCH, deterministic
from private_distdd.networks.scattering import Scattering
from private_distdd.opacus_parts import (
    GradSampleModule,
    compute_conv_grad_sample,
    ft_compute_per_sample_gradient,
    unfold2d,
)

_UNFOLDED = 1 << 18  # values of images unfolded at a time: they stay in a core's cache
_ACTIVATIONS = 5_000_000  # values that a part's layers hand on: with more, every tensor is fresh pages of memory


def examples_at_once(activations: int) -> int:
    """How many examples of a micro-batch are computed together on a CPU: 1, 2, 4, 8, 16, 32 or 64.

    What they take beside their rows is then bounded: by 80 MB, or by what one example takes.

    Args:
        activations: values that the network's layers hand on for one example (`NetworkSize.activations`); public.
    """
    fitting = max(1, _ACTIVATIONS // max(1, activations))
    return min(MICRO_BATCH, 1 << (fitting.bit_length() - 1))


class PerExampleGradients:
    """Per-example gradients of a network, by Opacus hooks.

    Args:
        model: a network that `networks.validation.validate_model` accepts; the hooks are put on it, so it serves
            nothing else.
        at_once: how many examples are computed together, >= 1: a public number, see `examples_at_once`.  Each part is
            computed from memory of its own, so that no bit depends on where the part lies.

    Attributes:
        dimension: trainable parameters.

    Raises:
        ModelError: there are none.
    """

    def __init__(self, model: nn.Module, at_once: int = MICRO_BATCH) -> None:
        self._hooked, self._at_once = _Hooked(model, loss_reduction="sum", strict=True), at_once
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ModelError("a network without trainable parameters", "at least one", "Unfreeze some parameters.")
        self.dimension = sum(p.numel() for p in self._parameters)
        self._fixed, self._learnt = _parts(model)
        self._apart: list[Tensor] = []  # parameters of layers whose input does not depend on the examples

    def rows(self, examples: Tensor, labels: Tensor) -> Tensor:
        """Gradients of the loss, one example a row: float [n, dimension], of the examples' type.

        Args:
            examples: float [n, *shape]; a micro-batch of one size, where no bit may depend on n.
            labels: int64 [n].
        """
        return self._rows(lambda part: self._fixed(part.clone()), examples, labels)

    @property
    def has_features(self) -> bool:
        """Whether the network begins with costly layers that are the same in every network of its specification.

        They hold a `Scattering`, whose buffers follow from the size of an image, and beside it neither parameters nor
        buffers, which a query or a seed might have set.
        """
        layers = list(self._fixed.children())
        others = [layer for layer in layers if not isinstance(layer, Scattering)]
        return len(others) < len(layers) and not any((*layer.parameters(), *layer.buffers()) for layer in others)

    def features(self, examples: Tensor) -> Tensor:
        """What the layers before the first that learns make of the examples: float [n, ...], each by itself."""
        with deterministic(), torch.no_grad():
            return torch.cat([self._fixed(part.clone()) for part in torch.split(examples, self._at_once)])

    def rows_of_features(self, features: Tensor, labels: Tensor) -> Tensor:
        """`rows`, to the bit, of what `features` made of the examples."""
        # Copied: products of matrices may see where in memory a part begins, and fresh ones all begin alike.
        return self._rows(torch.clone, features, labels)

    def _rows(self, first: Callable[[Tensor], Tensor], examples: Tensor, labels: Tensor) -> Tensor:
        rows = examples.new_empty((len(examples), self.dimension))
        parts = (torch.split(tensor, self._at_once) for tensor in (examples.detach(), labels, rows))
        with deterministic(), torch.enable_grad():
            for part, own, into in zip(*parts, strict=True):
                places: dict[Tensor, Tensor] = dict(zip(self._parameters, self._columns(into), strict=True))
                with torch.no_grad():
                    features = first(part).detach()
                missed = self._backward(features.requires_grad_(True), own, places)
                if missed and not self._apart:
                    self._apart = missed
                    missed = self._backward(features, own, places)
                for parameter in missed:  # the loss does not depend on it
                    places[parameter].zero_()
        return rows

    def _backward(self, examples: Tensor, labels: Tensor, places: dict[Tensor, Tensor]) -> list[Tensor]:
        """One pass that writes to the places; the parameters whose layers it did not meet.

        Full backward hooks want an input that requires a gradient.  To ask for that one's alone spares the summed
        gradients of the weights, but meets no layer whose input does not depend on the examples, as that of an
        embedding of places: such layers' weights are asked for, too.
        """
        with self._hooked.writing_to(places) as missing:
            torch.autograd.grad(loss_sum(self._learnt, examples, labels), [examples, *self._apart], allow_unused=True)
            return list(missing)

    def named_columns(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows as each parameter's gradients, float [n, *parameter's shape], by its name."""
        names = [name for name, p in self._hooked._module.named_parameters() if p.requires_grad]
        return dict(zip(names, self._columns(rows), strict=True))

    def remove_hooks(self) -> None:
        """Give the network back as it was."""
        self._hooked.remove_hooks()

    def _columns(self, rows: Tensor) -> Sequence[Tensor]:
        parts = torch.split(rows, [p.numel() for p in self._parameters], dim=1)
        return [part.view(len(part), *p.shape) for part, p in zip(parts, self._parameters, strict=True)]


def _parts(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The first layers of a sequence, in which nothing is learnt and no gradient needed, and the other layers."""
    if type(model) is not nn.Sequential:
        return nn.Identity(), model
    fixed = 0
    while not any(parameter.requires_grad for parameter in model[fixed].parameters()):
        fixed += 1
    return model[:fixed], model[fixed:]


class _Hooked(GradSampleModule):  # type: ignore[misc]
    """Opacus' module, with gradients written where they are wanted: its own copies took as long as the arithmetic."""

    @contextlib.contextmanager
    def writing_to(self, places: dict[Tensor, Tensor]) -> Iterator[set[Tensor]]:
        """The backward pass meanwhile writes to float [n, *parameter's shape] each; gives those not yet written to."""
        self._places, self._missing = places, set[Tensor](places)
        try:
            yield self._missing
        finally:
            self._places, self._missing = {}, set()  # nothing here keeps the rows' memory

    def capture_backprops_hook(
        self, module: nn.Module, _: object, outputs: Sequence[Tensor], loss_reduction: str, batch_first: bool
    ) -> None:
        """Opacus' own, but for where the gradients go; a layer that is used again adds to them."""
        inputs, backprops = self.rearrange_grad_samples(
            module=module, backprops=outputs[0].detach(), loss_reduction=loss_reduction, batch_first=batch_first
        )
        if type(module) is nn.Linear and backprops.dim() == 2 and module.weight in self._missing:
            torch.mul(backprops.unsqueeze(2), inputs[0].unsqueeze(1), out=self._places[module.weight])
            self._missing.remove(module.weight)
            found = {} if module.bias is None else {module.bias: backprops}
        else:
            found = {**self.GRAD_SAMPLERS, **_RULES}.get(type(module), ft_compute_per_sample_gradient)(
                module, inputs, backprops
            )
        for parameter, gradients in found.items():
            if parameter in self._missing:
                self._places[parameter].copy_(gradients)
                self._missing.remove(parameter)
            elif parameter in self._places:
                self._places[parameter].add_(gradients)


def _conv2d(layer: nn.Conv2d, inputs: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Opacus' rule, image by image or a few at a time: a micro-batch's unfolded images do not fit into a cache."""
    if layer.groups != 1 or not layer.weight.requires_grad or not backprops.is_cpu:
        found: dict[Tensor, Tensor] = compute_conv_grad_sample(layer, inputs, backprops)
        return found
    backprops = backprops.flatten(2)
    count, outputs, places = backprops.shape
    taps = layer.weight[0].numel()
    weights = backprops.new_empty((count, outputs, taps))
    size = min(count, 1 << max(0, (_UNFOLDED // (taps * places)).bit_length() - 1))
    parts = (torch.split(tensor, size) for tensor in (inputs[0], backprops, weights))
    for images, own, into in zip(*parts, strict=True):
        unfolded = unfold2d(
            images,
            kernel_size=layer.kernel_size,
            padding=layer.padding,
            stride=layer.stride,
            dilation=layer.dilation,
        )
        torch.bmm(own, unfolded.transpose(1, 2), out=into)
    gradients: dict[Tensor, Tensor] = {layer.weight: weights.view(count, *layer.weight.shape)}
    if layer.bias is not None and layer.bias.requires_grad:
        gradients[layer.bias] = backprops.sum(dim=2)
    return gradients


def _group_norm(layer: nn.GroupNorm, inputs: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Opacus' rule, in the memory of one tensor."""
    gradients: dict[Tensor, Tensor] = {}
    if layer.weight is not None and layer.weight.requires_grad:
        normalised = F.group_norm(inputs[0], layer.num_groups, eps=layer.eps)
        gradients[layer.weight] = _over_places(normalised.mul_(backprops))
    if layer.bias is not None and layer.bias.requires_grad:
        gradients[layer.bias] = _over_places(backprops)
    return gradients


def _over_places(values: Tensor) -> Tensor:
    """Sums [n, channels] of [n, channels, ...]."""
    return values.flatten(2).sum(dim=2) if values.dim() > 2 else values


_RULES = {nn.Conv2d: _conv2d, nn.GroupNorm: _group_norm}
