"""scikit-learn's digits: embedded, no download."""

from __future__ import annotations

import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import Constants, DatasetInfo


def load_digits_set(constants: Constants) -> tuple[ImageDataset, ImageDataset]:
    from sklearn.datasets import load_digits  # heavy, and not needed by the other sources

    digits = load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1) / 16  # 0 ... 16 by construction, not by measurement
    labels = torch.from_numpy(digits.target)
    info = DatasetInfo("digits", 10, (1, 8, 8), **constants)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        is_test[(labels == label).nonzero().squeeze(1)[3::4]] = True
    train, test = (ImageDataset(info.normalise(images[part]), labels[part], info) for part in (~is_test, is_test))
    return train, test
