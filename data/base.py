"""The data set contract: what main.py asks of a data set."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from utils import UserError


class BaseData(Dataset):
    """Samples of one kind. A subclass defines __init__(root, mode, ...), __len__, __getitem__, meter, write_results.

    `mode` is train, val or test. __getitem__ returns (input, target), in test mode (input, id), where an id is a number
    or text. Items are small, cheap and the same every time. All options of a run arrive as keyword arguments of
    __init__, which takes those it needs and ignores the rest (**_). A subclass may also define __getitems__(indices),
    which returns a whole batch, a tuple (input, target): that is faster than collating items.

    Attributes:
        task: what is predicted; only models of the same task can be trained on the data.
        classes: list of class names, index = label.
        counts: samples of each class that are trained on, where every sample has one class.
        weights: factor on the loss of each class, float [C], or None.
        paths: the samples' files, where they have any; resume compares their names.
        broken: what could not be read, each as `path (reason)`; the data set leaves it out.
        whole_roots: whether a root is taken whole as val_data_root, and in training where there is val_data_root.
        train_sizes: (height, width) of pictures in training, where they are not those of validation.
        no_workers_needed: whether reading a sample costs next to nothing, so that workers would only slow it down.
        preparation: the class that prepares single pictures, see data/pictures/preparation.py; None: it has none.
        cached_on_device: whether all samples are in the device's memory, which workers cannot read.
    """

    task = "classification"
    classes: Sequence[str] = ()
    counts: Sequence[int] = ()
    weights: Sequence[float] | None = None
    broken: Sequence[Any] = ()
    whole_roots = False
    train_sizes: Sequence[tuple[int, int]] = ()
    no_workers_needed = False
    cached_on_device = False
    preparation: Any = None

    def __len__(self) -> int:
        raise NotImplementedError

    def cache_on(self, device: torch.device, cache: str) -> None:
        """Move all samples into the device's memory, if the data set supports it: always with cache "device", with
        "auto" if it is a GPU with enough room, never with "none"."""

    @staticmethod
    def collate(batch: Any) -> Any:
        """A list of items -> a batch. A tuple comes from __getitems__ and is a batch already."""
        return batch if isinstance(batch, tuple) else default_collate(batch)

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """The samples of one training epoch: int64 indices in an order drawn from `generator`, always as many."""
        return torch.randperm(len(self), generator=generator)

    def begin_epoch(self, done: float) -> None:
        """Called before an epoch of training, or before the rest of it, with the share of the training that was done
        when it began, 0 to 1: for what `prepare` changes meanwhile (workers have a copy of the data set); here
        nothing."""

    def prepare(self, input: Any, target: Any, generator: torch.Generator | None) -> tuple[Any, Any]:
        """A collated batch, already on the device -> what model and criterion take: (input, target). In train mode
        augmentation is drawn here from `generator`, on the device, one draw per sample. It gets input and target
        together, because some augmentations change both (boxes, masks, mixed labels)."""
        return input, target

    def meter(self) -> Any:
        """What measures predictions of this data: any class with reset, add(prediction, target), in train mode with the
        scores of `objective`, and summary() -> {measure: number}, the most important one first and all of them from the
        start (nan). It may have value, which val prints, report(folder), which may return more measures, state_dict and
        load_state_dict (else its attributes are saved), and, for several processes, merge(their state_dicts)."""
        raise UserError(f"{type(self).__name__} has no method meter: data/base.py says what it has to do")

    def draw(self, input: Any, target: Any, prediction: Any) -> list[torch.Tensor]:
        """Pictures of a prepared batch, predictions beside the truth, or where prediction is None, in training, the
        truth alone: list of uint8 [3, H, W], here none."""
        return []

    def draw_truth(self, folder: Any) -> None:
        """Write a picture of the truth of all samples into `folder`, once, when a training begins; here none."""

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write a whole test set's predictions in this data's usual format. `predictions` yields (list of ids,
        model.predict's output) batch by batch, so that only one batch has to be in memory."""
        raise UserError(f"{type(self).__name__} has no method write_results: data/base.py says what it has to do")
