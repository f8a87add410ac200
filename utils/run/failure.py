"""An exception ends the work: which batch it was. Of a training the failing step is kept, to be made again by crash.py,
and --pdb opens the debugger where it happened."""

import dataclasses
import json
import sys
import traceback
from typing import Any

from tqdm import tqdm

from utils import UserError
from utils.events import Control
from utils.files import write_atomically
from utils.notices import command, warn
from utils.train.processes import LostProcess, World

from .debugger import post_mortem, terminal
from .guard import Diverged

FILE = "failed_step.json"  # in the run's folder
NAMED = 2  # samples of the failing batch that are named


@dataclasses.dataclass(frozen=True)
class Failed:
    """The step, or the batch of a validation, in which a training failed: plain values, as FILE has them.

    Attributes:
        validation: whether it was a batch of the validation.
        epoch, batch, step: what the run had done before it: epochs, batches of the epoch or validation, steps over all.
        saved: steps that the run had made when it ended, which it then saved.
        skipped: whether it ended because too many steps in a row were not finite: this is the last one of them.
        rank, processes: number of the process that failed, from 0, and how many there were; 0 and 1 where it was
            skipped, because then it is not known which one met the nan.
        seed: of the order of samples, augmentation and dropout.
        batch_size: samples of a whole batch, of all processes.
        device: cpu, cuda or cuda:1, say.
        error, traceback: the exception in words, and the lines that Python prints of it.
        samples, paths: indices of this process's samples, and their files where they have any.
    """

    validation: bool = False
    epoch: int = 0
    batch: int = 0
    step: int = 0
    saved: int = 0
    skipped: bool = False
    rank: int = 0
    processes: int = 1
    seed: int = 0
    batch_size: int = 1
    device: str = "cpu"
    error: str = ""
    traceback: list[str] = dataclasses.field(default_factory=list)
    samples: list[int] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)

    def cause(self) -> str:
        """The error in a line."""
        lines = self.error.splitlines() or [""]
        return lines[-1 if "DataLoader worker" in lines[0] else 0]

    def __str__(self) -> str:
        if self.validation:
            return f"batch {self.batch + 1} of the validation of epoch {self.epoch + 1}"
        return f"step {self.step + 1} (epoch {self.epoch + 1}, batch {self.batch + 1})"


class FailingBatch(Control):
    """Names the batch at which an exception ended val or test.

    Args:
        val_loader: whose batches may fail.
    """

    def __init__(self, val_loader: Any):
        self.loader = self.val_loader = val_loader  # loader: whose batches are under way, or None
        self.tested = 0  # samples: what does not fit in memory comes in parts of batches

    def on_test_begin(self, **_: Any) -> None:
        self.loader, self.tested = self.val_loader, 0

    def on_test_summary(self, target: Any, **_: Any) -> None:
        self.tested += len(target)

    def on_test_end(self, **_: Any) -> None:
        self.loader = None

    def on_train_end(self, error: BaseException | None, **_: Any) -> None:
        if error is not None and not is_ours(error) and self.loader and self._batch() < len(self.loader):
            indices, paths = samples_of(self.loader, self._epoch(), self._batch())
            names = paths or [f"number {index}" for index in indices]
            more = f", ... and {len(names) - NAMED} more" if len(names) > NAMED else ""
            tqdm.write(f"failed in {self._place()}, samples: {', '.join(names[:NAMED])}{more}", file=sys.stderr)

    def _epoch(self) -> int:
        """The epoch that is under way, from 0."""
        return 0

    def _batch(self) -> int:
        """The batch that is under way, from 0."""
        return self.tested // self.val_loader.batch_sampler.batch_size

    def _place(self) -> str:
        """That batch in words."""
        return f"batch {self._batch() + 1}"


class Failure(FailingBatch):
    """The same for a training: its failing step is also kept in FILE, by the process that failed, and the debugger
    opens on request.

    Args:
        state: the State, whose run knows the position.
        world: the World.
        train_loader, val_loader: whose batches may fail.
        pdb: whether to open the debugger.
    """

    def __init__(self, state: Any, world: World, train_loader: Any, val_loader: Any, pdb: bool):
        super().__init__(val_loader)
        self.state, self.run, self.world, self.train_loader, self.pdb = state, state.run, world, train_loader, pdb
        self.loader, self.trained = None, 0  # trained: batches of the epoch that are done

    def on_epoch_begin(self, **_: Any) -> None:
        self.loader, self.trained = self.train_loader, self.run.batch

    def on_batch_end(self, **_: Any) -> None:
        self.trained = self.run.batch

    def on_train_end(self, error: BaseException | None, **facts: Any) -> None:
        super().on_train_end(error=error, **facts)
        if error is not None:
            self.keep(error)
        if error is not None and self.pdb and not terminal():
            warn("--pdb: there is no terminal to type at")
        elif error is not None and self.pdb:
            post_mortem(error)

    def _epoch(self) -> int:
        return self.run.epoch

    def _batch(self) -> int:
        return self.trained if self.loader is self.train_loader else super()._batch()

    def _place(self) -> str:
        training = self.loader is self.train_loader
        part = f"(step {self._step() + 1})" if training else "of the validation"
        return f"epoch {self.run.epoch + 1}, batch {self._batch() + 1} {part}"

    def _step(self) -> int:
        """How many steps were done before the batch that is under way; the run may be done with it, too."""
        return self.run.step - (self.run.batch - self.trained if self.loader is self.train_loader else 0)

    def keep(self, error: BaseException) -> None:
        """Write FILE. That it cannot be written is a warning."""
        failed = self.failed(error)
        path = self.run.folder / FILE
        if failed is None:
            return
        text = json.dumps(dataclasses.asdict(failed), indent=1)
        try:
            write_atomically(path, lambda file: file.write(text))
        except OSError as failure:
            warn(f"{path}: {failure.strerror}; the failing step is not kept")
            return
        if not is_ours(error):
            again = command("train", f"--replay={self.run.folder}", "--step=last")
            tqdm.write(f"to make it again in the debugger: {again}", file=sys.stderr)

    def failed(self, error: BaseException) -> Failed | None:
        """The step in which this error was raised; None where it was none, or another process's."""
        loader, epoch, batch, step = self.loader, self.run.epoch, self._batch(), self._step()
        rank, processes = self.world.rank, self.world.size
        if isinstance(error, Diverged):  # in all processes, whoever met the nan
            loader, step, steps, rank, processes = self.train_loader, error.step, len(self.train_loader), 0, 1
            epoch, batch = divmod(epoch * steps + self.run.batch - (self.run.step - step), steps)
            loader.batch_sampler.share(rank, processes)
        other = isinstance(error, LostProcess) or isinstance(error, Diverged) and not self.world.main
        if other or loader is None or batch >= len(loader):
            return None
        indices, paths = samples_of(loader, epoch, batch)
        return Failed(
            validation=loader is self.val_loader,
            epoch=epoch,
            batch=batch,
            step=step,
            saved=self.run.step,
            skipped=isinstance(error, Diverged),
            rank=rank,
            processes=processes,
            seed=self.train_loader.batch_sampler.seed,
            batch_size=loader.batch_sampler.batch_size,
            device=str(self.state.step.device),
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)).splitlines(),
            samples=indices,
            paths=paths,
        )


def is_ours(error: BaseException) -> bool:
    """Whether it becomes one line of ours, which names the cause by itself."""
    return isinstance(error, UserError) or getattr(error, "filename", None) is not None


def samples_of(loader: Any, epoch: int, batch: int) -> tuple[list[int], list[str]]:
    """(indices, files) of this process's samples in a batch; no files where the data set names none in `paths`."""
    indices = loader.batch_sampler.samples(epoch, batch)
    paths = getattr(loader.dataset, "paths", None)
    return indices, [] if paths is None else [str(paths[index]) for index in indices]
