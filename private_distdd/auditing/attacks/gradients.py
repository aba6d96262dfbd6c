"""The question that inversion and membership attack: gradients of a network at known weights."""

from __future__ import annotations

from private_distdd.auditing.probe import Probe
from private_distdd.data.info import DatasetInfo
from private_distdd.networks.spec import ModelSpec


def about_gradients(spec: ModelSpec, info: DatasetInfo, granularity: str = "class", seed: int = 0) -> Probe:
    """Gradients of a network of one's choice.

    Args:
        spec: the network.
        info: of those who are asked.
        granularity: summed by "class", or all of them together ("joint").
        seed: of the network's weights.
    """
    state = spec.build(info.shape, info.num_classes, seed=seed).state_dict()
    return Probe("class_gradients", {"model": spec.to_json(), "granularity": granularity}, dict(state))
