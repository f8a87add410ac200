"""The data set contract: what main.py asks of a data set."""

import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset, default_collate

from utils import UserError
from utils.files import write_atomically

from .pack import Decoded, fits, hold

BROKEN_SHARE = 0.05  # more broken samples than this are an error: the data set is not what it should be


class BaseData(Dataset):
    """Samples of one kind. A subclass gives __init__(root, mode, ...), __len__, __getitem__, meter and write_results.

    `mode` is train, val or test. __getitem__ returns (input, target), in test mode (input, id) with a number or text as
    id; items are small and cheap, and the same whenever they are asked for. All options of a run arrive as keyword
    arguments of __init__, which takes those it needs and passes over the rest (**_).

    A subclass may also have __getitems__(indices), which returns a whole batch, a tuple (input, target), at once: that
    is faster than to collate items.

    Attributes:
        task: what is predicted; only models of the same task can be trained on the data.
        classes: list of class names, index = label.
        weights: factor on the loss of each class, float [C], or None.
        broken: paths that could not be read; they are left out of the data set.
        rows: of data sets of pictures, what they are read from (see pack), else None.
        cheap: whether reading a sample costs next to nothing, so that workers would only cost time.
        held: whether `hold` has taken the pictures into the device's memory, where workers cannot read them.
    """

    task = "classification"
    classes = ()
    weights = None
    broken = ()
    rows = None
    held = False

    @property
    def cheap(self):
        return self.rows is not None and not isinstance(self.rows, Decoded)

    def hold(self, device, cache):
        """Take the pictures into the memory of a torch.device, from where they are read from now on: with cache
        "device", with "auto" where it is a GPU that has room, with "none" never."""
        if self.rows is not None and fits(self.rows, device, cache):
            self.rows, self.held = hold(self.rows, device), True

    @staticmethod
    def collate(batch):
        """A list of items -> a batch; what __getitems__ returned, a tuple, is one already."""
        return batch if isinstance(batch, tuple) else default_collate(batch)

    def order(self, generator):
        """The samples of one epoch of training, int64 indices in the order drawn from `generator`; always as many."""
        return torch.randperm(len(self), generator=generator)

    def prepare(self, input, target, generator):
        """A collated batch, already on the device -> what model and criterion eat: (input, target).

        In train mode this is where augmentation is drawn from `generator`, on the device, one draw per sample. Input
        and target go through together, because some augmentations move both (boxes, masks, mixed labels).
        """
        return input, target

    def meter(self):
        """What measures predictions of this data: a torchnet meter (reset, add(prediction, target), value) with also
        summary() -> {measure: number}, the most telling first and all of them from the start (nan), report(folder),
        state_dict, load_state_dict and, for several processes, merge(their state_dicts). In train mode it is given the
        scores of objective, in val mode predictions."""
        raise NotImplementedError

    def draw(self, input, target, prediction):
        """Pictures that show a batch of predictions beside the truth: list of uint8 [3, H, W], here none."""
        return []

    def write_results(self, path, predictions):
        """Write a whole test set's predictions in this data's usual format. `predictions` yields (list of ids,
        model.predict's output) batch by batch, so that one batch at a time needs to be held."""
        raise NotImplementedError


def name_broken(*data_sets, folder=None, consequence="left out"):
    """One warning with the paths of all samples that could not be used, which are also listed in folder/broken.txt."""
    broken = [str(path) for data in data_sets for path in data.broken]
    if broken:
        print(f"warning: {len(broken)} cannot be used, {consequence}: {', '.join(broken)}", file=sys.stderr)
        if folder:
            write_atomically(Path(folder, "broken.txt"), lambda file: file.write("\n".join(broken) + "\n"))


def refuse_broken(*data_sets):
    """Raise UserError when there are no samples, or more than 5 % of them could not be used."""
    broken = [path for data in data_sets for path in data.broken]
    total = len(broken) + sum(len(data) for data in data_sets)
    if len(broken) > BROKEN_SHARE * total:
        raise UserError(
            f"{len(broken)} of {total} samples cannot be used, which is more than 5 %; the first is {broken[0]}: "
            "mend or remove them"
        )
    for data in data_sets:
        if not len(data):
            raise UserError(f"{type(data).__name__} found no samples to train and validate on: check --train-data-root")
