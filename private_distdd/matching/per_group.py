"""Layers with weights for each group of examples: one pass gives all groups' gradients, differentiable in the images.

Each weight is handed on as one copy a group, which takes no memory, so that its gradient comes by group, as `vmap`
would give it, but by ordinary convolutions: grouped ones are slow on CPUs.  Of the second derivatives only those are
computed that the images need: the weights are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class PerGroup(TorchFunctionMode):
    """While it lasts, convolutions, linear layers and group norms use a copy of their weights for each group.

    Batches must hold the groups one after another, equally large, and the network must treat examples one by one, as
    `networks.validation.validate_model` demands.  A weight used by any other layer is used itself, not its copies.

    Args:
        groups: how many.
        parameters: the weights to be copied.
        examples: what the network is given; the one tensor whose first derivative nobody asks for.

    Attributes:
        copies: [groups, *shape] of each parameter; leaves.
    """

    def __init__(self, groups: int, parameters: Sequence[Tensor], examples: Tensor) -> None:
        super().__init__()
        self.copies = [self._copy(p, groups).requires_grad_() for p in parameters]
        self.examples = examples
        self._groups, self._known = groups, {id(p): own for p, own in zip(parameters, self.copies, strict=True)}

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        weights = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, Tensor)]
        found = None
        if func in _RULES and all(id(w) in self._known or not w.requires_grad for w in weights):
            found = _RULES[func](self, *args, **kwargs)
        return func(*args, **kwargs) if found is None else found

    def of_each(self, weight: Tensor | None) -> Tensor | None:
        """[groups, *shape]: the copies, or those of a constant."""
        return None if weight is None else self._known.get(id(weight), self._copy(weight, self._groups))

    @staticmethod
    def _copy(weight: Tensor, groups: int) -> Tensor:
        return weight.detach().expand(groups, *weight.shape)


# Rules: as the functions they stand for, or None where they don't apply.


def _conv2d(
    mode: PerGroup,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if input.dim() != 4 or isinstance(padding, str):
        return None
    settings = (_pair(stride), _pair(padding), _pair(dilation), groups)
    return _Conv2d.apply(input, mode.of_each(weight), mode.of_each(bias), settings, input is mode.examples)


def _linear(mode: PerGroup, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    own, shift = mode.of_each(weight), mode.of_each(bias)
    if input.dim() != 2 or own is None:
        return None
    found = input.reshape(len(own), -1, input.shape[1]) @ own.mT
    return (found if shift is None else found + shift[:, None]).flatten(0, 1)


def _group_norm(
    mode: PerGroup,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if weight is None or bias is None:
        return None
    return _GroupNorm.apply(input, mode.of_each(weight), mode.of_each(bias), num_groups, eps)


def _relu(_: PerGroup, input: Tensor, inplace: bool = False) -> Any:
    return None if inplace else _ReLU.apply(input)


def _avg_pool2d(
    _: PerGroup,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    windows = [_pair(kernel_size), _pair(stride or kernel_size), _pair(padding)]
    return _AvgPool2d.apply(input, (*windows, ceil_mode, count_include_pad, divisor_override))


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Conv2d(torch.autograd.Function):
    """x [n, ...], weights [groups, o, i, h, w], biases [groups, o] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, biases: Tensor | None, settings: Any, first: bool) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.settings, ctx.biased, ctx.first = settings, biases is not None, first
        return F.conv2d(x, weights[0], None if biases is None else biases[0], *settings)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        x, weights = ctx.saved_tensors
        if not torch.is_grad_enabled():  # the second pass, from the outputs to the images: nobody asks for more
            return _back(slope, x, weights[0], ctx.settings, "x"), None, None, None, None
        to_x, to_weights = _Conv2dBackward.apply(slope, x, weights, ctx.settings, ctx.first)
        to_biases = slope.reshape(len(weights), -1, *slope.shape[1:]).sum((1, 3, 4)) if ctx.biased else None
        return to_x, to_weights, to_biases, None, None


class _Conv2dBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, x: Tensor, weights: Tensor, settings: Any, first: bool) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, x, weights)
        ctx.settings = settings
        pairs = zip(slope.chunk(len(weights)), x.chunk(len(weights)), strict=True)
        to_weights = torch.stack([_back(s, own, weights[0], settings, "weight") for s, own in pairs])
        return None if first else _back(slope, x, weights[0], settings, "x"), to_weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along_x: Tensor | None, along_weights: Tensor | None) -> Any:
        slope, x, weights = ctx.saved_tensors
        to_slope = to_x = None
        if along_weights is not None:
            parts = [*zip(slope.chunk(len(weights)), x.chunk(len(weights)), along_weights, strict=True)]
            to_slope = torch.cat([F.conv2d(own, way, None, *ctx.settings) for _, own, way in parts])
            to_x = torch.cat([_back(s, own, way, ctx.settings, "x") for s, own, way in parts])
        if along_x is not None:
            further = F.conv2d(along_x, weights[0], None, *ctx.settings)
            to_slope = further if to_slope is None else to_slope.add_(further)
        return to_slope, to_x, None, None, None


def _back(slope: Tensor, x: Tensor, weight: Tensor, settings: Any, to: str) -> Tensor:
    """A convolution's gradient to its "x" or its "weight"."""
    stride, padding, dilation, groups = settings
    wanted = [to == "x", to == "weight", False]
    found = torch.ops.aten.convolution_backward(
        slope, x, weight, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )
    gradient: Tensor = found[wanted.index(True)]
    return gradient


class _GroupNorm(torch.autograd.Function):
    """y = w x^ + b with x^ = r z, z = x - mean, r = 1 / sqrt(mean z^2 + eps); scales w, shifts b [groups, channels].

    Statistics are [n, sets, channels of a set] or [n, sets, 1]; a set is what is normalised together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Tensor, shifts: Tensor, sets: int, eps: float) -> Tensor:
        w, b = scales[0].reshape(sets, -1), shifts[0].reshape(sets, -1)
        z = x - _spread(_mean(_sums(x, sets), x), x)
        square = z * z
        r = (_mean(_sums(square, sets), x) + eps).rsqrt()
        ctx.save_for_backward(x, z, w, r)
        ctx.groups = len(scales)
        return torch.addcmul(_spread(b, x), z, _spread(w * r, x), out=square)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        to_x, to_scales, to_shifts = _GroupNormBackward.apply(slope, *ctx.saved_tensors)
        by_group = (t.reshape(ctx.groups, -1, slope.shape[1]).sum(1) for t in (to_scales, to_shifts))
        return to_x, *by_group, None, None


class _GroupNormBackward(torch.autograd.Function):
    """To x: r (p - mean p - x^ mean(p x^)) with p = w slope; to w: sum of slope x^; to b: sum of slope."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, x: Tensor, z: Tensor, w: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = slope * z
        to_b, to_w = _sums(slope, len(w)), _sums(product, len(w)) * r
        mean, inner = _mean(w * to_b, x), _mean(w * to_w, x)
        ctx.save_for_backward(slope, z, w, r, to_b, to_w, mean, inner)
        to_x = torch.addcmul(_spread(-r * mean, x), slope, _spread(r * w, x), out=product)
        return to_x.addcmul_(z, _spread(-r * r * inner, x)), to_w, to_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, along_w: Tensor, along_b: Tensor) -> Any:
        slope, z, w, r, to_b, to_w, mean, inner = ctx.saved_tensors
        product = u * z
        u_mean, u_inner = _mean(_sums(u, len(w)), z), _mean(_sums(product, len(w)), z) * r
        # How u times the gradient to x depends on r at fixed x^.
        by_r = _mean(w * _sums(torch.mul(slope, u, out=product), len(w)), z) - u_mean * mean - u_inner * inner
        to_slope = torch.addcmul(_spread(along_b - w * r * u_mean, z), u, _spread(w * r, z), out=product)
        to_slope.addcmul_(z, _spread((along_w - w * r * u_inner) * r, z))
        # To x^ goes h = of_slope slope + of_u u; x^ and r carry it on to x.
        of_slope, of_u = along_w - r * u_inner * w, -r * inner
        h_mean, h_inner = _mean(of_slope * to_b, z) + of_u * u_mean, _mean(of_slope * to_w, z) + of_u * u_inner
        to_x = torch.addcmul(_spread(-r * h_mean, z), slope, _spread(r * of_slope, z)).addcmul_(u, _spread(r * of_u, z))
        return to_slope, to_x.addcmul_(z, _spread(-r * r * (h_inner + r * by_r), z)), None, None, None


def _sums(values: Tensor, sets: int) -> Tensor:
    """[n, channels, ...] to [n, sets, channels of a set]: sums over the pixels."""
    pixels = tuple(range(2, values.dim()))
    return (values.sum(pixels) if pixels else values).reshape(len(values), sets, -1)


def _mean(sums: Tensor, like: Tensor) -> Tensor:
    """Sums of channels [n, sets, channels of a set] to the means of sets [n, sets, 1]."""
    return sums.sum(-1, keepdim=True) / (like[0].numel() // sums.shape[1])


def _spread(statistic: Tensor, like: Tensor) -> Tensor:
    """To [n, channels, 1, ...], or [1, channels, 1, ...] of a statistic without examples."""
    sets = statistic.shape[-2]
    shape = (*statistic.shape[:-2], sets, like.shape[1] // sets)
    return statistic.expand(shape).reshape(-1, like.shape[1], *[1] * (like.dim() - 2))


class _ReLU(torch.autograd.Function):
    """Without the zeros that PyTorch adds as second derivatives; so is the pooling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return torch.ops.aten.threshold_backward(slope, ctx.saved_tensors[0].detach(), 0)


class _AvgPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = settings
        return F.avg_pool2d(x, *settings)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        x = ctx.saved_tensors[0].detach()
        return torch.ops.aten.avg_pool2d_backward(slope, x, *ctx.settings), None


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.relu: _relu,
    F.avg_pool2d: _avg_pool2d,
}
