"""An exception ends the training: which batch it was, and with --pdb a debugger where it happened."""

import sys
from typing import Any

from tqdm import tqdm

from utils import UserError
from utils.events import Control
from utils.notices import warn

from .debugger import post_mortem, terminal

NAMED = 2  # samples of the failing batch that are named


class Failure(Control):
    """Names the batch at which an exception ended the training, and opens the debugger there on request.

    Args:
        run: the Run, which knows the position.
        train_loader, val_loader: whose batches may fail.
        pdb: whether to open the debugger.
    """

    def __init__(self, run: Any, train_loader: Any, val_loader: Any, pdb: bool):
        self.run, self.train_loader, self.val_loader, self.pdb = run, train_loader, val_loader, pdb
        self.loader: Any = None  # whose batches are under way
        self.trained = self.tested = 0  # batches of the epoch that are done, and samples of the validation

    def on_epoch_begin(self, **_: Any) -> None:
        self.loader, self.trained = self.train_loader, self.run.batch

    def on_batch_end(self, **_: Any) -> None:
        self.trained = self.run.batch

    def on_test_begin(self, **_: Any) -> None:
        self.loader, self.tested = self.val_loader, 0

    def on_test_summary(self, target: Any, **_: Any) -> None:
        self.tested += len(target)  # not batches: what does not fit in memory comes in parts

    def on_test_end(self, **_: Any) -> None:
        self.loader = None

    def on_train_end(self, error: BaseException | None, **_: Any) -> None:
        if error is None:
            return
        tested = self.tested // self.val_loader.batch_sampler.batch_size
        batch = self.trained if self.loader is self.train_loader else tested
        # What becomes one line of ours names the cause by itself.
        ours = isinstance(error, UserError) or getattr(error, "filename", None)
        if not ours and self.loader and batch < len(self.loader):
            tqdm.write(self._name(batch), file=sys.stderr)
        if self.pdb and not terminal():
            warn("--pdb: there is no terminal to type at")
        elif self.pdb:
            post_mortem(error)

    def _name(self, batch: int) -> str:
        training = self.loader is self.train_loader
        part = f"(step {self.run.step - self.run.batch + batch + 1})" if training else "of the validation"
        samples = self.loader.batch_sampler.samples(self.run.epoch, batch)
        paths = getattr(self.loader.dataset, "paths", None)
        names = [str(paths[index]) if paths is not None else f"number {index}" for index in samples[:NAMED]]
        more = f", ... and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
        return f"failed in epoch {self.run.epoch + 1}, batch {batch + 1} {part}, samples: {', '.join(names)}{more}"
