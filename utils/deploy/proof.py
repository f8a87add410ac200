"""The proof that an exported model predicts what its checkpoint predicts, on the validation samples."""

import sys
from typing import Any

import torch

from utils.notices import counted
from utils.train.evaluation import measured

from .timing import ROUNDS, median_times

LIMIT = 1e-4  # of a probability, with weights of 32 bits; where that holds, only ties are decided otherwise
LOSS = 1.0  # of the first measure, points, with smaller weights
BATCHES = 1, 2, 5  # sizes that are tried


class Row:
    """What is known of one model. largest: difference from the checkpoint's probabilities, equal: of `total` decisions
    those that are the checkpoint's."""

    def __init__(self, name: str, model: Any, meter: Any):
        self.name, self.model, self.meter = name, model, meter
        self.largest, self.equal, self.total = 0.0, 0, 0

    def compare(self, expected: torch.Tensor, found: torch.Tensor) -> None:
        """Count a batch of probabilities [N, C, ...]."""
        difference = (expected - found).abs()
        self.largest = max(self.largest, float(difference.max()) if difference.isfinite().all() else float("inf"))
        same = decided(expected) == decided(found)
        self.equal, self.total = self.equal + int(same.sum()), self.total + same.numel()

    def measure(self) -> tuple[str, float]:
        """The data set's first measure."""
        return next(iter(self.meter.summary().items()))


@torch.inference_mode()
def prove(model: Any, exported: dict[str, Any], val_data: Any, loader: Any) -> None:
    """Print a table of the checkpoint's model and the exported ones: the data set's first measure, the largest
    difference of any probability, the share of equal decisions and two latencies. End the program with exit code 1
    where the first exported one differs, or one with smaller weights, `exported` has it by its option, loses more."""
    first, *others = rows = [
        Row(name, one, val_data.meter()) for name, one in {"checkpoint": model, **exported}.items()
    ]
    start = None
    for input, target, prediction, _ in measured(model, loader):
        start = input if start is None else start
        first.meter.add(prediction, target)
        for row in others:
            found = row.model.predict(input)
            row.compare(prediction, found)
            row.meter.add(found, target)
    assert start is not None  # there are samples: make_data refuses none
    for size in BATCHES:  # in one file
        part = start[torch.arange(size) % len(start)]
        for row in others:
            row.compare(model.predict(part), row.model.predict(part))
    show(rows, start, len(val_data))
    name, before = first.measure()
    if others[0].largest > LIMIT:
        refuse(f"the exported model differs from the checkpoint by more than {LIMIT:g} of a probability")
    for row in others[1:]:
        loss, odd = before - row.measure()[1], " and gives numbers that are not finite" if row.largest > 1 else ""
        if not loss <= LOSS or odd:  # nan, too
            refuse(f"{row.name} loses {loss:.2f} of {name}{odd}, at most {LOSS:g} is allowed: leave it out")


def show(rows: list[Row], input: torch.Tensor, samples: int) -> None:
    """Print the table; the latency is that of one sample and of a batch."""
    name = rows[0].measure()[0]
    parts = input[:1], input
    batches = [f"ms for {len(part)}" for part in parts]
    print(f"on {counted(samples, 'sample')}, times are the median of {ROUNDS} or more:")
    print(f"{'':12}{name:>12}{'largest difference':>20}{'equal decisions':>17}{batches[0]:>12}{batches[1]:>12}")
    times = [median_times([row.model.predict for row in rows], part) for part in parts]
    for row, *latencies in zip(rows, *times, strict=True):
        shares = f"{row.largest:.1e}", f"{100 * row.equal / max(1, row.total):.6g} %"
        difference, equal = shares if row is not rows[0] else ("", "")
        print(
            f"{row.name:12}{row.measure()[1]:12.4f}{difference:>20}{equal:>17}{latencies[0]:12.1f}{latencies[1]:12.1f}"
        )


def refuse(why: str) -> None:
    """End the program with exit code 1."""
    print(f"not written: {why}", file=sys.stderr)
    sys.exit(1)


def decided(probability: torch.Tensor) -> torch.Tensor:
    """[N, C, ...] -> the most probable class; of one column whether it is above 0.5."""
    return probability.argmax(dim=1) if probability.shape[1] > 1 else probability > 0.5
