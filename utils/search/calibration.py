"""Calibration: a temperature for probabilities, fitted on predictions that are out of fold."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils import UserError
from utils.files import write_csv
from utils.metrics.class_meter import NEVER_CERTAIN
from utils.notices import counted
from utils.run.members import OUT_OF_FOLD

COLUMNS = "path", "fold", "truth"  # before a probability per class
MASKS = ["path", "fold", "iou"]  # the columns for pictures with masks


def log_loss(probabilities: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean of -log of the true class's probability, as Kaggle scores: [N, C] float, [N] int64."""
    own = probabilities.double().clamp(NEVER_CERTAIN, 1 - NEVER_CERTAIN).gather(1, truth.unsqueeze(1))
    return -own.log().mean().item()


def write(folder: Path, classes: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Write rows (path, fold, true class, probability of each class) to out_of_fold.csv in the folder. Returns their
    log loss by name. Of pictures with masks rows are (path, fold, measure), and the dict is empty."""
    several = len(rows[0]) > 3
    header = [*COLUMNS, *classes] if several else MASKS
    words = ([*row[:3], *(f"{share:.8f}" for share in row[3:])] for row in rows)
    write_csv(folder / OUT_OF_FOLD, header, words)
    return {"log_loss": log_loss(*read(folder, classes))} if several else {}


def read(folder: Path, classes: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, float64 [N, C]; true classes, int64 [N]) of out_of_fold.csv in the folder. Raises UserError."""
    path = folder / OUT_OF_FOLD
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        if header == MASKS:
            raise UserError(f"{path} is about masks, and --calibrate is for classification: leave it out")
        if header != [*COLUMNS, *classes] or not rows:
            raise ValueError(f"its columns are {', '.join(header)}")
        shares = torch.tensor([[float(one) for one in row[3:]] for row in rows], dtype=torch.float64)
        return shares.reshape(len(rows), len(classes)), torch.tensor([[*classes].index(row[2]) for row in rows])
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold out-of-fold probabilities of {', '.join(classes)} ({error}): `python main.py train "
            f"--resume={folder}` writes it again"
        ) from None


def fitted_temperature(folder: Path, classes: Sequence[str]) -> float:
    """The temperature by which the logarithms of a folder's out-of-fold probabilities have to be divided for the least
    log loss; a line says what it changes there. Raises UserError, see `read`."""
    shares, truth = read(folder, classes)
    logits = shares.clamp_min(NEVER_CERTAIN).log()

    def loss(inverse: float) -> float:
        return log_loss((logits * inverse).softmax(dim=1), truth)

    low, high = 0.01, 20.0  # of 1 / temperature, in which the loss is convex
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    print(
        f"temperature {1 / low:.4g}, fitted on {counted(len(truth), 'out-of-fold prediction')}: log loss "
        f"{loss(1.0):.4f} -> {loss(low):.4f}"
    )
    return 1 / low
