"""IoUMeter, by hand and against scikit-learn."""

import csv
import math

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

from utils.metrics.iou_meter import IoUMeter


def test_iou_by_hand():
    """Truth 0 0 1 1 2 and a 255; predicted 0 1 1 1 0 and a 3: IoU 1/3, 2/3, 0; class 3 occurs nowhere that counts."""
    meter = IoUMeter(["a", "b", "c", "d"])
    assert all(math.isnan(value) for value in meter.summary().values()) and list(meter.summary()) == ["iou", "accuracy"]
    target = torch.tensor([[[0, 0, 1], [1, 2, 255]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 3]]])
    meter.add(F.one_hot(predicted, 4).permute(0, 3, 1, 2).bfloat16(), target)
    assert meter.summary() == {"iou": pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3), "accuracy": pytest.approx(60.0)}
    assert meter.value().tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_iou_agrees_with_scikit_learn(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    meter, truth, predicted = IoUMeter("abcde"), [], []
    for _ in range(3):
        scores = torch.randn(2, 5, 9, 7, generator=generator).to(dtype)
        target = torch.randint(0, 5, (2, 9, 7), generator=generator)
        target[torch.rand(target.shape, generator=generator) < 0.2] = 255
        meter.add(scores, target)
        truth.append(target[target != 255])
        predicted.append(scores.argmax(dim=1)[target != 255])
    truth, predicted = torch.cat(truth), torch.cat(predicted)
    assert meter.summary()["iou"] == pytest.approx(100 * jaccard_score(truth, predicted, average="macro"))
    assert meter.summary()["accuracy"] == pytest.approx(100 * (truth == predicted).double().mean().item())
    again = IoUMeter("abcde")
    again.load_state_dict(meter.state_dict())
    assert again.summary() == meter.summary()
    meter.report(tmp_path)
    with open(tmp_path / "iou.csv", newline="") as file:
        table = [(row["class"], float(row["iou"]), int(row["true pixels"])) for row in csv.DictReader(file)]
    expected = 100 * jaccard_score(truth, predicted, average=None)
    assert [share for _, share, _ in table] == pytest.approx(expected, abs=0.005)
    assert [count for *_, count in table] == torch.bincount(truth).tolist()
    assert (tmp_path / "confusion.csv").exists() and (tmp_path / "confusion.png").exists()
