"""The check that a row's bits do not depend on its example's place in the micro-batch (A2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import to_json
from private_distdd.errors import ModelError
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.questions.question import Question

_REMEMBERED = 1024
_FEWEST = 4  # examples that are moved: by 1 and by 3 places are different moves
_places_alike: set[str] = set()  # what this process has found to give an example the same bits in every place


def require_places_alike(
    name: str, arguments: Mapping[str, Any], info: DatasetInfo, device: str, own: Question
) -> None:
    """Refuse a question whose row of one example depends, in its last bits, on the example's place in its micro-batch.

    Adding an example moves those behind it, so A2 would fail (docs/theorem.md, 4.3).  Some sizes of matrix products do
    that on some machines: a layer of width 8, say, whose inputs' number is no multiple of 4.  So a micro-batch of one
    public example must have equal rows, and one of different examples is moved by 1, 3 and 17 places; with public
    weights, so that the answer is about the machine and not about the query; once a process.  A question that computes
    a micro-batch in parts says how many examples a part has, as `together`.

    Raises:
        ModelError: so it is.
    """
    own_arguments = {key: value for key, value in arguments.items() if key != "seeds"}  # sizes do not depend on them
    settings = {"name": name, "arguments": own_arguments, "info": info.to_json(), "device": device}
    key = to_json({**settings, "threads": torch.get_num_threads(), "precision": torch.get_float32_matmul_precision()})
    if key in _places_alike:
        return
    # Parts that are computed apart cannot move each other's bits: two of them are enough.
    size = min(MICRO_BATCH, max(_FEWEST, 2 * getattr(own, "together", MICRO_BATCH)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((size, *info.shape), generator=generator)
    labels = torch.randint(info.num_classes, (size,), generator=generator)
    question = own.public()

    def bits(batch: Tensor, targets: Tensor, places: int = 0) -> Tensor:
        rows = question.rows(batch.roll(places, 0).to(device), targets.roll(places, 0).to(device))
        return rows.roll(-places, 0).view(torch.int32)

    one, still = bits(images[:1].expand_as(images), labels[:1].expand_as(labels)), bits(images, labels)
    if not torch.equal(one[:1].expand_as(one), one) or any(
        not torch.equal(bits(images, labels, places), still) for places in (1, 3, 17)
    ):
        raise ModelError(
            f"{name} of this network on this machine: an example's bits depend on its place in the batch",
            "a network whose rows do not",
            "Change its width: powers of two from 16 on were right wherever we looked.",
        )
    if len(_places_alike) >= _REMEMBERED:  # a server may ask for any number of networks
        _places_alike.clear()
    _places_alike.add(key)
