"""Networks that may be asked for gradients: four registered ones, the user's own, and the check that all must pass.

A query names a registered model with arguments and a seed or weights, never code, so a client builds only what its own
process has registered.  `validate_model` refuses whatever would break assumption A2 of the privacy theorem: that the
gradient of one example depends on the weights and that example alone, and is the one that gets clipped.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.limits import ARGUMENT_LENGTH, ARGUMENT_SIZE, ARGUMENTS, DEPTH, WIDTH

ImageShape: TypeAlias = tuple[int, int, int]
Scalar: TypeAlias = "str | int | float | bool | tuple[Scalar, ...] | None"


_FACTORIES: dict[str, Callable[..., nn.Module]] = {}
_Factory = TypeVar("_Factory", bound=Callable[..., nn.Module])


def register_model(name: str) -> Callable[[_Factory], _Factory]:
    """Decorator: `ModelSpec(name, arguments)` then means `factory(image_shape, num_classes, **arguments)`.

    The factory returns an initialised network: images [n, *image_shape] to logits [n, num_classes].  Register a model
    of your own in every process that holds a client, before the first query.

    Raises:
        ModelError: the name is empty, or taken by another factory.
    """

    def register(factory: _Factory) -> _Factory:
        known = _FACTORIES.get(name, factory)
        # The same function again (a notebook cell run twice) is no conflict.
        if not name or (known.__module__, known.__qualname__) != (factory.__module__, factory.__qualname__):
            raise ModelError(f"model name {name!r}", "a name that is not taken", f"Taken: {registered_models()}.")
        _FACTORIES[name] = factory
        return factory

    return register


def registered_models() -> tuple[str, ...]:
    """The names a `ModelSpec` can have, sorted."""
    return tuple(sorted(_FACTORIES))


@dataclass(frozen=True)
class ModelSpec:
    """A registered model with its arguments: what a query names.  Immutable, hashable, JSON-able.

    Args:
        name: a registered name; looked up when the network is built, not before.
        arguments: keyword arguments of the factory: strings, finite numbers, booleans, None, or lists of these.  At
            most 64 of them, of at most 256 characters or items, and numbers of magnitude at most 2^20.

    Raises:
        ModelError: the name is not a string, or an argument is of another kind.
    """

    name: str
    arguments: Mapping[str, Scalar] = field(default_factory=dict, hash=False, compare=False)
    # What decides equality and hash: in Python 1 == True == 1.0, in JSON they differ.
    _canonical: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.arguments, Mapping):
            raise ModelError(f"model {self.name!r} with {self.arguments!r}", "a name and a mapping", "Give both.")
        names = list(self.arguments)
        if len(names) > ARGUMENTS or not all(isinstance(n, str) and len(n) <= ARGUMENT_LENGTH for n in names):
            raise ModelError(
                f"model arguments {names!r}",
                f"string keys of at most {ARGUMENT_LENGTH} characters, and at most {ARGUMENTS} of them",
                "Name each argument.",
            )
        frozen = _Frozen({key: _frozen(key, value) for key, value in self.arguments.items()})
        object.__setattr__(self, "arguments", frozen)
        object.__setattr__(self, "_canonical", json.dumps(frozen, sort_keys=True, allow_nan=False))

    def build(self, image_shape: ImageShape, num_classes: int, seed: int | None = None) -> nn.Module:
        """A fresh network on the CPU.

        Args:
            image_shape: (C, H, W) of one example.
            num_classes: number of logits.
            seed: of the public initialisation, so that whoever knows it has the same weights; None where weights are
                loaded afterwards.  Torch's default generator is left as it was found either way.

        Raises:
            ModelError: unknown name or argument, or an argument the model cannot have with these images.
        """
        image_shape = (image_shape[0], image_shape[1], image_shape[2])  # JSON may have made a list of it
        factory = _FACTORIES.get(self.name)
        if factory is None:
            raise ModelError(
                f"model {self.name!r}", f"a registered name: {registered_models()}", "Register it with register_model."
            )
        try:
            inspect.signature(factory).bind(image_shape, num_classes, **self.arguments)
        except TypeError as error:
            raise ModelError(
                f"{self.name}: {error}", f"{self.name}{inspect.signature(factory)}", "Correct the arguments."
            ) from error
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
            model = factory(image_shape, num_classes, **self.arguments)
        if not isinstance(model, nn.Module):
            raise ModelError(f"{self.name} built a {type(model).__name__}", "an nn.Module", "Return the network.")
        return model

    def size(self, image_shape: ImageShape, num_classes: int) -> NetworkSize:
        """What the network is made of, without making it: no memory is taken for weights or activations.

        A network registered by somebody else that cannot be built without storage is built once, on the CPU.

        Raises:
            ModelError: as `build`, or it cannot take such images.
        """
        shape = (image_shape[0], image_shape[1], image_shape[2])
        return _size_once(_FACTORIES.get(self.name), self, shape, num_classes)

    def validate(self, image_shape: ImageShape, num_classes: int) -> None:
        """`validate_model` for what `build` returns, done once a process: a client may ask before every query.

        Raises:
            ModelError: as `build` and `validate_model`.
        """
        shape = (image_shape[0], image_shape[1], image_shape[2])
        _validate_once(_FACTORIES.get(self.name), self, shape, num_classes)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        return {"name": self.name, "arguments": json.loads(self._canonical)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_json` wrote.

        Raises:
            ModelError: missing or unknown fields, or a value of the wrong kind.
        """
        if not isinstance(record, Mapping) or set(record) != {"name", "arguments"}:
            raise ModelError(f"model record {record!r}", "the fields name and arguments", "The record is damaged.")
        return cls(record["name"], record["arguments"])


@dataclass(frozen=True)
class NetworkSize:
    """Counts that follow from a network's specification and the images' shape.

    Args:
        parameters: trainable ones.
        activations: values that its layers hand on, for one image.
        work: multiplications and additions of one image's forward pass, and 10^5 for each layer that is called.
        features: inputs of its last layer; 0 where that is not linear.
    """

    parameters: int
    activations: int
    work: int
    features: int


_SMALL = 1 << 24  # parameters of a network that may be made to count its size
_TOLL = 10**5  # operations that a layer's call is worth, however small the layer


@lru_cache(maxsize=256)
def _size_once(factory: object, spec: ModelSpec, image_shape: ImageShape, num_classes: int) -> NetworkSize:
    parameters = 0
    try:
        with torch.device("meta"):
            model = spec.build(image_shape, num_classes)
            parameters = sum(p.numel() for p in model.parameters())
            return _size(model, image_shape, "meta")
    except Exception:
        # Foreign code may look at its weights: registered by the owner, it may be built.  Ours never needs that, and
        # what would be large is not built to find out that it is.
        if getattr(factory, "__module__", __name__) == __name__ or parameters > _SMALL:
            raise
        return _size(spec.build(image_shape, num_classes), image_shape, "cpu")


def _size(model: nn.Module, image_shape: ImageShape, device: str) -> NetworkSize:
    activations = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros((1, *image_shape), device=device))
    except Exception as error:  # foreign code, on a black image: whatever it raises belongs into the sentence
        raise ModelError(
            f"the network fails on an image {list(image_shape)}: {type(error).__name__}: {error}",
            f"images [n, {', '.join(map(str, image_shape))}] to logits [n, classes]",
            "Check the image shape.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    last = layers[-1]
    return NetworkSize(
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        activations,
        counter.get_total_flops() + _TOLL * len(layers),
        last.in_features if isinstance(last, nn.Linear) else 0,
    )


class _Frozen(dict[str, Scalar]):
    """A dict that stays as it was made (types.MappingProxyType can be neither copied nor written as JSON)."""

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("the arguments of a ModelSpec cannot change; make another ModelSpec")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[_Frozen], tuple[dict[str, Scalar]]]:
        return _Frozen, (dict(self),)


def _frozen(key: str, value: object, nested: int = 0) -> Scalar:
    match value:
        case list() | tuple() if len(value) <= ARGUMENT_LENGTH and nested < 2:
            return tuple(_frozen(key, item, nested + 1) for item in value)
        case None | bool():
            return value
        case str() if len(value) <= ARGUMENT_LENGTH:
            return value
        case int() | float() if abs(value) <= ARGUMENT_SIZE:  # NaN: no
            return value
    raise ModelError(
        f"model argument {key} = {value!r}",
        f"strings and lists of at most {ARGUMENT_LENGTH}, finite numbers of at most {ARGUMENT_SIZE}, booleans, None",
        "Use these.",
    )


def require_device(device: str | torch.device) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        ConfigurationError: so it is.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigurationError(
            f"device = {device!r}", "a device that torch can use here, such as 'cpu' or 'cuda'", str(error)
        ) from error


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # none of them in place: hooks read what they were given
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


@register_model("convnet")
def convnet(
    image_shape: ImageShape,
    num_classes: int,
    *,
    depth: int | None = None,
    width: int = 128,
    norm: str = "instance",
    activation: str = "relu",
) -> nn.Module:
    """The ConvNet of the distillation literature: depth x (3x3 convolution, norm, activation, 2x2 average pooling).

    Grey images of 28 x 28 are padded to 32 x 32 by the first convolution (padding 3), as in DC.

    Args:
        depth: blocks, 1 ... 64; each halves height and width, which must not fall below 1.  Default: 3, or as many
            as leave 4 x 4 (what 3 leave of 32 x 32) of smaller images: below that an instance norm erases too much.
        width: channels of each block, 1 ... 16,384 (a multiple of 4 with `norm="group"`).
        norm: "instance" (GroupNorm with a group a channel, with weights, as in DC), "group" (4 groups) or "none".
        activation: a key of `ACTIVATIONS`.

    Raises:
        ModelError: an argument is outside its range, or the images are too small for the depth.

    Source: Gidaris and Komodakis 2018; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    padding = 3 if image_shape == (1, 28, 28) else 1
    rows, columns = (side + 2 * padding - 2 for side in image_shape[1:])
    most = int(math.log2(min(rows, columns)))
    if depth is None:
        depth = min(3, max(1, most - 2))
    _check_sizes(depth=depth, width=width)
    groups = _choice("norm", norm, {"instance": width, "group": 4, "none": 0})
    make_activation = _choice("activation", activation, ACTIVATIONS)
    if groups and width % groups:
        raise ModelError(f"width = {width} with norm='group'", "a multiple of 4", "Change the width or the norm.")
    if depth > most:
        raise ModelError(
            f"depth = {depth} for images of {image_shape[1]} x {image_shape[2]}",
            f"a depth of at most {most}",
            "Each block halves the image; take fewer.",
        )
    layers: list[nn.Module] = []
    for block in range(depth):
        first = block == 0
        layers.append(nn.Conv2d(image_shape[0] if first else width, width, 3, padding=padding if first else 1))
        if groups:
            layers.append(nn.GroupNorm(groups, width))
        layers += [make_activation(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (rows >> depth) * (columns >> depth), num_classes))


@register_model("lenet")
def lenet(image_shape: ImageShape, num_classes: int, *, activation: str = "relu", pooling: str = "max") -> nn.Module:
    """LeNet-5 with ReLU and max pooling, as in DC (here padding 2 for colour too); images of at least 12 x 12.

    Args:
        activation: a key of `ACTIVATIONS`.
        pooling: "max" or "average"; a smooth network, as LeCun's own, takes "average" with activation "tanh".

    Raises:
        ModelError: the images are smaller, or an argument is outside its range.

    Source: LeCun et al. 1998; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    channels, height, width = image_shape
    if min(height, width) < 12:
        raise ModelError(f"lenet for images of {height} x {width}", "at least 12 x 12", "Use 'convnet' or 'mlp'.")
    make_activation = _choice("activation", activation, ACTIVATIONS)
    pools: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
    make_pool = _choice("pooling", pooling, pools)
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=2),
        make_activation(),
        make_pool(2),
        nn.Conv2d(6, 16, kernel_size=5),
        make_activation(),
        make_pool(2),
        nn.Flatten(),
        nn.Linear(features, 120),
        make_activation(),
        nn.Linear(120, 84),
        make_activation(),
        nn.Linear(84, num_classes),
    )


@register_model("mlp")
def mlp(image_shape: ImageShape, num_classes: int, *, depth: int = 2, width: int = 128) -> nn.Module:
    """`depth` hidden layers (1 ... 64) of `width` units (1 ... 16,384) with ReLU.

    Raises:
        ModelError: an argument is outside its range.
    """
    _check_sizes(depth=depth, width=width)
    sizes = [math.prod(image_shape)] + [width] * depth
    hidden = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))


@register_model("resnet")
def resnet(image_shape: ImageShape, num_classes: int, *, width: int = 32, blocks: int = 1) -> nn.Module:
    """A small residual network: three stages of `blocks` basic blocks, `width`, 2 and 4 `width` channels wide.

    GroupNorm of 8 groups throughout; the second and third stage halve the image; global average pooling.

    Args:
        width: a multiple of 8, 8 ... 16,384.
        blocks: per stage, 1 ... 64.

    Raises:
        ModelError: an argument is outside its range.

    Source: He et al. 2016; Wu and He 2018 (GroupNorm).
    """
    _check_sizes(width=width, blocks=blocks)
    if width % 8:
        raise ModelError(f"width = {width}", "a multiple of 8", "Round it up.")
    layers: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False), nn.GroupNorm(8, width)]
    layers.append(nn.ReLU())
    channels = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(_Residual(channels, width << stage, stride=2 if stage and not block else 1))
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class _Residual(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))) for x [n, channels, h, w]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )
        same = channels == width and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(8, width))
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.shortcut(images) + self.residual(images))


def _check_sizes(**sizes: object) -> None:
    for name, value in sizes.items():
        most = WIDTH if name == "width" else DEPTH
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(f"{name} = {value!r}", f"a whole number, 1 ... {most}", "Choose another one.")


_Option = TypeVar("_Option")


def _choice(name: str, value: object, options: Mapping[str, _Option]) -> _Option:
    if not isinstance(value, str) or value not in options:
        raise ModelError(f"{name} = {value!r}", f"one of {sorted(options)}", "Choose one of these.")
    return options[value]


def validate_model(model: nn.Module, image_shape: ImageShape) -> None:
    """Refuse a network whose per-example gradients would not be what the privacy theorem assumes (A2).

    First the structure is read, then a copy of the network runs in float64 on four fixed dummy images (never on data):
    forward passes must be finite, repeatable, leave every buffer and every random generator alone, and give each image
    the logits it gets by itself; and Opacus' per-example gradients must equal those of one-image batches.  The model
    itself, and the default random state, are left as they were.

    For foreign code this is a test, not a proof: a forward pass that couples images only on rare pixels, or only in
    large batches, is not found.  The check holds for training mode, in which gradients are taken.

    Args:
        model: the plain network (not wrapped in GradSampleModule).
        image_shape: (C, H, W) of one example.

    Raises:
        ModelError: names the layer, says what breaks the theorem, and what to use instead.
    """
    if isinstance(model, GradSampleModule) or hasattr(model, "autograd_grad_sample_hooks"):
        raise ModelError("a network with Opacus hooks", "a plain nn.Module", "Pass it before it is wrapped.")
    _check_structure(model)
    _check_behaviour(model, image_shape)


@lru_cache(maxsize=256)
def _validate_once(_: object, spec: ModelSpec, image_shape: ImageShape, num_classes: int) -> None:
    """The first argument, the factory, is part of the key: a name may be registered anew in a notebook."""
    validate_model(spec.build(image_shape, num_classes, seed=0), image_shape)


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _check_structure(model: nn.Module) -> None:
    owners: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = f"layer {path or '(the network itself)'!r} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(f"{where} mixes the examples of a batch", "GroupNorm or LayerNorm", "Use nn.GroupNorm.")
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise ModelError(
                f"{where} keeps running statistics of the data", "track_running_stats=False", "Or use nn.GroupNorm."
            )
        if any(name in _STATISTICS for name, _ in module.named_buffers(recurse=False)):
            raise ModelError(f"{where} keeps running statistics of the data", "no such buffers", "Use nn.GroupNorm.")
        if getattr(module, "inplace", False):
            raise ModelError(f"{where} works in place, under the hooks", "inplace=False", "Set inplace=False.")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise ModelError(
                f"{where} has padding_mode={module.padding_mode!r}, for which Opacus' gradients are wrong",
                "padding_mode='zeros'",
                "Put nn.ReflectionPad2d or nn.CircularPad2d before a convolution without padding.",
            )
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise ModelError(
                f"{where} draws from the shared random state", "no dropout", "Leave it out; noise regularises already."
            )
        trainable = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
        if trainable and type(module) not in GradSampleModule.GRAD_SAMPLERS:
            supported = sorted(
                {kind.__name__ for kind in GradSampleModule.GRAD_SAMPLERS if kind.__module__[:2] == "to"}
            )
            raise ModelError(
                f"{where} holds parameters {trainable} itself, and Opacus has no per-example gradients for it",
                f"parameters inside {supported}",
                "Build it of these layers.",
            )
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{path}.{name}".lstrip(".")
            if id(parameter) in owners:
                raise ModelError(
                    f"{where} shares parameter {full_name!r} with {owners[id(parameter)]!r}",
                    "a parameter in one place",
                    "Give each layer its own.",
                )
            owners[id(parameter)] = full_name
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("a network without trainable parameters", "at least one", "Unfreeze some, or take another.")


def _check_behaviour(model: nn.Module, image_shape: ImageShape) -> None:
    remedy = "Write a forward pass that computes each image's logits from that image and the weights alone."
    with torch.random.fork_rng(devices=[]):
        try:
            probe = copy.deepcopy(model).to("cpu", torch.float64).train()
            generator = torch.Generator().manual_seed(0)
            images = torch.randn((4, *image_shape), dtype=torch.float64, generator=generator)
            buffers = {name: buffer.clone() for name, buffer in probe.named_buffers()}
            random_state = torch.get_rng_state()
            with torch.no_grad():
                logits, again = probe(images), probe(images)
                alone = torch.cat([probe(image[None]) for image in images])
            # The first call is the reference: a network that changes itself shows in the later ones.
            faults = {
                "draws random numbers": not torch.equal(random_state, torch.get_rng_state()),
                "changes its buffers": any(not torch.equal(b, buffers[name]) for name, b in probe.named_buffers()),
                "does not give one row of logits an image": logits.dim() != 2 or len(logits) != len(images),
                "gives NaN or infinite logits": not bool(torch.isfinite(logits).all()),
                "gives other logits the second time": not torch.equal(logits, again),
                "lets one image's logits depend on the others": not _close(logits, alone, float(logits.abs().max())),
            }
            for fault, found in faults.items():
                if found:
                    raise ModelError(f"the network {fault}", "a pure function of one image", remedy)
            wrong = _wrong_gradients(probe, images)
        except ModelError:
            raise
        except Exception as error:  # foreign code, on dummy data: whatever it raises belongs into the sentence
            raise ModelError(
                f"the network fails on float64 images {[4, *image_shape]} under Opacus hooks: "
                f"{type(error).__name__}: {error}",
                f"images [n, {', '.join(map(str, image_shape))}] of any floating point type to logits [n, classes]",
                "Check the image shape; use no in-place operation (relu_, +=) and no fixed type or batch size.",
            ) from error
    if wrong is not None:
        raise ModelError(
            f"Opacus' per-example gradients of {wrong!r} are wrong or missing", "those of one-image batches", remedy
        )


def _wrong_gradients(probe: nn.Module, images: Tensor) -> str | None:
    """The first parameter whose per-example gradients are not those of one-image batches, if any."""
    parameters = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    targets = torch.arange(len(images)) % probe(images[:1]).shape[1]
    oracle = [
        torch.autograd.grad(
            F.cross_entropy(probe(image[None]), target[None]), list(parameters.values()), materialize_grads=True
        )
        for image, target in zip(images, targets, strict=True)
    ]
    # One scale for all: behind a normalisation a bias has gradient 0 up to rounding, and clipping sees the whole norm.
    scale = max(float(gradient.abs().max()) for gradients in oracle for gradient in gradients)
    hooked = GradSampleModule(probe, loss_reduction="sum")
    # Images that ask for a gradient let the first layer's full backward hook fire as PyTorch means it to.
    torch.autograd.backward(F.cross_entropy(hooked(images.requires_grad_()), targets, reduction="sum"))
    for index, (name, parameter) in enumerate(parameters.items()):
        expected = torch.stack([gradients[index] for gradients in oracle])
        found = getattr(parameter, "grad_sample", None)  # None where the forward pass never used it
        if not isinstance(found, Tensor) or not _close(expected, found, scale):
            return name
    return None


def _close(expected: Tensor, found: Tensor, scale: float) -> bool:
    """Equal up to float64 rounding of numbers as large as `scale`."""
    return expected.shape == found.shape and bool(((found - expected).abs() <= 1e-9 * scale).all())  # NaN: no
