"""What a validation of a classifier leaves, in memory of constant size: enough for all that utils/report.py writes."""

import torch

from .meters import ConfusionMeter

TOP = 5  # with more classes than this, the share of samples whose class is among the first 5 is measured too
WORST = 16  # mistakes that are remembered
LIMIT = 18.0  # bins span probabilities of these logits, -2 LIMIT to LIMIT; float32 has none between sigmoid(17) and 1
BINS, CELLS = 16384, 2**20  # per class, as long as all classes together have no more than CELLS


class ClassMeter(ConfusionMeter):
    """Confusion counts, top-5 hits, histograms of the probabilities, and the most confident mistakes.

    The bins of the histograms are uniform in the logit, so that they are fine where probabilities are close to 0 or 1;
    a probability of exactly 0.5 is the first of its bin. What falls into one bin is taken for equal: areas are those of
    the raw probabilities within 0.001, but of a class of N samples, N below 100, within 1 / N.

    Args:
        classes: list of C class names.
        picture: index, counted in the order of the adds, -> (uint8 [3, H, W], caption), to draw mistakes; or None.
    """

    def __init__(self, classes, picture=None):
        self.picture = picture
        super().__init__(classes)

    def reset(self):
        """Forget everything."""
        super().reset()
        self.bins = max(64, min(BINS, CELLS // self.k)) // 3 * 3  # two thirds of them are below 0.5
        self.seen = 0
        self.sums = {
            "every": torch.zeros(self.k * self.bins, dtype=torch.int64),  # probabilities of class c, of all samples
            "own": torch.zeros(self.k * self.bins, dtype=torch.int64),  # the same, of the samples of class c
            "hits": torch.zeros((), dtype=torch.int64),
            "confidence": torch.full((WORST,), -1.0),  # of the mistakes, falling; -1: not a mistake
            "mistakes": torch.zeros(WORST, 3, dtype=torch.int64),  # index, true class, predicted class
        }

    def add(self, predicted, target):
        """Add a batch: predicted = probabilities [N, C], float32; target = true classes [N] int64."""
        super().add(predicted, target)
        sound = ~predicted.isnan().any(dim=1, keepdim=True)  # [N, 1]
        predicted = predicted.detach().nan_to_num(0.0)  # a model that diverged is wrong, but has to be reported
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
        confidence = torch.where(label == target, -1.0, confidence)
        confidence, kept = torch.cat([self.sums["confidence"], confidence]).topk(WORST)
        mistakes = torch.cat([self.sums["mistakes"], torch.stack([index, target, label], dim=1)])
        self.sums |= {"confidence": confidence, "mistakes": mistakes[kept]}
        self.seen += len(target)

    def summary(self):
        """{"accuracy": ...}, and "top5" of more than 5 classes: percentages; nan before the first sample."""
        summary = super().summary()
        if self.k > TOP:
            summary["top5"] = 100.0 * self.sums["hits"].item() / self.seen if self.seen else float("nan")
        return summary

    def histograms(self):
        """(own, rest, edges): own [C, B] int64 counts the probabilities of class c of its samples, rest [C, B] those of
        all others; edges [B] are the lowest probabilities of the bins."""
        every, own = (self.sums[name].reshape(self.k, self.bins).cpu().numpy() for name in ("every", "own"))
        edges = ((torch.arange(self.bins).double() - self.bins // 3 * 2) * (3 * LIMIT / self.bins)).sigmoid()
        edges[0] = 0.0
        return own, every - own, edges.numpy()

    def mistakes(self):
        """The most confident mistakes, worst first: list of (index in the order of the adds, true class, predicted
        class, confidence)."""
        rows = zip(self.sums["mistakes"].tolist(), self.sums["confidence"].tolist(), strict=True)
        return [(*row, confidence) for row, confidence in rows if confidence >= 0]

    def report(self, folder):
        """Write everything that utils/report.py has to say about the classes into `folder`."""
        from . import report

        super().report(folder)
        if self.seen:
            report.write(self, folder)

    def state_dict(self):
        """What load_state_dict needs to go on counting."""
        return {**super().state_dict(), "seen": self.seen, "sums": self.sums}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        super().load_state_dict(state)
        self.seen, self.sums = state["seen"], dict(state["sums"])

    def merge(self, states):
        """Go on from the state_dict()s of several meters, whose samples follow each other."""
        super().merge(states)
        self.seen = 0
        for state in states:
            state["sums"]["mistakes"][:, 0] += self.seen
            self.seen += state["seen"]
        self.sums = {name: sum(state["sums"][name] for state in states) for name in ("every", "own", "hits")}
        confidence, kept = torch.cat([state["sums"]["confidence"] for state in states]).topk(WORST)
        mistakes = torch.cat([state["sums"]["mistakes"] for state in states])[kept]
        self.sums |= {"confidence": confidence, "mistakes": mistakes}
