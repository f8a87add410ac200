"""The proof that an exported model predicts what its checkpoint predicts, on the validation samples."""

import statistics
import sys
import time
from typing import Any

import torch

from utils.notices import counted
from utils.train.evaluation import measured

LIMIT = 1e-4  # of a probability
BATCHES = 1, 2, 5  # sizes that are tried
REPEATS = 7  # of which the median counts


@torch.inference_mode()
def prove(model: Any, exported: Any, val_data: Any, loader: Any) -> None:
    """Print the largest difference of any probability, the share of equal decisions, both measures and both latencies,
    and end the program with exit code 1 where they differ."""
    meters = {"best.pth": val_data.meter(), "onnx": val_data.meter()}
    largest, equal, total, first = 0.0, 0, 0, None
    for input, target, prediction, _ in measured(model, loader):
        first = input if first is None else first
        other = exported.predict(input)
        difference = (prediction - other).abs()
        largest = max(largest, float(difference.max())) if difference.isfinite().all() else float("inf")
        same = decided(prediction) == decided(other)
        equal, total = equal + int(same.sum()), total + same.numel()
        for meter, one in zip(meters.values(), (prediction, other), strict=True):
            meter.add(one, target)
    assert first is not None  # there are samples: make_data refuses none
    for size in BATCHES:  # in one file
        part = first[:size]
        largest = max(largest, float((model.predict(part) - exported.predict(part)).abs().max()))
    name, value = next(iter(meters["best.pth"].summary().items()))
    other_value = next(iter(meters["onnx"].summary().values()))
    print(
        f"on {counted(len(val_data), 'sample')}: largest difference of a probability {largest:.1e}, "
        f"{100 * equal / max(1, total):.6g} % equal decisions, {name} {value:.4f} -> {other_value:.4f}"
    )
    for part in (first[:1], first):
        before, after = (latency(one, part) for one in (model, exported))
        print(f"batch of {len(part)}: {before:.1f} ms in torch, {after:.1f} ms in ONNX Runtime (median of {REPEATS})")
    if largest > LIMIT or equal < total:
        allowed = f"at most {LIMIT:g} and no other decision is allowed"
        print(f"not written: the exported model differs from the checkpoint; {allowed}", file=sys.stderr)
        sys.exit(1)


def decided(probability: torch.Tensor) -> torch.Tensor:
    """[N, C, ...] -> the most probable class; of one column whether it is above 0.5."""
    return probability.argmax(dim=1) if probability.shape[1] > 1 else probability > 0.5


def latency(model: Any, input: torch.Tensor) -> float:
    """The median time of a prediction, milliseconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.predict(input)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
