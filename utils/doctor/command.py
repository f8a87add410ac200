"""`python main.py doctor`: what is wrong with machine, data and model, before hours are spent on them."""

import copy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from utils import UserError
from utils.files import write_atomically
from utils.run import record, resume
from utils.run.run import in_training
from utils.train import processes

from . import checkpoint, data, layers, learning, machine, model
from .case import Case
from .finding import LOOK, WRONG, Finding


def doctor(program: ModuleType, opt: Any) -> None:
    """Print a line for every check and write them to doctor.txt, with doctor.png and layers.csv, into opt.report_dir or
    work_dir/doctor. Ends the program with exit code 1 where something is wrong. Raises UserError.

    program: main.py's module.
    """
    processes.refuse_torchrun()
    case = prepared(program, opt)
    folder = report_folder(case)
    lines = []
    for finding in examined(case, folder, program.refuse_broken):
        print(finding, flush=True)
        lines.append(finding)
    counts = Counter(finding.verdict for finding in lines)
    left_out = " (checks that depend on it are left out)" if counts[WRONG] else ""
    last = f"{len(lines)} checks, {counts[WRONG]} wrong{left_out}, {counts[LOOK]} to look at; report: {folder}"
    text = "\n".join([*map(str, lines), last]) + "\n"
    write_atomically(folder / "doctor.txt", lambda file: file.write(text))
    print(last)
    if counts[WRONG]:
        sys.exit(1)


def prepared(program: Any, opt: Any) -> Case:
    """The training that the options describe, or with a checkpoint that of its own options, as main.py begins it."""
    if opt.run or opt.load_model_path:
        opt, content = resume.trained(opt)
        start: Any = {"path": opt.load_model_path, **content}
    else:
        opt, start = resume.resolve(opt, processes.ALONE)
    device = program.set_up(opt, opt.callbacks)
    train_data, val_data = program.make_data(opt, "train", device), program.make_data(opt, "val", device)
    if not len(train_data) or not len(val_data):  # nothing to examine
        program.refuse_broken(train_data, val_data)
    opt.assign(unfreeze_epoch=None)  # as in the first epochs, in which the head alone learns
    built = program.new_model(opt, train_data, dict(start) if start else None).to(device)
    return Case(opt, built, train_data, val_data, start)


def report_folder(case: Case) -> Path:
    """The folder for the report, never that of a run that is being trained. Raises UserError."""
    opt = copy.deepcopy(case.opt)
    opt.assign(report_dir=opt.report_dir or str(Path(opt.work_dir, "doctor")))
    opt.assign(load_model_path=opt.load_model_path or "new")
    folder = Path(opt.report_dir)
    if in_training(folder):
        raise UserError(f"--report-dir={folder} is the folder of a run that is being trained: name another")
    return record.open_report(opt, case.val_data, {})[0]


def examined(case: Case, folder: Path, refuse: Any) -> Iterator[Finding]:
    """Yield all Findings. What has to be right for a check comes before it: where that is wrong, it is left out."""
    yield from data.check(case, refuse)
    sound = True
    for part in (checkpoint.check, model.check):
        for finding in part(case):
            yield finding
            sound &= finding.verdict != WRONG or finding.name in ("class names", "registered", "optimizer")
    if sound:
        measured = layers.measure(case)
        for finding in layers.check(measured):
            yield finding
            sound &= finding.verdict != WRONG
        layers.write(measured, folder)
    for finding in learning.check(case) if sound else ():
        yield finding
        sound &= finding.name != learning.FAILED
    yield from machine.check(case, sound)
