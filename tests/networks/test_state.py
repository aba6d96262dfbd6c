"""Weights that came from elsewhere: a network's own, or a `ModelError`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from private_distdd.errors import ModelError
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.state import load_state

SPEC = ModelSpec("mlp", {"width": 4, "depth": 1})
State = dict[str, Tensor]


def state(seed: int) -> State:
    return dict(SPEC.build((1, 2, 2), 3, seed).state_dict())


def test_weights_are_loaded_by_name() -> None:
    network = SPEC.build((1, 2, 2), 3, 0)
    sent = dict(reversed(state(1).items()))
    load_state(network, sent)
    assert all(torch.equal(tensor, sent[name]) for name, tensor in network.state_dict().items())
    network.requires_grad_(False)
    next(iter(network.parameters())).add_(1)
    assert all(torch.equal(tensor, sent[name]) for name, tensor in state(1).items())  # a copy, not the sender's own


@pytest.mark.parametrize(
    "change",
    [
        lambda own: {},
        lambda own: own | {"more": torch.ones(1)},
        lambda own: {name: tensor for name, tensor in own.items() if name != "1.bias"},
        lambda own: own | {"1.bias": torch.ones(5)},
        lambda own: own | {"3.weight": own["3.weight"].T.contiguous()},
        lambda own: own | {"1.bias": torch.ones(())},
        lambda own: {f"0/{name}": tensor for name, tensor in own.items()},
    ],
    ids=["none", "one more", "one less", "another length", "turned", "no length", "other names"],
)
def test_what_does_not_fit_is_refused(change: Callable[[State], State]) -> None:
    with pytest.raises(ModelError, match="weights that do not fit the network"):
        load_state(SPEC.build((1, 2, 2), 3, 0), change(state(1)))
