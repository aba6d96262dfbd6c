"""Names that users may rely on (design.md, section 5): where the house was rebuilt they are where they were."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import private_distdd
from private_distdd.federation import aggregators
from private_distdd.gradients import clipped_class_sums
from private_distdd.privacy.accountants import Bracket, bracket, epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger

TOP = ("CollabDM", "Client", "DistDD", "Privacy", "Release", "SyntheticDataset", "dirichlet_split", "load_dataset")


def parameters(call: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(call).parameters)


@pytest.mark.parametrize("name", [*TOP, "mislabel", "evaluate", "Budget", "Ledger", "DatasetInfo", "register_model"])
def test_the_top_level_has_it(name: str) -> None:
    assert name in private_distdd.__all__
    assert getattr(private_distdd, name).__name__ == name


def test_every_public_name_can_be_had() -> None:
    for name in private_distdd.__all__:
        assert getattr(private_distdd, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = private_distdd.nothing_of_ours


@pytest.mark.parametrize(
    ("call", "first"),
    [
        (private_distdd.Client, ["client_id", "dataset", "ledger"]),
        (private_distdd.dirichlet_split, ["dataset", "num_clients", "alpha"]),
        (private_distdd.DistDD, ["ipc", "rounds"]),
        (private_distdd.CollabDM, ["ipc"]),
        (private_distdd.DistDD.fit, ["self", "clients", "info", "progress"]),
        (private_distdd.Privacy, ["target_epsilon", "noise_multiplier", "delta", "sample_rate", "max_grad_norm"]),
        (clipped_class_sums, ["model", "images", "labels", "num_classes", "max_grad_norm"]),
        (SampledGaussian, ["noise_multiplier", "sample_rate", "count"]),
        (epsilon, ["events", "delta", "accountant"]),
        (bracket, ["events", "delta", "accountant"]),
        (Ledger, ["path", "budget"]),
    ],
)
def test_it_is_called_as_ever(call: Callable[..., Any], first: list[str]) -> None:
    assert parameters(call)[: len(first)] == first


def test_the_rules_are_functions_of_messages() -> None:
    messages = torch.tensor([[0.0], [1.0], [8.0]])
    assert aggregators.mean(messages) == 3.0
    assert aggregators.sum(messages) == 9.0
    assert aggregators.median(messages) == 1.0
    assert aggregators.trimmed_mean(messages, trim=0.34) == 1.0
    assert aggregators.krum(messages, bad=1) == aggregators.multi_krum(messages, bad=1) == 0.5
    assert aggregators.geometric_median(messages).item() == pytest.approx(1.0)
    counts = torch.tensor([[1], [1], [2]])
    assert aggregators.mean(messages[:, None], counts).item() == 9 / 4


def test_the_clipped_sums_are_a_float_tensor_by_class() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    sums = clipped_class_sums(model, torch.randn(5, 1, 2, 2), torch.tensor([0, 0, 1, 1, 1]), 3, 0.5)
    assert (sums.dtype, tuple(sums.shape)) == (torch.float32, (3, 15))
    assert not sums[2].any()
    assert float(sums[0].norm()) <= 2 * 0.5 < float(sums[0].norm()) + 1.0


def test_a_ledger_charges_and_says_what_was_spent() -> None:
    ledger = Ledger(None)
    ledger.charge(SampledGaussian(2.0, 1.0), "run:0")
    assert ledger.events == (SampledGaussian(2.0, 1.0),)
    assert 0 < ledger.epsilon(1e-5, "gdp") <= ledger.epsilon(1e-5, "rdp") < math.inf
    found = bracket(ledger.events, 1e-5, "gdp")
    assert isinstance(found, Bracket)
    assert found.lower <= found.estimate <= found.upper
