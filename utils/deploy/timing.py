"""How long predictions take here."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

ROUNDS, SECONDS = 7, 0.2  # timings at least; small models are timed for as long


def median_times(calls: Sequence[Callable[[Any], Any]], input: torch.Tensor) -> list[float]:
    """The median time in milliseconds of each function of `input`; they take turns, so that what else the machine does
    meets all of them."""
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    while len(times[0]) <= ROUNDS or time.perf_counter() - begin < SECONDS:  # the first is to warm up
        for call, row in zip(calls, times, strict=True):
            start = time.perf_counter()
            call(input)
            if input.is_cuda:
                torch.cuda.synchronize()
            row.append(1000 * (time.perf_counter() - start))
    return [statistics.median(row[1:]) for row in times]
