"""How well a network tells classes apart, on a test set that may be far from balanced."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

_MATRIX = 1000  # classes up to which a confusion matrix is made


@dataclass(frozen=True)
class Scores:
    """What one network made of one test set.

    Args:
        accuracy: share of the examples that is classified rightly, in [0, 1].
        balanced_accuracy: the same share of each class, and of these the mean over the classes that have test examples,
            in [0, 1].  Where one example in twenty is ill, whoever calls all healthy has an accuracy of 95 % and a
            balanced one of 50 %.
        auc: area under the ROC curve, of each class against the rest, and of these the mean over the classes that some
            test examples have and some have not; in [0, 1].  For two classes it is the usual one.  NaN where there is
            no such class, or a logit is not finite.
        confusion: examples by true class (row) and by the class they were taken for (column); empty where there are
            more than 1,000 classes.
    """

    accuracy: float
    balanced_accuracy: float
    auc: float
    confusion: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        return f"Scores(accuracy {self.accuracy:.1%}, balanced {self.balanced_accuracy:.1%}, AUC {self.auc:.3f})"

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Scores:
        """The scores of logits, float [n, classes], n >= 1, against labels, int64 [n]; both on the CPU."""
        from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score  # heavy

        classes, taken = logits.shape[1], logits.argmax(dim=1)
        true, found, present = labels.numpy(), taken.numpy(), sorted(set(labels.tolist()))
        shares = logits.to(torch.float64).softmax(dim=1).numpy()
        areas = [math.nan]
        if len(present) > 1 and bool(logits.isfinite().all()):
            areas = [float(roc_auc_score(true == label, shares[:, label])) for label in present]
        matrix = confusion_matrix(true, found, labels=range(classes)).tolist() if classes <= _MATRIX else []
        return cls(
            int((taken == labels).sum()) / len(labels),
            float(recall_score(true, found, labels=present, average="macro")),
            statistics.fmean(areas),
            tuple(map(tuple, matrix)),
        )
