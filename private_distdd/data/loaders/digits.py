"""scikit-learn's digits: embedded, no download."""

from __future__ import annotations

import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import split_off_test


def load_digits_set(wanted: Wanted) -> Loaded:
    """1,797 grey 8 x 8 images; of each class every fourth, in file order, is the test set."""
    from sklearn.datasets import load_digits  # heavy, and not needed by the other sources

    digits = load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1) / 16  # 0 ... 16 by construction, not by measurement
    info = DatasetInfo("digits", 10, (1, 8, 8), classes=(), **wanted.constants)
    return split_off_test(images, torch.from_numpy(digits.target), info)


register_source(Source("'digits'", load_digits_set, published=("digits",)))
