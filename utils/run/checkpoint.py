"""What keeps a run: everything that it needs to continue, and the weights that are worth keeping."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils import UserError
from utils.events import Control
from utils.metrics.meters import val_losses, write_report
from utils.notices import command, counted, forget, note, once, warn
from utils.train.processes import ALONE, World

from . import record
from .checkpoint_file import NotFinite
from .guard import Diverged
from .run import State, monitored


class Checkpoint(Control):
    """Keeps last.pth (everything) and the one before it as previous.pth, best.pth and some epochs' weights; restores
    what last.pth holds, or where that is damaged, previous.pth.

    A file that the disk does not take is a warning: the training continues, and the file that was there before stays.
    Only a training whose very first or very last state cannot be saved ends with an error. Of several processes the
    first one alone writes; the others restore what it has saved.

    Args:
        module: the model, a BasicModule.
        state: the State, saved and restored whole; of its `step` the ema_model is validated, whose weights are those of
            best.pth and of the epochs.
        measures: names of the validation's measures, the most telling first.
        monitor: the number that selects best.pth, or None for the first measure; losses are best low, all else high.
        keep_last: epochs whose weights are kept besides, counted from the last.
        keep_every, keep_from: also keep every k-th epoch's weights, from that epoch on, with the measure in the file's
            name, and a folder with the epoch's report; 0 for none.
        keep_optimizer: whether a finished run keeps last.pth, with which it can be given more epochs.
        save_freq: steps between two saves; 0: only after every epoch, and at the end.
        world: the World.
    """

    def __init__(
        self,
        module: Any,
        state: State,
        measures: Any,
        monitor: str | None,
        keep_last: int,
        keep_every: int,
        keep_from: int,
        save_freq: int,
        keep_optimizer: bool = True,
        world: World = ALONE,
    ):
        self.model, self.state, self.run, self.world, self.writes = module, state, state.run, world, world.main
        self.keep_last, self.keep_every, self.keep_from, self.save_freq = keep_last, keep_every, keep_from, save_freq
        self.keep_optimizer = keep_optimizer
        self.last, self.previous = self.run.folder / "last.pth", self.run.folder / "previous.pth"
        self.saved: tuple[int, int, int] | None = None  # the position that last.pth has
        self.begun: tuple[int, int, int] | None = None  # the position of the run when this program came to it
        self.lost, self.diverged = "", False
        known = [*(f"val_{name}" for name in measures), *(["val_loss"] if module.val_loss else []), "loss"]
        self.monitor = monitored(known, monitor)
        if self.monitor not in known:
            raise UserError(f"--monitor={monitor}: this data set and model give {', '.join(known)}")

    def restore(self) -> None:
        """Restore the run's state from its checkpoint; a new run saves its step 0 instead, which shows now, not after
        the first epoch, when there is no room. Raises UserError where neither checkpoint can be used."""
        exists = self.last.exists() or self.previous.exists()
        if self.writes and exists:
            path, _ = self._load()
            start = f"resuming {self.run.folder}"
            if path == self.previous:
                why = "damaged" if self.last.exists() else "missing"
                start = f"{self.run.folder}: last.pth is {why}: resuming from previous.pth,"
                path.replace(self.last)  # else the next save would replace the sound file by the damaged one
            print(f"{start} after {_words(self.run.position())}")
        elif self.writes:
            self._save_last()
        self.world.all_reduce_max(0)  # from now on the others may read it
        if not self.writes:
            self._load()
            self.state.meters.scores.reset()  # the first process counts for all; losses are everybody's
        self._compare(self.run.step)
        self.begun = self.saved = self.run.position()

    def on_train_summary(self, **_: Any) -> None:
        self.state.guard.check(self.restore_before)  # it may take the weights back to an earlier checkpoint

    def on_batch_end(self, **_: Any) -> None:
        if self.save_freq and self.run.step % self.save_freq == 0:
            self.save()

    def save(self) -> None:
        """Write last.pth after a whole step; of several processes all have to call."""
        self.state.meters.reduce()
        self._try("last.pth", self._save_last)

    def on_epoch_end(self, metrics: dict[str, float], val_meter: Any, **_: Any) -> None:
        if not self.writes:
            return
        if self.monitor not in metrics:  # a measure that the data set has and this model does not
            raise UserError(f"--monitor={self.monitor}: this model gives {', '.join(metrics)}")
        epoch, value, best = self.run.epoch, metrics[self.monitor], self.run.best
        folder, state = self.run.folder, {"metrics": metrics, "info": self.model.info}
        save = functools.partial(self.state.step.ema_model.save, **state)
        if best is None or best != best or (value < best if self.monitor.endswith("loss") else value > best):
            if self._try("best.pth", save, folder / "best.pth"):
                self.run.best = value
        if self.keep_last:
            self._try("epoch_*.pth", save, folder / f"epoch_{epoch:03d}.pth")
            kept = sorted(folder.glob("epoch_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
            for old in [path for path in kept if path.stem.count("_") == 1][: -self.keep_last]:
                self._try(old.name, old.unlink)
        if self.keep_every and epoch >= self.keep_from and epoch % self.keep_every == 0:
            name = f"epoch_{epoch:03d}_{self.monitor}_{value:.4g}"
            self._try("epoch_*.pth", save, folder / f"{name}.pth")
            self._try("report", self._report, val_meter, metrics, folder / name)
        self._try("last.pth", self._save_last)

    def on_train_end(self, finished: bool, error: BaseException | None, **_: Any) -> None:
        position = self.run.position()
        if self.saved is None or self.writes and self.saved == position:  # restored nothing yet: what is there stays
            return
        behind = f"what was done after {_words(self.saved)} is not saved"
        try:
            if not finished:
                self.state.step.rollback()
            if error is None or self.state.meters.reduce_late(position):
                self._save_last()
            else:  # a process was killed, and what it had counted since the last merge is gone
                self.lost = behind
        except Exception as failure:  # what ended the training, a broken GPU say, may also keep it from being saved
            self.lost, self.diverged = f"{_reason(failure)}; {behind}", isinstance(failure, NotFinite)

    def close(self, finished: bool, stopped: bool, error: BaseException | None = None, **_: Any) -> None:
        """Record whether the run is finished, release it, and print how it ended. Raises UserError when the end of a
        finished run could not be saved."""
        if not self.writes:
            return
        diverged = self.diverged or isinstance(error, Diverged)
        with contextlib.suppress(OSError):  # without the mark --resume finds a run with nothing left to do
            if finished and not self.lost:
                self.run.mark("finished")
                self.previous.unlink(missing_ok=True)  # last.pth was read back when it was written
                if not self.keep_optimizer:
                    self.last.unlink(missing_ok=True)
            elif self.saved and not self.run.step and not stopped:
                self.run.mark("failed")  # of no use to --resume: it would fail again
            elif diverged:
                self.run.mark("diverged")
        self.run.close()
        several = [
            word for word in sys.argv if word.startswith(("--processes=", "--gpus="))
        ]  # else one process resumes
        resume = command("train", f"--resume={self.run.folder}", *several)
        if finished and self.lost:
            hint = "the run has diverged, begin a new one with a smaller --lr"
            raise UserError(f"{self.lost}; {hint if diverged else f'fix that, then resume from there: {resume}'}")
        if self.lost:
            warn(self.lost)
        if finished:
            best = "" if self.run.best is None else f", best {self.monitor} {self.run.best:.4g}"
            more = ", a larger --max-epoch trains on" if self.keep_optimizer else ""
            idle = f"; nothing was left to do{more}" if self.begun == self.run.position() else ""
            tqdm.write(f"finished: {self.run.folder}{best}{idle}")
        elif self.saved and self.run.step:
            how = "diverged; to resume it all the same" if diverged else "stopped; to resume"
            tqdm.write(f"{how}: {resume}")

    def restore_before(self, step: int) -> int:
        """Restore what steps change, and nothing else, from the newest checkpoint with `step` steps at most, or else
        from the oldest. Returns how many it has."""
        _, found = self._load(step, only=("optimizer", "step"))
        self._compare(found)  # the first process may change the files only when all have read them
        return found

    def _load(self, step: float = math.inf, only: tuple[str, ...] = ()) -> tuple[Path, int]:
        """Load the model's weights and the state, or `only` these parts of it, from the newer one of last.pth and
        previous.pth that is sound and of at most `step` steps, or else from the older one. Returns (path, its steps).
        Raises UserError when neither can be used, or when one exists and cannot be read: it may be sound, and newer
        than the other."""
        found, errors, info = None, [], self.model.info
        for path in (self.last, self.previous):
            try:
                content = self.model.load(path)
            except UserError as error:
                reason = error.__context__
                if reason is None:  # it is whole, but not what this run can use: another model's, a newer hearth's
                    changed = record.changed_code(self.run.folder)
                    since = f"; since the run's last start this code has changed: {changed}" if changed else ""
                    raise UserError(f"{error}{since}") from None
                if isinstance(reason, (OSError, MemoryError)) and not isinstance(reason, FileNotFoundError):
                    raise UserError(f"{error}; fix that, then --resume continues from there") from None
                errors.append(str(error))
                continue
            missing = vars(self.state).keys() - content.keys()
            if missing:
                raise UserError(
                    f"{self.run.folder} was begun by an older hearth: {path.name} has no {', '.join(missing)}. A new "
                    "run can start from its weights with --load-model-path, without --resume"
                )
            found = path, content
            if content["run"]["step"] <= step:
                break
        if not found:
            raise UserError(
                f"this run cannot be resumed: {'; '.join(errors)}. A new one can start from the weights of "
                f"{self.run.folder / 'best.pth'}, with --load-model-path and without --resume"
            )
        path, content = found
        self.model.info = info  # of now: options may have changed since
        self.state.load_state_dict(content, only)
        return path, content["run"]["step"]

    def _compare(self, step: int) -> None:
        """Raise UserError where not all processes have loaded a state of that many steps."""
        most, least = self.world.all_reduce_max(step), -self.world.all_reduce_max(-step)
        if most != least:
            raise UserError(
                f"the processes find different checkpoints in {self.run.folder}, of {least} and of {most} steps: it "
                "has to be the same folder for all of them"
            )

    def _save_last(self) -> None:
        if self.writes:
            self.model.save(self.last, previous=self.previous, **self.state.state_dict())
            self.saved = self.run.position()

    def _report(self, meter: Any, metrics: dict[str, float], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        try:
            write_report(meter, val_losses(metrics), folder)
        except Exception as error:  # a picture is no reason to end a training
            raise UserError(f"{folder} is not complete: {type(error).__name__}: {error}") from None

    def _try(self, what: str, function: Callable[..., Any], *arguments: Any) -> bool:
        """Call function(*arguments), which writes. Returns whether it could; a failure is a warning, once, and again
        after it worked in between."""
        try:
            function(*arguments)
            if forget(what, owner=self):
                note(f"{what} can be written again")
            return True
        except (OSError, UserError) as error:  # UserError: a weight is not finite
            if once(what, owner=self):
                warn(f"{_reason(error)}; the training continues, what was there stays")
            return False


def _words(position: tuple[int, int, int]) -> str:
    return f"{counted(position[0], 'epoch')} and {counted(position[1], 'batch', 'batches')}"


def _reason(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
