"""`train --replay=RUN --step=last` makes the step in which a run failed once more, with everything as it was.

It is a training like any other, of a copy of the run in a temporary folder, which begins from the run's checkpoint and
ends after that step; only Replay takes the place of Failure. Nothing is written in the run's own folder.
"""

import atexit
import contextlib
import json
import re
import shutil
import sys
import tempfile
from bdb import BdbQuit
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils import UserError
from utils.events import Finished
from utils.files import private_folder
from utils.notices import note, note_once
from utils.options.options import read_yaml
from utils.train.processes import World

from .checkpoint import Checkpoint
from .checkpoint_file import read_checkpoint
from .debugger import caller, open_prompt, terminal
from .failure import FILE, Failed, Failure, samples_of
from .run import in_training
from .terminal import Here

CUDA = re.compile(r"CUDA error|cuDNN|cuBLAS|cuSOLVER|cuFFT|NCCL|device-side", re.IGNORECASE)  # clearer on the CPU


def read_failed(folder: Path) -> Failed:
    """The failed step that a run's folder has. Raises UserError where it has none, and where its file is damaged."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"--replay={folder}: no step of this run has failed, it has no {FILE}: leave --step out")
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        failed = Failed(**json.loads(path.read_text("utf-8")))
        kinds = {name: type(value) for name, value in vars(Failed()).items()}
        numbers = failed.epoch, failed.batch, failed.step, failed.rank, failed.processes - 1 - failed.rank
        sound = all(type(value) is kinds[name] for name, value in vars(failed).items()) and min(numbers) >= 0
        if sound and failed.batch_size > 0 and all(isinstance(path, str) for path in failed.paths):
            return failed
    raise UserError(f"{path} is damaged: resume the run; where the step fails again, the file is written again")


def checkpoint_before(folder: Path, failed: Failed, names: tuple[str, ...]) -> Path:
    """The newest of a run's checkpoints, by these names, from which the failed step can be made exactly. Raises
    UserError where there is none."""
    reasons = []
    for name in names:
        try:
            run = read_checkpoint(folder / name)["run"]
            stands = run["epoch"], run["step"]
        except (UserError, LookupError, TypeError) as error:
            reasons.append(str(error) if isinstance(error, UserError) else f"{name} is no checkpoint of a run")
            continue
        # A skipped step leaves no trace: the state after it is that before it.
        after = failed.skipped and stands[1] == failed.saved == failed.step + 1
        if after or stands <= (failed.epoch, failed.step):
            if failed.processes == 1 or stands[1] >= failed.step:
                return folder / name
            reasons.append(f"{name} is of step {stands[1]}, and from there all {failed.processes} processes are needed")
        else:
            reasons.append(f"{name} is of epoch {stands[0] + 1}, step {stands[1]}, which is later")
    raise UserError(f"{failed} of {folder} cannot be made again: {'; '.join(reasons)}")


def prepare(opt: Any, folder: Path, checkpoints: tuple[str, ...]) -> Any:
    """The options with which a training makes the failed step of the run in `folder` again, as a copy of that run.

    Args:
        opt: the run's options, a DefaultConfig, with what is given now on top.
        checkpoints: names of the run's checkpoints, the newer one first.

    Raises UserError for a run without a failed step, one that is being trained, and one that has gone on since.
    """
    if in_training(folder):
        raise UserError(f"--replay={folder}: this run is being trained: wait for it, or stop it first")
    failed = read_failed(folder)
    source = checkpoint_before(folder, failed, checkpoints)
    copy = Path(tempfile.mkdtemp(prefix=f"{folder.name}_", dir=private_folder()))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    (copy / "last.pth").symlink_to(source.resolve())
    note(f"{failed} of {folder} is made again in {copy}, which is removed afterwards; {folder} stays as it is")
    own = [name for name in opt.callbacks if "." in name]  # a user's may change the model; ours only watch
    values = {"callbacks": own, "num_workers": 0, "steer": False, "env": None}
    if failed.device.startswith("cuda") and CUDA.search(failed.error):
        note("a CUDA error says little: the step is made on the CPU (--use-gpu=True: on the GPU)")
        values["use_gpu"] = False
    opt.assign(**{name: value for name, value in values.items() if name not in opt.explicit})
    opt.assign(resume=str(copy), replay=str(folder))
    return opt


class Replay(Failure):
    """Makes the failed step of the run opt.replay again: what that process did, in this one. At a terminal the debugger
    opens in the loop's frame right before the step, and where it fails again, in the frame that raised it. Ends the
    training after the step. Nothing is saved.

    Args:
        checkpoint: the Checkpoint of the copy.
        opt: the options.
        world, train_loader, val_loader: as for Failure.
    """

    def __init__(self, checkpoint: Checkpoint, opt: Any, world: World, train_loader: Any, val_loader: Any):
        super().__init__(checkpoint.state, world, train_loader, val_loader, pdb=terminal())
        self.checkpoint, self.source, self.old = checkpoint, Path(opt.replay), read_failed(Path(opt.replay))
        self.reached = False
        for loader in (self.train_loader, self.val_loader):
            loader.batch_sampler.share(self.old.rank, self.old.processes)
        if self.old.validation:
            self.val_loader.batch_sampler.batch_size = self.old.batch_size  # it depends on the free memory

    def on_train_begin(self, **_: Any) -> None:
        self.checkpoint.writes = False
        if self.run.step > self.old.step:  # it was skipped
            self.run.epoch, self.run.batch, self.run.step = self.old.epoch, self.old.batch, self.old.step
        loader = self.val_loader if self.old.validation else self.train_loader
        samples, paths = samples_of(loader, self.old.epoch, self.old.batch)
        names = [[Path(path).name for path in these] for these in (paths, self.old.paths)]
        if samples != self.old.samples or names[0] != names[1]:
            raise UserError(
                f"{self.old} had other samples: {', '.join(self.old.paths)}; files were added, removed or renamed since"
            )

    def on_epoch_begin(self, **_: Any) -> None:
        super().on_epoch_begin()  # config.yaml is written by now
        changes = changed(self.source, self.run.folder)
        if self.old.device != str(self.state.step.device):
            changes.append(f"device {self.old.device} -> {self.state.step.device}")
        if changes:
            note_once(f"changed since that run: {', '.join(changes)}")

    def on_batch_begin(self, **_: Any) -> None:
        if not self.old.validation and self.run.step == self.old.step:
            self.stop()

    def on_batch_end(self, **_: Any) -> None:
        if not self.old.validation and self.run.step > self.old.step:
            if self.state.step.was_skipped:
                losses = ", ".join(f"{name} {value.item():.4g}" for name, value in self.state.step.losses.items())
                raise UserError(f"step {self.run.step} is skipped: its loss or a gradient is not finite: {losses}")
            self.end()
        super().on_batch_end()

    def on_test_begin(self, **_: Any) -> None:
        super().on_test_begin()
        self.look(0)

    def on_test_summary(self, target: Any, **_: Any) -> None:
        super().on_test_summary(target=target)
        self.look(self.tested)

    def look(self, tested: int) -> None:
        """Stop before the batch of the validation that failed, and end behind it."""
        sampler = self.val_loader.batch_sampler
        if self.old.validation and (self.run.epoch, self.run.step) == (self.old.epoch, self.old.step):
            if tested >= min((self.old.batch + 1) * sampler.batch_size, sampler.length):
                self.end()
            if tested >= self.old.batch * sampler.batch_size and not self.reached:
                self.stop()

    def stop(self) -> None:
        """Open the debugger in the loop, where somebody can type."""
        self.reached = True
        if terminal():
            open_prompt(caller(), self.leave, Here(f"before {self.old}: h help, n next line, c make it, q leave"))

    def leave(self) -> None:
        """Quit at once: there is nothing to save."""
        raise BdbQuit

    def end(self) -> None:
        """The step is made: say so, and end the training."""
        tqdm.write(f"{self.old} did not fail again; before: {self.old.cause()}")
        raise Finished

    def keep(self, error: BaseException) -> None:
        """Say whether it failed as before."""
        new, old = self.failed(error), self.old
        if new is None or (new.validation, new.epoch, new.batch, new.step) != (
            old.validation,
            old.epoch,
            old.batch,
            old.step,
        ):
            verdict = "is not what failed this time"
        elif new.error in old.error or old.skipped:  # a worker's error is longer
            verdict = "failed again, as before"
        else:
            verdict = f"failed again, in another way; before: {old.cause()}"
        tqdm.write(f"{old} {verdict}", file=sys.stderr)


def changed(old: Path, new: Path) -> list[str]:
    """In which code and packages the last starts of two runs differ, as far as their folders tell."""
    changes: list[str] = []
    with contextlib.suppress(UserError, OSError, LookupError, TypeError, AttributeError):
        (start, files), (now, others) = last_start(old), last_start(new)
        if start["git_commit"] != now["git_commit"]:
            changes.append("commit " + " -> ".join(str(one["git_commit"])[:7] for one in (start, now)))
        for name in sorted(files.keys() | others.keys()):
            if files.get(name) != others.get(name):
                changes.append(name.lstrip("_") if name.startswith("_") else "the code that is not committed")
        for name, version in start["versions"].items():
            if version != now["versions"].get(name):
                changes.append(f"{name} {version} -> {now['versions'].get(name)}")
    return changes


def last_start(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(the record of a run's last start, {name: text of its files of source code}). Raises what its reading raises."""
    starts = read_yaml(folder / "config.yaml", ())["run"]
    files = folder.glob(f"source_{len(starts)}[._]*")
    return starts[-1], {path.name.partition(f"_{len(starts)}")[2]: path.read_text("utf-8", "replace") for path in files}
