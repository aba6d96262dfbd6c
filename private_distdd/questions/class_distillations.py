"""The question "class_distillations": examples that a client distilled by itself; only without privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.limits import STEPS, Cost
from private_distdd.matching.means import class_means, match_means
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.questions.arguments import class_counts_of, message_memory, refuse_tensors, require_fields
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.questions.register import register_plain_question
from private_distdd.synthetic.latents import Latents
from private_distdd.synthetic.mosaic import mosaic, require_partition
from private_distdd.validate import require_count, require_number


@register_plain_question("class_distillations")
class LocalDistillations:
    """The question "class_distillations": examples that a client distilled from its own data by itself.

    They start as its real ones (of images, as mosaics), and match its own mean embeddings: the local step of Holland et
    al. 2024.  Only without privacy: the mechanism never saw what they are made of.

    Args:
        arguments: {"embedding": an `EmbeddingSpec` as JSON, "counts": how many examples of each class, "partition",
            "steps", "rate", "smoothness": as for `match_means`, "seed": public, of start and order}.
        tensors: none.
        info: public class list, shape and normalisation.
        device: where it is computed.

    Raises:
        QueryRefusedError, ModelError, ConfigurationError: arguments or tensors are not these, or out of range.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        require_fields(arguments, {"embedding", "counts", "partition", "steps", "rate", "smoothness", "seed"})
        refuse_tensors(tensors)
        self._spec = EmbeddingSpec.from_json(arguments["embedding"])
        self._spec.validate(info)
        require_partition(arguments["partition"], info.shape)
        require_count("steps", arguments["steps"], "200 is usual.", at_most=STEPS)
        require_count("seed", arguments["seed"], "Any whole number from 0 on.", at_least=0, at_most=2**63 - 1)
        for name, least in (("rate", 0.0), ("smoothness", math.nextafter(0, -1))):
            require_number(
                name, arguments[name], least, 1e30, "a number of at most 1e30, not negative", "0.1 is usual."
            )
        self._arguments, self._info, self._device = arguments, info, device
        self.num_groups = sum(class_counts_of(arguments, info))
        self.dimension = int(torch.Size(info.shape).numel())

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most; all steps together count as so many passes over 10,000 examples."""
        spec = EmbeddingSpec.from_json(arguments["embedding"])
        steps = require_count("steps", arguments["steps"], "200 is usual.", at_most=STEPS)
        partition = require_partition(arguments["partition"], info.shape)
        own, parts = spec.cost(info), sum(class_counts_of(arguments, info)) * partition**2
        memory = own.memory * (1 + parts / MICRO_BATCH) + message_memory(parts, math.prod(info.shape))
        work = own.work * (1 + 3 * steps * parts / len(spec.seeds) / 10_000)  # a step is one network's, there and back
        return Cost(memory + message_memory(info.num_classes, spec.dimension), work)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The distilled examples, one a group, in the order of their classes."""
        asked, classes = self._arguments, self._info.num_classes
        rng, parts = np.random.default_rng([asked["seed"], len(asked["counts"])]), asked["partition"] ** 2
        chosen = [
            rng.choice((labels == c).nonzero().squeeze(1).cpu().numpy(), count * parts, replace=True)
            for c, count in enumerate(asked["counts"])
            if count
        ]
        start = mosaic(images[torch.from_numpy(np.concatenate([*chosen, np.empty(0, np.int64)]))], asked["partition"])
        targets = torch.arange(classes).repeat_interleave(torch.tensor(asked["counts"]))
        embeddings = ClassEmbeddings(self._spec, self._info, self._device)
        sums = embeddings.class_sums(images, labels, classes).to(torch.float32)
        latents = Latents(None, self._info, start)
        match_means(
            latents,
            targets.to(start.device),
            embeddings.networks,
            class_means(*embeddings.read(sums)),
            self._info,
            partition=asked["partition"],
            steps=asked["steps"],
            rate=float(asked["rate"]),
            smoothness=float(asked["smoothness"]),
            rng=rng,
        )
        return latents.examples().detach().flatten(1).cpu(), torch.ones(len(start), dtype=torch.int64)
