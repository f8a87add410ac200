"""Intersection over union of the pixels of each class, the measure of segmentation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.files import write_csv

from .meters import ConfusionMeter

UNLABELLED = 255  # pixels of this class are ignored


class IoUMeter(ConfusionMeter):
    """Counts [k, k] of (true class, predicted class) over all labelled pixels, kept on the device.

    The IoU of a class is the number of pixels on which truth and prediction agree, divided by those of either (the
    Jaccard index). It is that of all pictures together, as in PASCAL VOC, not a mean over pictures.
    """

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: predicted = scores or probabilities [N, k, H, W], any float type; target = int64 [N, H, W]."""
        self.check(predicted, target)
        labelled = target != UNLABELLED
        cells = torch.where(labelled, target * self.k, 0) + predicted.detach().argmax(dim=1)
        self.counts = self.counts.to(cells.device)
        # Unlabelled pixels add 0: selecting the others would wait for the device.
        self.counts.index_add_(0, cells.flatten(), labelled.long().flatten())

    def summary(self) -> dict[str, float]:
        """{"iou": mean IoU in % of the classes that occur in truth or prediction, "accuracy": % of right pixels}; nan
        before the first labelled pixel."""
        matrix = self.value()
        occurring = [share for share in iou(matrix) if not math.isnan(share)]
        mean = 100.0 * sum(occurring) / len(occurring) if occurring else float("nan")
        return {"iou": mean, **super().summary()}

    def report(self, folder: Any) -> None:
        """Write iou.csv (a row per class: IoU in %, empty where the class does not occur, and its pixels in truth and
        prediction), confusion.csv and confusion.png in `folder`."""
        from . import plots  # here, not above: it loads matplotlib

        matrix = self.value()
        plots.confusion(matrix, self.classes, folder)
        columns = zip(self.classes, iou(matrix), matrix.sum(axis=1), matrix.sum(axis=0), strict=True)
        rows = (
            [name, f"{100 * share:.2f}" if not math.isnan(share) else "", *pixels] for name, share, *pixels in columns
        )
        write_csv(Path(folder) / "iou.csv", ["class", "iou", "true pixels", "predicted pixels"], rows)


def iou(matrix: np.ndarray) -> list[float]:
    """IoU of each class from a confusion matrix [k, k] -> list of k floats; nan for a class that never occurs."""
    right, either = matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal()
    return [r / e if e else float("nan") for r, e in zip(right.tolist(), either.tolist(), strict=True)]
