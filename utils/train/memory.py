"""Memory that runs out: batches go through the model in smaller parts, and validation takes as many as fit."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from utils import UserError
from utils.notices import counted, note, once, warn

from .device import device_of, one_batch, undisturbed
from .machine import NO_MEMORY

MEASURED = 8  # samples whose memory is measured: more of them take proportionally more


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in NO_MEMORY)


class Splitter:
    """Divides batches into parts that fit in memory: all at once at first, twice as many parts where memory ran out.

        for part in splitter.split(len(input)):
            with splitter.attempt():
                work(input[part])

    Args:
        parts: parts of a batch, as equal as they can be. Where batches are not restarted, samples at a time are
            remembered instead, because batches differ in size.
        least: samples that a part has at least.
    """

    def __init__(self, parts: int = 1, least: int = 1):
        self.parts, self.least = parts, least
        self.failure, self.most = "", 0  # most: samples at a time that fit, where more did not

    def split(self, size: int, restart: Callable[[], None] | None = None) -> Iterator[slice]:
        """Yield slices that cover a batch of `size` samples, in order.

        After running out of memory it continues with the first sample that is not done, or, when `restart` is given,
        calls that and begins the batch again. Raises UserError where no smaller parts are possible.
        """
        self._report_cut(size)
        start = 0
        while start < size:
            parts = max(self.parts, -(-size // self.most) if self.most else 1)
            count = max(1, min(parts, size // self.least))
            end = next(size * part // count for part in range(1, count + 1) if size * part // count > start)
            yield slice(start, end)
            if not self.failure:
                start = end
                continue
            if restart:
                restart()
                start = 0
            self._shrink(size, count, restarts=restart is not None)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """The block computes a part; running out of memory ends it, and nothing else."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.failure = repr(error)  # `split` does the rest: here the error still holds what filled the memory

    def _report_cut(self, size: int) -> None:
        """A note, at the first batch (the last one may be smaller), where it cannot be divided as --accumulate says."""
        count = max(1, size // self.least)
        if once("first batch", owner=self) and self.parts > count:
            note(
                f"--accumulate={self.parts} is more than a batch of {counted(size, 'sample')} allows: it is divided "
                f"into {count}, because each part needs {counted(self.least, 'sample')}"
            )

    def _shrink(self, size: int, count: int, restarts: bool) -> None:
        reason, self.failure = self.failure, ""
        gc.collect()  # an error's frames may form a cycle
        torch.cuda.empty_cache()  # nothing where CUDA is not used
        largest, parts = counted(-(-size // count), "sample"), min(2 * count, size // self.least)
        if parts <= count:
            raise UserError(
                f"out of memory with {largest} at a time, and fewer are not possible: take smaller pictures "
                f"(--image-size) or another --model, or stop what else uses this memory ({reason})"
            )
        smaller = -(-size // parts)
        if restarts:
            self.parts, option = parts, f"--accumulate={parts}, the batch stays the same"
        else:
            self.most, option = smaller, f"--val-batch-size={smaller}"
        warn(f"out of memory with {largest} at a time: retrying with {smaller} ({option})")


splitter = Splitter()  # for batches without gradients; what it learned about this process's memory stays


def in_parts(function: Callable[..., Any], input: Any, target: Any) -> Iterator[Any]:
    """Yield function(input, target) of the whole batch, or of parts of it that fit in memory."""
    for part in splitter.split(len(target)):
        results: list[Any] = []  # stays empty where the part does not fit
        with splitter.attempt():
            results.append(function(input[part], target[part]))
        yield from results


def largest_batch(model: Any, dataset: Any, batch_size: int) -> int:
    """How many samples to validate at once: on a GPU as many as a quarter of its free memory holds, 2, 4 or 8 times
    batch_size; on a CPU batch_size: there eight times as many are a tenth faster at best (benchmarks/val_batch.py)."""
    device, size = device_of(model), min(batch_size, len(dataset), MEASURED)
    if device.type != "cuda" or not size:
        return batch_size
    with undisturbed(model), torch.no_grad():
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        input, _ = one_batch(dataset, range(size), device)
        with model.autocast():
            model.predict(input)
        each = (torch.cuda.max_memory_allocated(device) - before) / size
    room = torch.cuda.mem_get_info(device)[0] / 4
    return batch_size * max(times for times in (1, 2, 4, 8) if times == 1 or times * batch_size * each <= room)
