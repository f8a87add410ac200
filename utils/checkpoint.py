"""What keeps a run: everything needed to go on with it, and the weights that are worth keeping."""

import math
import shlex
import sys

from tqdm import tqdm

from . import UserError
from .distributed import ALONE
from .events import Callback


class Checkpoint(Callback):
    """Keeps last.pth (everything) and the one before it as previous.pth, best.pth and some epochs' weights; takes up
    what last.pth holds, or where that is damaged, previous.pth.

    A file that the disk does not take is a warning: the training goes on, and the file that was there before stays.
    Only a training whose very first or very last state cannot be saved ends with an error.

    Args:
        run: the Run; its position is part of the state.
        module: the model, a BasicModule.
        parts: {name: object with state_dict and load_state_dict}, saved and restored whole; more may come to them
            before the training begins. `run`, `update`, `train_meter` and `average` are among them; average.module is
            the model that is validated, whose weights are those of best.pth and of the epochs.
        measures: names of the validation's measures, the most telling first.
        monitor: the number that best.pth follows, or None for the first measure; losses are best low, all else high.
        keep_last: how many epochs' weights to keep besides.
        keep_every, keep_from: of every so many epochs, from that one on, also keep the weights, with the measure in the
            file's name, and a folder with the epoch's report; 0 for none.
        save_freq: save everything also after every so many steps; 0: only after every epoch, and at the end.
        world: the World, whose first process this is; the others have a Follower.
    """

    def __init__(self, run, module, parts, measures, monitor, keep_last, keep_every, keep_from, save_freq, world=ALONE):
        self.run, self.model, self.parts, self.world = run, module, parts, world
        self.keep_last, self.keep_every, self.keep_from, self.save_freq = keep_last, keep_every, keep_from, save_freq
        self.last, self.previous = run.folder / "last.pth", run.folder / "previous.pth"
        self.saved, self.failing = None, set()  # the position that last.pth has; the files that could not be written
        known = [*(f"val_{name}" for name in measures), *(["val_loss"] if module.val_loss else []), "loss"]
        self.monitor = monitor or known[0]
        if self.monitor not in known:
            raise UserError(f"--monitor={monitor}: this data set and model give {', '.join(known)}")

    def on_train_begin(self):
        if self.last.exists() or self.previous.exists():
            path, content = self._load()
            for name, part in self.parts.items():
                part.load_state_dict(content[name])
            self.saved, start = self._position(), f"going on with {self.run.folder}"
            if path == self.previous:
                why = "damaged" if self.last.exists() else "missing"
                start = f"{self.run.folder}: last.pth is {why}: going on from previous.pth,"
                path.replace(self.last)  # else the next save would put the damaged file in the place of the sound one
            print(f"{start} after {_words(self.saved)}")
        else:
            self._save_last()  # tells now, not after the first epoch, when there is no room; and --resume has a start
        self.world.agree(0)  # from now on the others may read it
        self._compare(self.run.step)

    def on_batch_end(self):
        if self.save_freq and self.run.step % self.save_freq == 0:
            self.world.merge(self.parts["train_meter"])
            self._try("last.pth", self._save_last)

    def on_epoch_end(self, metrics, val_meter, **_):
        if self.monitor not in metrics:  # of a measure that the data set has and this model does not
            raise UserError(f"--monitor={self.monitor}: this model gives {', '.join(metrics)}")
        epoch, value, best = self.run.epoch, metrics[self.monitor], self.run.best
        if best is None or best != best or (value < best if self.monitor.endswith("loss") else value > best):
            if self._try("best.pth", self._keep, "best", metrics):
                self.run.best = value
        if self.keep_last:
            self._try("epoch_*.pth", self._keep, f"epoch_{epoch:03d}", metrics)
            kept = sorted(self.run.folder.glob("epoch_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
            for old in [path for path in kept if path.stem.count("_") == 1][: -self.keep_last]:
                self._try(old.name, old.unlink)
        if self.keep_every and epoch >= self.keep_from and epoch % self.keep_every == 0:
            name = f"epoch_{epoch:03d}_{self.monitor}_{value:.4g}"
            self._try("epoch_*.pth", self._keep, name, metrics)
            self._try("report", self._report, val_meter, self.run.folder / name)
        self._try("last.pth", self._save_last)

    def on_train_end(self, finished, stopped, error):
        lost, going_on = None, f"python main.py train --resume={shlex.quote(str(self.run.folder))}"
        try:
            if not finished:
                self.parts["update"].abandon()
            # Of several processes that one has failed knows not what the others have counted since the last merge.
            if self.saved != self._position() and (error is None or self.world.size == 1):
                self._save_last()
            elif self.saved != self._position():
                lost = f"what was done after {_words(self.saved)} is not saved"
        except Exception as failure:  # what ended the training, a broken GPU say, may also keep it from being saved
            lost = f"{_reason(failure)}; what was done after {_words(self.saved)} is not saved"
        if finished and not lost:
            self.run.finish()
        elif not self.run.step:
            self.run.finish("failed")  # not of use to --resume either: it would fail again
        self.run.close()
        if finished and lost:
            raise UserError(f"{lost}; once that is mended, to go on from there: {going_on}")
        if lost:
            tqdm.write(f"warning: {lost}", file=sys.stderr)
        if finished:
            best = "" if self.run.best is None else f", best {self.monitor} {self.run.best:.4g}"
            tqdm.write(f"finished: {self.run.folder}{best}")
        elif self.run.step:
            tqdm.write(f"stopped; to go on: {going_on}")

    def restore_before(self, step):
        """Load what steps change, and nothing else, from the newest checkpoint before which there were at most `step`
        of them, or from the oldest. Returns how many there were."""
        _, content = self._load(step)
        self._compare(content["run"]["step"])  # only when all have read them the first process may change the files
        for name in ("optimizer", "update", "average"):
            self.parts[name].load_state_dict(content[name])
        return content["run"]["step"]

    def _load(self, step=math.inf):
        """Load the model's weights from the newer one of last.pth and previous.pth that is sound and of at most `step`
        steps, or else from the older one. Returns (path, content). Raises UserError when neither can be used, or when
        one is there and cannot be read: it may be sound, and newer than the other."""
        found, errors = None, []
        for path in (self.last, self.previous):
            try:
                content = self.model.load(path)
            except ValueError as error:  # a ModelError, which utils/ does not know
                reason = error.__context__
                unread = isinstance(reason, (OSError, MemoryError)) and not isinstance(reason, FileNotFoundError)
                if unread:
                    raise UserError(f"{error}; once that is mended, --resume goes on from there") from None
                errors.append(str(error))
                continue
            missing = self.parts.keys() - content.keys()
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
                f"this run cannot be gone on with: {'; '.join(errors)}. A new one can start from the weights of "
                f"{self.run.folder / 'best.pth'}, with --load-model-path and without --resume"
            )
        return found

    def _compare(self, step):
        """Raise UserError where not all processes have loaded a state of so many steps."""
        most, least = self.world.agree(step), -self.world.agree(-step)
        if most != least:
            raise UserError(
                f"the processes find different checkpoints in {self.run.folder}, of {least} and of {most} steps: it "
                "has to be the same folder for all of them"
            )

    def _save_last(self):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        self.model.save(self.last, previous=self.previous, **state)
        self.saved = self._position()

    def _keep(self, name, metrics):
        self.parts["average"].module.save(self.run.folder / f"{name}.pth", metrics=metrics)

    def _report(self, meter, folder):
        folder.mkdir(exist_ok=True)
        try:
            meter.report(folder)
        except Exception as error:  # a picture is no reason to end a training
            raise ValueError(f"{folder} is not complete: {type(error).__name__}: {error}") from None

    def _try(self, what, function, *arguments):
        """Call function(*arguments), which writes. Returns whether it could; that it could not is told once, and again
        after it could in between."""
        try:
            function(*arguments)
            if what in self.failing:
                tqdm.write(f"{what} can be written again", file=sys.stderr)
            self.failing.discard(what)
            return True
        except (OSError, ValueError) as error:  # ValueError: a weight is not finite
            if what not in self.failing:
                tqdm.write(f"warning: {_reason(error)}; the training goes on, what was there stays", file=sys.stderr)
            self.failing.add(what)
            return False

    def _position(self):
        return self.run.epoch, self.run.batch, self.run.step


class Follower(Checkpoint):
    """Takes up what the first process has saved or taken up itself, and writes nothing."""

    def on_train_begin(self):
        self.world.agree(0)
        _, content = self._load()
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        self._compare(self.run.step)
        self.parts["train_meter"].reset()  # the first process goes on counting for all

    def on_epoch_end(self, **_):
        """Nothing."""

    on_train_end = _save_last = on_epoch_end


def _words(position):
    return "{} epochs and {} batches".format(*position)


def _reason(error):
    return f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else str(error)
