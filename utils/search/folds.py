"""train --fold=all: a model for each fold, and what each predicts for the samples that it was not trained on."""

import contextlib
import copy
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from utils import UserError
from utils.notices import command, counted
from utils.run import record, resume
from utils.run.members import OUT_OF_FOLD, fold_runs, folder_of_folds, recorded
from utils.run.run import Run, in_training, new_folder
from utils.runs.table import read_run
from utils.train import auto
from utils.train.evaluation import measured

from . import calibration

UNFINISHED = "folds"  # what the lock of a folder of folds says until all are trained; of a run it never does


def asked(opt: Any) -> bool:
    """Whether the options of the command train are for all folds: --fold=all, or --resume with a folder of folds, or,
    bare, where the newest run that is not finished is one."""
    return bool(opt.fold == "all" or (opt.resume not in (None, "auto") and found(opt)))


def found(opt: Any) -> Path | None:
    """The folder of folds that --resume means, None where it means none."""
    if opt.resume not in ("newest", "auto"):
        return folder_of_folds(opt.work_dir, opt.resume)
    folds: list[Path] = []  # checkpoints of what is not finished, and what no process trains
    others: list[Path] = []
    for path in Path(opt.work_dir).glob("*/lock"):
        with contextlib.suppress(OSError):  # another user's
            word = path.read_text("utf-8", "replace")
            if word == UNFINISHED and not in_training(path.parent):
                folds += path.parent.glob("*/*.pth")
            elif word not in ("finished", "failed") and opt.fold != "all" and not in_training(path.parent):
                others.append(path.with_name("last.pth"))
    newest = max([*folds, *others], key=resume.written, default=Path())
    return newest.parent.parent if newest in folds else None


def train(program: ModuleType, opt: Any) -> None:
    """Train each fold that is not finished, as a run in one folder, then write their predictions out of fold.

    program: main.py's module. Raises UserError.
    """
    if "WORLD_SIZE" in os.environ:
        raise UserError("--fold=all trains in one process: leave torchrun out, or train --fold=0, 1, ...")
    folder = found(opt) if opt.resume else None
    if opt.resume not in (None, "auto") and not folder:
        raise UserError(f"--resume={opt.resume} --fold=all: {opt.work_dir} has no such folder of folds")
    opt = resume.resumed(opt, folder) if folder else opt
    whole = Run(folder or new_folder(opt.work_dir, f"{opt.model}_folds"))  # for its lock
    try:
        record.write_config(whole, opt.to_dict())
        whole.mark(UNFINISHED)
        runs = [train_fold(program, opt, whole.folder, fold) for fold in range(opt.folds)]
        predict(program, opt, whole.folder, runs)
        whole.mark("finished")
        print(f"the mean of these {opt.folds} models: {command('test', f'--load-model-path={whole.folder}')}")
    except BaseException:
        if fold_runs(whole.folder):
            print(f"to resume all folds: {command('train', f'--resume={whole.folder}')}")
        elif not folder:  # nothing was trained: what was asked for cannot be
            shutil.rmtree(whole.folder)
        raise
    finally:
        whole.close()


def train_fold(program: Any, opt: Any, folder: Path, fold: int) -> Path:
    """Train this fold, or resume its run, if it is not finished. Returns the run's folder."""
    runs = fold_runs(folder)
    run = runs.get(fold)
    settled = auto.of_run(opt, recorded(next(iter(runs.values()), folder)))  # once for all
    if run and read_run(run).state == "finished" and recorded(run).get("max_epoch", 0) >= opt.max_epoch:
        print(f"fold {fold} of {opt.folds} is finished: {run}")
        return run
    print(f"fold {fold} of {opt.folds}, numbered from 0")
    (folder / OUT_OF_FOLD).unlink(missing_ok=True)  # while folds differ in their epochs, they are not averaged
    program.train(options_of(opt, folder, fold, resume=str(run) if run else None, **settled))
    run = fold_runs(folder)[fold]
    if read_run(run).state != "finished":
        raise UserError(f"{run} was ended before its last epoch")
    return run


def options_of(opt: Any, folder: Path, fold: int, **values: Any) -> Any:
    """A copy of the options for one fold, whose run is in the folder."""
    own = copy.deepcopy(opt)
    own.assign(**{"fold": fold, "work_dir": str(folder), "config": None, "resume": None, **values})
    return own


@torch.inference_mode()
def predict(program: Any, opt: Any, folder: Path, runs: list[Path]) -> None:
    """Let each fold's best model predict the samples that validate in its fold; write all predictions to a file and
    print how good they are."""
    rows: list[list[Any]] = []
    meter: Any = None
    for fold, run in enumerate(runs):
        given = options_of(opt, folder, fold, load_model_path=str(run))
        given.command = "val"
        with contextlib.redirect_stdout(io.StringIO()):  # the training has said it
            given, model, device = program.load_trained(given)
            model.freeze_as_trained(given)
            given.assign(val_size=None)  # every sample gets its row
            data = program.make_data(given, "val", device, model.info["classes"])
        meter = meter or data.meter()
        loader = program.make_val_loader(given, model, data, device)
        rows += [[path, fold, *row] for path, *row in predicted(model, loader, meter)]
    scores = meter.summary() | calibration.write(folder, meter.classes, rows)
    print(f"out of fold, {counted(len(rows), 'sample')}, each predicted by the model that was not trained on it:")
    for name, value in scores.items():
        print(f"{name}: {value:.4g}")
    print(f"wrote {folder / OUT_OF_FOLD}")


def predicted(model: Any, loader: Any, meter: Any) -> Iterator[list[Any]]:
    """Yield (path, true class, probability of each class) of every labelled sample, or of pictures with masks (path,
    the first measure of that picture); the meter gets all."""
    data = loader.dataset
    paths = iter(getattr(data, "paths", None) or [sample.path for sample in data.samples])
    for _, target, prediction, _ in measured(model, loader):
        meter.add(prediction, target)
        for truth, shares in zip(target, prediction, strict=True):
            if truth.ndim:
                one = data.meter()
                one.add(shares.unsqueeze(0), truth.unsqueeze(0))
                yield [next(paths), next(iter(one.summary().values()))]
            else:
                yield [next(paths), data.classes[truth], *shares.tolist()]
