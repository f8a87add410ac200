"""Counts a classifier's validation in constant memory: enough for everything that report.py writes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .meters import ConfusionMeter

NEVER_CERTAIN = 1e-6  # what `test` writes, and the log loss, keep probabilities this far from 0 and 1
TOP = 5  # with more classes than this, top-5 accuracy is measured too
WORST = 16  # mistakes that are kept
LIMIT = 18.0  # bins span probabilities of these logits, -2 LIMIT to LIMIT; float32 has none between sigmoid(17) and 1
BINS, CELLS = 16384, 2**20  # per class, as long as all classes together have no more than CELLS


class ClassMeter(ConfusionMeter):
    """Confusion counts, top-5 hits, histograms of the probabilities, and the most confident mistakes.

    The bins of the histograms are uniform in the logit, so that they are fine where probabilities are close to 0 or 1;
    a probability of exactly 0.5 is the first of its bin. Probabilities in one bin count as equal: areas differ from
    those of the raw probabilities by up to 0.001, for a class of N < 100 samples by up to 1 / N.

    Args:
        classes: list of C class names.
        picture: index in the order of the adds -> (uint8 [3, H, W], caption), to draw mistakes; or None.
    """

    def __init__(self, classes: Any, picture: Callable[[int], tuple[torch.Tensor, str]] | None = None):
        self.picture = picture
        super().__init__(classes)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.bins = max(64, min(BINS, CELLS // self.k)) // 3 * 3  # two thirds of them are below 0.5
        self.seen = 0
        self.sums = {
            "every": torch.zeros(self.k * self.bins, dtype=torch.int64),  # probabilities of class c, of all samples
            "own": torch.zeros(self.k * self.bins, dtype=torch.int64),  # the same, of the samples of class c
            "hits": torch.zeros((), dtype=torch.int64),
            "confidence": torch.full((WORST,), -1.0),  # of the mistakes, descending; -1: not a mistake
            "mistakes": torch.zeros(WORST, 3, dtype=torch.int64),  # index, true class, predicted class
        }

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: predicted = probabilities [N, C], float32; target = true classes [N] int64."""
        super().add(predicted, target)
        sound = ~predicted.isnan().any(dim=1, keepdim=True)  # [N, 1]
        predicted = predicted.detach().nan_to_num(0.0)  # nan counts as wrong, but must not break the report
        self.sums = {name: value.to(predicted.device) for name, value in self.sums.items()}
        own = target.unsqueeze(1)  # [N, 1]

        cells = predicted.logit(eps=1e-16) * (self.bins / (3 * LIMIT)) + self.bins // 3 * 2
        cells = cells.clamp_(0, self.bins - 1).long() + torch.arange(self.k, device=cells.device) * self.bins  # [N, C]
        for name, chosen in (("every", cells.flatten()), ("own", cells.gather(1, own).flatten())):
            self.sums[name].index_add_(0, chosen, torch.ones_like(chosen))
        if self.k > TOP:
            self.sums["hits"] += (sound & (predicted.topk(TOP, dim=1).indices == own)).sum()

        confidence, label = predicted.max(dim=1)
        index = torch.arange(self.seen, self.seen + len(target), device=target.device)
        batch = {
            "confidence": torch.where(label == target, -1.0, confidence),
            "mistakes": torch.stack([index, target, label], dim=1),
        }
        self.sums |= worst(self.sums, batch)
        self.seen += len(target)

    def summary(self) -> dict[str, float]:
        """{"accuracy": ...}, and "top5" of more than 5 classes: percentages; nan before the first sample."""
        summary = super().summary()
        if self.k > TOP:
            summary["top5"] = 100.0 * self.sums["hits"].item() / self.seen if self.seen else float("nan")
        return summary

    def histograms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(own, rest, edges): own [C, B] int64 counts the probabilities of class c in its own samples, rest [C, B] in
        all others; edges [B] are the lowest probabilities of the bins."""
        every, own = (self.sums[name].reshape(self.k, self.bins).cpu().numpy() for name in ("every", "own"))
        edges = ((torch.arange(self.bins).double() - self.bins // 3 * 2) * (3 * LIMIT / self.bins)).sigmoid()
        edges[0] = 0.0
        return own, every - own, edges.numpy()

    def mistakes(self) -> list[tuple[Any, ...]]:
        """The most confident mistakes, worst first: list of (index in the order of the adds, true class, predicted
        class, confidence)."""
        rows = zip(self.sums["mistakes"].tolist(), self.sums["confidence"].tolist(), strict=True)
        return [(*row, confidence) for row, confidence in rows if confidence >= 0]

    def report(self, folder: Any) -> dict[str, float]:
        """Write everything that report.py reports about the classes into `folder`; returns their means by name."""
        from . import report

        super().report(folder)
        return report.write(self, folder) if self.seen else {}

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue counting."""
        return {**super().state_dict(), "seen": self.seen, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        super().load_state_dict(state)
        self.seen, self.sums = state["seen"], dict(state["sums"])

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Continue from the state_dict()s of several meters, whose samples follow each other."""
        super().merge(states)
        self.seen = 0
        for state in states:
            state["sums"]["mistakes"][:, 0] += self.seen
            self.seen += state["seen"]
        self.sums = {name: sum(state["sums"][name] for state in states) for name in ("every", "own", "hits")}
        self.sums |= worst(*(state["sums"] for state in states))


def worst(*parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The most confident mistakes of several parts, each with "confidence" [n] and "mistakes" [n, 3]."""
    confidence, kept = torch.cat([part["confidence"] for part in parts]).topk(WORST)
    return {"confidence": confidence, "mistakes": torch.cat([part["mistakes"] for part in parts])[kept]}
