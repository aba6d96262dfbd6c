"""Data in (`datasets`) and synthetic data out (`synthetic`)."""

from private_distdd.data.datasets import DatasetInfo, ImageDataset, check_labels, from_torch, load_dataset, materialise
from private_distdd.data.synthetic import SyntheticDataset

__all__ = [
    "DatasetInfo",
    "ImageDataset",
    "SyntheticDataset",
    "check_labels",
    "from_torch",
    "load_dataset",
    "materialise",
]
