"""What a query may ask: registered statistics of a client's examples, by name.  Never code."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from private_distdd.data.datasets import DatasetInfo
from private_distdd.embeddings import ClassEmbeddings, EmbeddingSpec
from private_distdd.errors import ModelError, PrivateDistDDError, QueryRefusedError
from private_distdd.federation.open_statistics import (
    ClassCounts,
    ClassExamples,
    LocalDistillations,
    message_memory,
    refuse_tensors,
)
from private_distdd.gradients import MICRO_BATCH, PerExampleGradients, sum_gradient
from private_distdd.limits import ComputeLimits, Cost
from private_distdd.models import ModelSpec
from private_distdd.privacy.mechanism import Rows
from private_distdd.storage import to_json

GRANULARITIES = ("class", "joint")
_ACTIVATION = 16  # bytes a value that a layer hands on: kept, differentiated, and unfolded by per-example rules
_USUAL = ComputeLimits()
Made = TypeVar("Made", covariant=True)


class OpenStatistic(Protocol):
    """One registered statistic, made for one query of a run without privacy.

    Attributes:
        num_groups: rows of a message's values; public, the same for all data.
        dimension: columns of a message's values; public, the same for all data.
    """

    num_groups: int
    dimension: int

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sums by group, float32 [num_groups, dimension], and counts int64 [num_groups]."""
        ...


class Statistic(OpenStatistic, Protocol):
    """One that may be asked for with privacy too: it has rows for the mechanism."""

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per example: a row float32 [dimension] that depends on this example alone (A2), and its group.

        Args:
            images: float32 [>= n, C, H, W]; a client hands over 64, padding included, so that memory tells nothing.
            labels: int64 [n], n >= 0; without any, one micro-batch of padding is computed all the same.
        """
        ...

    def probe(self) -> Statistic:
        """The same, but for tensors of the query: public ones instead."""
        ...


class ClassGradients:
    """The registered statistic "class_gradients": gradients of a network at given weights, summed by class.

    Args:
        arguments: {"model": ModelSpec as JSON, "granularity": "class" (one sum a class) or "joint" (one sum in all)}.
        tensors: the network's state, by name.
        info: public class list and image shape.
        device: where the gradients are computed.

    Raises:
        ModelError: the network is not registered, breaks an assumption of the theorem, or the state does not fit.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        spec, self._joint = self._read(arguments)
        self._given = arguments, info, device
        spec.validate(info.image_shape, info.num_classes)
        self._model = spec.build(info.image_shape, info.num_classes)
        try:
            self._model.load_state_dict(dict(tensors))
        except (RuntimeError, TypeError) as error:
            raise ModelError("weights that do not fit the network", "its own state, by name", str(error)) from error
        self._model.to(device)
        self.num_groups = 1 if self._joint else info.num_classes
        self.dimension = sum(p.numel() for p in self._model.parameters() if p.requires_grad)

    @staticmethod
    def _read(arguments: Mapping[str, Any]) -> tuple[ModelSpec, bool]:
        """The network, and whether its gradients are summed over all classes."""
        if set(arguments) != {"model", "granularity"} or arguments["granularity"] not in GRANULARITIES:
            raise ModelError(f"arguments {arguments!r}", f"model, and granularity in {GRANULARITIES}", "Correct them.")
        return ModelSpec.from_json(arguments["model"]), arguments["granularity"] == "joint"

    @classmethod
    def cost(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most."""
        spec, joint = cls._read(arguments)
        size = spec.size(info.image_shape, info.num_classes)
        groups = 1 if joint else info.num_classes
        memory = message_memory(groups, size.parameters) + MICRO_BATCH * _ACTIVATION * size.activations
        return Cost(memory, size.work)

    def probe(self) -> ClassGradients:
        """The same at the weights of seed 0."""
        arguments, info, device = self._given
        public = ModelSpec.from_json(arguments["model"]).build(info.image_shape, info.num_classes, seed=0)
        return ClassGradients(arguments, public.state_dict(), info, device)

    def groups(self, labels: Tensor) -> Tensor:
        """The group each example is summed into, int64 [n]."""
        return torch.zeros_like(labels) if self._joint else labels

    @cached_property
    def _per_example(self) -> PerExampleGradients:
        return PerExampleGradients(self._model)

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per-example gradients with their groups: what the mechanism clips, sums and covers with noise."""
        for rows, targets in self._per_example.rows(images, labels):
            yield rows, self.groups(targets)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by group and their counts; chunk sums are added in float64, so the split moves rounding only."""
        sums = images.new_zeros((self.num_groups, self.dimension), dtype=torch.float64)
        groups = self.groups(labels)
        for group in torch.unique(groups).tolist():
            members = (groups == group).nonzero().squeeze(1)
            for part in torch.split(members, MICRO_BATCH):
                sums[group] += sum_gradient(self._model, images[part], labels[part])
        return sums.to("cpu", torch.float32), torch.bincount(groups, minlength=self.num_groups).cpu()


class EmbeddingSums:
    """The registered statistic "class_embeddings": embeddings of random networks under public seeds, summed by class.

    An example's row holds its embeddings by all networks and has norm 1, so C = 1 clips nothing.

    Args:
        arguments: an `EmbeddingSpec` as JSON.
        tensors: none: seeds define the networks.
        info: public class list, image shape and normalisation.
        device: where the embeddings are computed.

    Raises:
        ModelError, ConfigurationError: the arguments are malformed, or the network breaks an assumption of the theorem.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        refuse_tensors(tensors)
        spec = EmbeddingSpec.from_json(arguments)
        spec.validate(info)
        self._spec, self._given = spec, (info, device)
        self._embeddings = ClassEmbeddings(spec, info, device)
        self.num_groups = info.num_classes
        self.dimension = spec.dimension

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most."""
        spec = EmbeddingSpec.from_json(arguments)
        own = spec.cost(info)
        return Cost(message_memory(info.num_classes, spec.dimension) + own.memory, own.work)

    def probe(self) -> EmbeddingSums:
        """One of its networks, by a public seed: the others have the same sizes."""
        return EmbeddingSums(dataclasses.replace(self._spec, seeds=(0,)).to_json(), {}, *self._given)

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per-example embeddings with their classes: what the mechanism clips, sums and covers with noise."""
        return self._embeddings.padded_rows(images, labels)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by class, added up in float64, and their counts."""
        sums = self._embeddings.class_sums(images, labels, self.num_groups)
        return sums.to("cpu", torch.float32), torch.bincount(labels, minlength=self.num_groups).cpu()


class _Maker(Protocol[Made]):
    """The class of a registered statistic: what makes one for a query."""

    def __call__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str, /
    ) -> Made:
        """Read and check everything that is public; no data enter."""
        ...

    def cost(self, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most, by arithmetic on what the query says; nothing of it is made."""
        ...


STATISTICS: dict[str, _Maker[Statistic]] = {"class_gradients": ClassGradients, "class_embeddings": EmbeddingSums}
OPEN_STATISTICS: dict[str, _Maker[OpenStatistic]] = {
    **STATISTICS,
    "class_examples": ClassExamples,
    "class_distillations": LocalDistillations,
    "class_counts": ClassCounts,
}


_REMEMBERED = 1024
_places_alike: set[str] = set()  # what this process has found to give an example the same bits in every place


def _require_places_alike(
    name: str, arguments: Mapping[str, Any], info: DatasetInfo, device: str, own: Statistic
) -> None:
    """Refuse a statistic whose row of one image depends, in its last bits, on the image's place in its micro-batch.

    Adding an example moves those behind it, so A2 would fail (docs/theorem.md, 4.3).  Some sizes of matrix products do
    that on some machines.  A micro-batch of one public image, and one of 64, are moved by 1, 3 and 17 places; with
    public weights, so that the answer is about the machine and not about the query; once a process.

    Raises:
        ModelError: so it is.
    """
    own_arguments = {key: value for key, value in arguments.items() if key != "seeds"}  # sizes do not depend on them
    settings = {"name": name, "arguments": own_arguments, "info": info.to_json(), "device": device}
    key = to_json({**settings, "threads": torch.get_num_threads(), "precision": torch.get_float32_matmul_precision()})
    if key in _places_alike:
        return
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((MICRO_BATCH, *info.image_shape), generator=generator)
    labels = torch.randint(info.num_classes, (MICRO_BATCH,), generator=generator)
    statistic = own.probe()
    for batch, targets in ((images, labels), (images[:1].expand_as(images), labels[:1].expand_as(labels))):

        def bits(places: int, batch: Tensor = batch, targets: Tensor = targets) -> Tensor:
            moved = (part.roll(places, 0).to(device) for part in (batch, targets))
            return torch.cat([rows for rows, _ in statistic.rows(*moved)]).roll(-places, 0).view(torch.int32)

        still = bits(0)
        alike = torch.equal(still[:1].expand_as(still), still) or batch is images
        if not alike or any(not torch.equal(bits(places), still) for places in (1, 3, 17)):
            raise ModelError(
                f"{name} of this network on this machine: an image's bits depend on its place in the batch",
                "a network whose rows do not",
                "Change its width: powers of two from 8 on were right wherever we looked.",
            )
    if len(_places_alike) >= _REMEMBERED:  # a server may ask for any number of networks
        _places_alike.clear()
    _places_alike.add(key)


def private_statistic(
    name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    limits: ComputeLimits = _USUAL,
) -> Statistic:
    """The statistic that a query under a privacy plan names.

    Raises:
        QueryRefusedError: unknown name, one that exists without privacy only, one that costs more than `limits` allow,
            or one that cannot be prepared.
        ModelError: as the statistic's own, or a row's bits depend on its place (`_require_places_alike`).
    """
    with _own_errors(name):
        statistic = _made(STATISTICS, name, "with", arguments, tensors, info, device, limits)
        _require_places_alike(name, arguments, info, device, statistic)
    return statistic


def open_statistic(
    name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    limits: ComputeLimits = _USUAL,
) -> OpenStatistic:
    """The statistic that a query without privacy names.

    Raises:
        QueryRefusedError: unknown name, one that costs more than `limits` allow, or one that cannot be prepared.
        ModelError, ConfigurationError: as the statistic's own.
    """
    with _own_errors(name):
        return _made(OPEN_STATISTICS, name, "without", arguments, tensors, info, device, limits)


def _made(
    registered: Mapping[str, _Maker[Made]],
    name: str,
    how: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    limits: ComputeLimits,
) -> Made:
    if name not in registered:
        raise QueryRefusedError(
            f"statistic {name!r}, {how} privacy",
            f"one of {sorted(registered)}",
            "Ask for a statistic that the client knows.",
        )
    limits.check(registered[name].cost(arguments, info))
    return registered[name](arguments, tensors, info, device)


@contextlib.contextmanager
def _own_errors(name: str) -> Iterator[None]:
    try:
        yield
    except PrivateDistDDError:
        raise
    except Exception as error:  # anybody's query, and networks of foreign code; no data are involved yet
        raise QueryRefusedError(
            f"a query for {name!r} that cannot be prepared: {type(error).__name__}: {error}",
            "arguments and tensors as the statistic documents them",
            "Correct the query.",
        ) from error
