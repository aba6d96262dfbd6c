"""What inversion and membership share: the question about gradients, and the public examples that an attacker knows."""

from __future__ import annotations

from private_distdd.auditing.probe import Probe
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import DataError
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


def check_public(attacked: ImageDataset, public: ImageDataset) -> None:
    """Refuse a public set that tells nothing about what is attacked.

    Raises:
        DataError: it is of another form, or lacks a class.
    """
    if attacked.info != public.info:
        raise DataError(f"a public set of {public.info}", f"{attacked.info}", "Take both from one data set.")
    missing = set(attacked.labels.tolist()) - set(public.labels.tolist())
    if missing:
        raise DataError(
            f"no public examples of classes {sorted(missing)}", "every class attacked", "Their means are needed."
        )
