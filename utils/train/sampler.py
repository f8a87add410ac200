"""The order of samples: a function of (seed, epoch), from any batch on."""

import contextlib
import functools
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from utils import UserError
from utils.notices import counted, note

from .seeds import generator


class ResumableBatchSampler(Sampler):
    """Lists of sample indices, one list a batch; in a new order every epoch, or in the given order when seed is None.

    Nothing depends on the number of workers or on what was drawn before: after `set_position(epoch, batch)` the next
    iteration yields that epoch's batches from there on.

    Of several processes, `size` of them, the one with the number `rank` gets its share: every size-th sample of each
    batch that is drawn, so that a step has batch_size of them over all processes; of samples in order a contiguous
    piece. None comes twice.

    Raises UserError when a batch has fewer samples than there are processes.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int | None = None, rank: int = 0, size: int = 1):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.share(rank, size)
        if seed is not None and min(batch_size, self.length) < size:
            least = f"--batch-size={batch_size}" if batch_size < size else counted(self.length, "training sample")
            raise UserError(f"{least} cannot be shared by {size} processes: each needs one at least")
        self.set_position(0, 0)

    def share(self, rank: int, size: int) -> None:
        """From now on yield the share of process `rank` of `size`."""
        self.rank, self.size = rank, size
        self.length = len(self._epoch(0))

    def set_position(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin with this batch of this epoch."""
        self.epoch, self.batch = epoch, batch

    def samples(self, epoch: int, batch: int) -> list[int]:
        """The indices of one batch, those of this process."""
        return self._batch(self._epoch(epoch), batch)

    def state_dict(self) -> dict[str, Any]:
        """What the order is made from; the position in it is the run's to know."""
        return {"samples": self.length, "names": self._names, "items": self._items}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError when the order of these samples is not the one that the run began with."""
        if state["samples"] != self.length:
            raise UserError(
                f"the run began with {counted(state['samples'], 'training sample')}, now there are {self.length}; a "
                "new run can start from this one's weights with --load-model-path"
            )
        if state["names"] != self._names:
            raise UserError(
                "the training samples are not those that the run began with: files were added, removed or renamed; a "
                "new run can start from this one's weights with --load-model-path"
            )
        began = state.get("items")
        if began and self._items and began != self._items:
            note("the training samples are as many as when the run began, but some have other values")

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.batch_size)
        # A last batch of a single sample per process is left out in training: BatchNorm has no variance to compute.
        alone = rest < 2 * self.size and full > 0 and self.seed is not None
        return full + (rest > 0 and not alone)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._epoch(self.epoch)
        for batch in range(self.batch, len(self)):
            yield self._batch(order, batch)

    @functools.cached_property
    def _names(self) -> str:
        """A checksum of the samples' file names in their order, without the folders, which may move."""
        names = (Path(path).name for path in getattr(self.dataset, "paths", ()))
        return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()

    def _batch(self, order: torch.Tensor, batch: int) -> list[int]:
        share = slice(None) if self.seed is None else slice(self.rank, None, self.size)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size][share].tolist()

    @functools.cached_property
    def _items(self) -> str:
        """A checksum of a few samples that have no file names; "" where they are not the same every time."""
        data, found = self.dataset, ""
        some = [] if getattr(data, "paths", ()) or self.seed is None else {0, len(data) // 2, len(data) - 1}
        drawn = random.getstate(), np.random.get_state()  # the run draws as if these samples had not been read
        with torch.random.fork_rng([]), contextlib.suppress(Exception):  # what fails here fails in its batch, too
            first, second = ([_bytes(data[index]) for index in some] for _ in range(2))
            found = hashlib.sha256(b"".join(first)).hexdigest() if some and first == second else ""
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        return found

    def _epoch(self, epoch: int) -> torch.Tensor:
        if self.seed is None:
            first, end = (len(self.dataset) * rank // self.size for rank in (self.rank, self.rank + 1))
            return torch.arange(first, end)
        return self.dataset.order(generator(self.seed, epoch, "cpu", stream=1))


def _bytes(item: Any) -> bytes:
    """What an item holds in tensors, arrays, numbers and text; nothing else is sure to look the same every time."""
    if isinstance(item, (tuple, list)):
        return b"".join(map(_bytes, item))
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return np.asarray(item.tolist()).tobytes()
    return repr(item).encode() if isinstance(item, (int, float, str)) else b""
