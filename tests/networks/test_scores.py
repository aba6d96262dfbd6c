"""Scores on test sets that are not balanced, against counts by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from private_distdd.networks.scores import Scores


def test_whoever_calls_all_healthy_is_seen_through() -> None:
    labels = torch.tensor([0] * 19 + [1])
    lazy = Scores.of(torch.tensor([[1.0, 0.0]]).repeat(20, 1), labels)
    assert (lazy.accuracy, lazy.balanced_accuracy, lazy.auc) == (0.95, 0.5, 0.5)
    assert lazy.confusion == ((19, 0), (1, 0))
    logits = torch.zeros(20, 2)
    logits[:, 1] = torch.linspace(-3, -1, 20)  # never calls one ill, and yet the one who is has the highest score
    found = Scores.of(logits, labels)
    assert (found.accuracy, found.balanced_accuracy, found.auc) == (0.95, 0.5, 1.0)


def test_areas_are_shares_of_pairs_in_the_right_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((40, 4), generator=generator), torch.randint(3, (40,), generator=generator)
    scores = Scores.of(logits, labels)  # nobody is of class 3
    shares, areas, recalls = logits.double().softmax(1), [], []
    for label in range(3):
        own, others = shares[labels == label, label].tolist(), shares[labels != label, label].tolist()
        areas.append(sum(a > b for a, b in itertools.product(own, others)) / (len(own) * len(others)))
        recalls.append(float((logits.argmax(1)[labels == label] == label).double().mean()))
    assert scores.auc == pytest.approx(sum(areas) / 3)
    assert scores.balanced_accuracy == pytest.approx(sum(recalls) / 3)
    for true, taken in itertools.product(range(4), repeat=2):
        assert scores.confusion[true][taken] == int(((labels == true) & (logits.argmax(1) == taken)).sum())


def test_what_has_no_area_is_not_a_number() -> None:
    assert math.isnan(Scores.of(torch.randn(5, 3), torch.ones(5, dtype=torch.int64)).auc)
    assert math.isnan(Scores.of(torch.full((2, 2), torch.nan), torch.tensor([0, 1])).auc)
    assert Scores.of(torch.zeros(2, 1001), torch.tensor([0, 1000])).confusion == ()
