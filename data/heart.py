"""Points of the plane, inside or outside of a heart."""

import random

import torch

from utils.files import write_csv
from utils.meters import ConfusionMeter

from .base import BaseData

POINTS = 100_000
TRAIN_SHARE = 0.7


class Heart(BaseData):
    """100,000 random points of [-2, 2) x [-2, 2); 22,702 of them lie inside, where (x2 + y2 - 1)^3 < x2 y3.

    Items are (point float32 [1, 2], label float32 [1]), the label 1 inside. train and val share the points 70/30 at
    random; test has all of them, with their number as id. There are no files: `root` is not looked at.
    """

    task = "points"
    cheap = True
    classes = ("outside", "inside")

    def __init__(self, root, mode, **_):
        self.mode = mode
        rng = random.Random(123)
        points = [((rng.random() - 0.5) * 4, (rng.random() - 0.5) * 4) for _ in range(POINTS)]
        self.points = torch.tensor(points).unsqueeze(1)  # [N, 1, 2]
        self.labels = torch.tensor([[float(inside(x, y))] for x, y in points])  # [N, 1]
        if mode != "test":
            shuffled = torch.randperm(POINTS, generator=torch.Generator().manual_seed(123))
            cut = round(TRAIN_SHARE * POINTS)
            part = shuffled[:cut] if mode == "train" else shuffled[cut:]
            self.points, self.labels = self.points[part], self.labels[part]

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], index if self.mode == "test" else self.labels[index]

    def __getitems__(self, indices):
        """A batch: (points float32 [n, 1, 2], labels float32 [n, 1] or ids int64 [n])."""
        indices = torch.tensor(indices)
        return self.points[indices], indices if self.mode == "test" else self.labels[indices]

    def meter(self):
        """Confusion matrix at the threshold 0.5; of validation with pictures of the points."""
        return ThresholdMeter(self.classes) if self.mode == "train" else PointMeter(self.classes, self.points)

    def write_results(self, path, predictions):
        """A CSV with the header x,y,probability,label and a row per point, the label 1 for over 0.5."""

        def rows():
            for ids, batch in predictions:
                for id, (share,) in zip(ids, batch.tolist(), strict=True):
                    x, y = self.points[id, 0].tolist()
                    yield f"{x:.6f}", f"{y:.6f}", f"{share:.6f}", int(share > 0.5)

        write_csv(path, ["x", "y", "probability", "label"], rows())


def inside(x, y):
    """Whether a point lies inside of the heart curve."""
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 < 0


class ThresholdMeter(ConfusionMeter):
    """ConfusionMeter of probabilities [N, 1] of the second class against 0 or 1 [N, 1]; over 0.5 is the second."""

    def add(self, predicted, target):
        """Add a batch: predicted and target float [N, 1]."""
        super().add(torch.cat([1 - predicted, predicted], dim=1), target.squeeze(1).long())


class PointMeter(ThresholdMeter):
    """ThresholdMeter that is given the points [N, 1, 2] in their order, and draws how they were labelled."""

    def __init__(self, classes, points):
        self.points = points.squeeze(1)
        super().__init__(classes)

    def reset(self):
        """Forget everything."""
        super().reset()
        self.batches = []

    def add(self, predicted, target):
        """Add the next points' probabilities and labels, float [N, 1]."""
        super().add(predicted, target)
        self.batches.append(torch.cat([target, predicted], dim=1).detach() > 0.5)  # [N, 2]

    def state_dict(self):
        """What load_state_dict needs to go on."""
        return {**super().state_dict(), "batches": self.batches}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        super().load_state_dict(state)
        self.batches = list(state["batches"])

    def merge(self, states):
        """Go on from the state_dict()s of several meters, whose points follow each other."""
        super().merge(states)
        self.batches = [batch for state in states for batch in state["batches"]]

    def report(self, folder):
        """Also truth.png and labels.png: the points with their true and their predicted labels."""
        from utils import plots

        super().report(folder)
        truth, labels = torch.cat(self.batches).cpu().numpy().T
        for name, inside in (("truth", truth), ("labels", labels)):
            plots.scatter(self.points[: len(inside)].numpy(), inside, self.classes, folder / f"{name}.png")
