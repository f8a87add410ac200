"""Points of the plane, inside or outside a heart."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from utils.files import write_csv
from utils.metrics.meters import ConfusionMeter

from .base import BaseData

POINTS = 100_000
TRAIN_SHARE = 0.7


class Heart(BaseData):
    """100,000 random points of [-2, 2) x [-2, 2); 22,702 of them lie inside, where (x2 + y2 - 1)^3 < x2 y3.

    Items are (point float32 [1, 2], label float32 [1]); the label is 1 inside. train and val share the points 70/30 at
    random; test has all of them, with their numbers as ids. There are no files: `root` is ignored.
    """

    task = "points"
    no_workers_needed = True
    classes = ("outside", "inside")

    def __init__(self, root: Any, mode: str, **_: Any):
        self.mode = mode
        rng = random.Random(123)
        points = [((rng.random() - 0.5) * 4, (rng.random() - 0.5) * 4) for _ in range(POINTS)]
        self.points = torch.tensor(points).unsqueeze(1)  # [N, 1, 2]
        self.labels = torch.tensor([[float(inside(x, y))] for x, y in points])  # [N, 1]
        self.truth = self.points, self.labels
        if mode != "test":
            shuffled = torch.randperm(POINTS, generator=torch.Generator().manual_seed(123))
            cut = round(TRAIN_SHARE * POINTS)
            part = shuffled[:cut] if mode == "train" else shuffled[cut:]
            self.points, self.labels = self.points[part], self.labels[part]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        return self.points[index], index if self.mode == "test" else self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: (points float32 [n, 1, 2], labels float32 [n, 1] or ids int64 [n])."""
        rows = torch.tensor(indices)
        return self.points[rows], rows if self.mode == "test" else self.labels[rows]

    def meter(self) -> "ThresholdMeter":
        """Confusion matrix at the threshold 0.5; for validation also pictures of the points."""
        return ThresholdMeter(self.classes) if self.mode == "train" else PointMeter(self)

    def draw_truth(self, folder: Any) -> None:
        """Write truth.png: all points, of training and validation, with their labels."""
        draw(*self.truth, self.classes, folder / "truth.png", "all points, true labels")

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write a CSV with the header x,y,probability,label and a row per point; the label is 1 above 0.5."""

        def rows() -> Iterator[tuple[Any, ...]]:
            for ids, batch in predictions:
                for id, (share,) in zip(ids, batch.tolist(), strict=True):
                    x, y = self.points[id, 0].tolist()
                    yield f"{x:.6f}", f"{y:.6f}", f"{share:.6f}", int(share > 0.5)

        write_csv(path, ["x", "y", "probability", "label"], rows())


def inside(x: float, y: float) -> bool:
    """Whether a point lies inside the heart curve."""
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 < 0


def draw(points: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], path: Any, title: str) -> None:
    """Write a picture of points [N, 1, 2] with their labels [N, 1], 0 or 1."""
    from utils.metrics import plots  # here: it loads matplotlib

    plots.scatter(points[:, 0].numpy(), labels[:, 0].cpu().numpy() > 0, classes, path, title)


class ThresholdMeter(ConfusionMeter):
    """ConfusionMeter of probabilities [N, 1] of the second class against 0 or 1 [N, 1], at the threshold 0.5."""

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: predicted and target float [N, 1]."""
        super().add(torch.cat([1 - predicted, predicted], dim=1), target.squeeze(1).long())


class PointMeter(ThresholdMeter):
    """ThresholdMeter that gets the points of a Heart in order, and draws them with their labels."""

    def __init__(self, heart: Heart):
        self.heart = heart
        super().__init__(heart.classes)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.batches: list[torch.Tensor] = []

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Add the next points' probabilities and labels, float [N, 1]."""
        super().add(predicted, target)
        self.batches.append(predicted.detach() > 0.5)  # [N, 1]

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue."""
        return {**super().state_dict(), "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.merge([state])

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Continue from the state_dict()s of several meters, whose points follow each other."""
        super().merge(states)
        self.batches = [batch for state in states for batch in state["batches"]]

    def report(self, folder: Any) -> None:
        """Also write labels.png, the validation's points with their predicted labels, and beside it truth.png."""
        super().report(folder)
        labels = torch.cat(self.batches)
        points, title = self.heart.points[: len(labels)], "points of the validation, predicted labels"
        draw(points, labels, self.classes, folder / "labels.png", title)
        if not (folder / "truth.png").exists():  # it is the same for all reports
            self.heart.draw_truth(folder)
