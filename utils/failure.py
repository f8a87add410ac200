"""An exception ends the training: which batch it was, and with --pdb a debugger where it happened."""

import sys

from tqdm import tqdm

from . import UserError
from .debug import post_mortem, terminal
from .events import Callback

NAMED = 2  # samples of the failing batch that are named


class Failure(Callback):
    """Names the batch at which an exception ended the training, and opens the debugger there if it is asked to.

    It must be the first of the callbacks: at the prompt nothing is saved or closed yet.

    Args:
        run: the Run, which knows the position.
        train_loader, val_loader: whose batches may fail.
        pdb: whether to open the debugger.
    """

    def __init__(self, run, train_loader, val_loader, pdb):
        self.run, self.train_loader, self.val_loader, self.pdb = run, train_loader, val_loader, pdb
        self.loader = None  # whose batches are under way
        self.trained = self.tested = 0  # batches of the epoch that are done, and samples of the validation

    def on_epoch_begin(self):
        self.loader, self.trained = self.train_loader, self.run.batch

    def on_batch_end(self):
        self.trained = self.run.batch

    def on_test_begin(self):
        self.loader, self.tested = self.val_loader, 0

    def on_test_summary(self, target, **_):
        self.tested += len(target)  # not batches: what does not fit in memory comes in parts

    def on_test_end(self):
        self.loader = None

    def on_train_end(self, error, **_):
        if error is None:
            return
        tested = self.tested // self.val_loader.batch_sampler.batch_size
        batch = self.trained if self.loader is self.train_loader else tested
        # What becomes one line of ours says what is wrong by itself.
        ours = isinstance(error, UserError) or getattr(error, "filename", None)
        if not ours and self.loader and batch < len(self.loader):
            tqdm.write(self._name(batch), file=sys.stderr)
        if self.pdb and not terminal():
            tqdm.write("warning: --pdb: there is no terminal to type at", file=sys.stderr)
        elif self.pdb:
            post_mortem(error)

    def _name(self, batch):
        training = self.loader is self.train_loader
        part = f"(step {self.run.step - self.run.batch + batch + 1})" if training else "of the validation"
        samples = self.loader.batch_sampler.samples(self.run.epoch, batch)
        paths = getattr(self.loader.dataset, "paths", None)
        names = [str(paths[index]) if paths else f"number {index}" for index in samples[:NAMED]]
        more = f", ... and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
        return f"failed in epoch {self.run.epoch + 1}, batch {batch + 1} {part}, samples: {', '.join(names)}{more}"
