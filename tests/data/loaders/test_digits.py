"""The digits that scikit-learn embeds."""

from __future__ import annotations

import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset


def test_digits_split_is_deterministic_disjoint_and_stratified() -> None:
    train, test = load_dataset("digits")
    again, _ = load_dataset("digits")
    assert torch.equal(train.images, again.images)
    assert train.info == DatasetInfo("digits", 10, (1, 8, 8))
    assert len(train) + len(test) == 1797
    assert 0.24 < len(test) / 1797 < 0.26
    counts, test_counts = train.labels.bincount(), test.labels.bincount()
    assert len(counts) == len(test_counts) == 10
    assert (counts // 3 - test_counts).abs().max() <= 1
    for data in (train, test):  # pixels 0 ... 16, then (pixel / 16 - 0.5) / 0.5
        assert data.images.min() == -1
        assert data.images.max() == 1
    both = torch.cat([train.images, test.images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797  # no two digits are equal, so none is in both parts
    darker, _ = load_dataset("digits", mean=0, std=[1])
    assert torch.allclose(darker.images, train.images / 2 + 0.5)
