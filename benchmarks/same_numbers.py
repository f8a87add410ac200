"""Does a refactoring leave every number as it was?

    python -m benchmarks.same_numbers COMMIT [--only=name,name] [--keep=FOLDER]

Checks COMMIT out into a temporary folder, and runs the same short trainings with it (old) and with this tree (new),
uncommitted changes included. Compares bit for bit: every point of events.jsonl, results.csv without its two columns of
seconds, the weights in last.pth and best.pth, the optimizer's state, the averaged weights of --ema, and in the row
demo what `test` and `val` say. Prints a line per training. The exit code is 1 if anything differs or a training fails.

It needs no data set and no GPU. All rows take three and a half minutes on 2 cores.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.common import ROOT
from benchmarks.outcome import Failed, first_difference, outcome, read_results, run_folder, steps
from benchmarks.small_data import DRAW

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
COMMON = ["--seed=3", "--print-freq=1", "--vis-port=1", "--num-workers=0", "--progress=False"]
# One thread, because the order of a sum depends on the number of threads.
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
LIMIT, GRACE = 300, 30  # seconds: a training that takes longer hangs; time to stop after a SIGTERM
STOP_AFTER = 3  # steps, of the 14 in an epoch


async def run(tree, folder, command, *options, launcher=(), stop=False):
    """Run main.py of a tree in `folder` and return what it prints; with `stop`, send SIGTERM after a few steps."""
    name = f"{len(list(folder.glob('*.err')))}_{command}"
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    line = [sys.executable, *launcher, str(tree / "main.py"), command, *options]
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
        process = await asyncio.create_subprocess_exec(*line, cwd=folder, env=ENVIRONMENT, **streams)
    try:
        await asyncio.wait_for(end_of(process, folder, stop), LIMIT)
    except asyncio.TimeoutError:
        raise Failed(f"{command} ({tree}) takes more than {LIMIT} s") from None
    finally:  # also when this program is interrupted: no training outlives it
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE)
        if process.returncode is None:
            process.kill()
            await process.wait()
    expected = 128 + signal.SIGTERM if stop else 0
    if process.returncode != expected:
        tail = "\n    ".join(err.read_text(errors="replace").splitlines()[-15:])
        raise Failed(f"{command} ({tree}) ends with code {process.returncode}, not {expected}\n    {tail}")
    return out.read_text()


async def end_of(process, folder, stop):
    """Wait until a training ends, or has made a few steps and then ends because of a SIGTERM."""
    while stop and process.returncode is None and steps(folder) < STOP_AFTER:
        await asyncio.sleep(0.01)
    if stop and process.returncode is None:
        process.terminate()
    await process.wait()


async def once(trees, side, folder, options):
    """Train. A way returns what it has to compare besides the run: {name: value}."""
    await run(trees[side], folder, "train", *options)
    return {}


async def two_processes(trees, side, folder, options):
    """Train with two processes under torchrun."""
    await run(trees[side], folder, "train", *options, launcher=TORCHRUN)
    return {}


async def evaluated(trees, side, folder, options):
    """Train, predict the pictures without labels, and measure the best model."""
    await run(trees[side], folder, "train", *options)
    await run(trees[side], folder, "test", "--work-dir=runs", "--result-file=result.csv")
    printed = await run(trees[side], folder, "val", "--work-dir=runs")
    lines = (folder / "result.csv").read_text().splitlines()
    measures = re.findall(r"^(val_\w+): (.*)$", printed, re.MULTILINE)
    if len(lines) < 2 or not measures:
        raise Failed(f"test or val ({trees[side]}) says nothing")
    predictions = {f"result.csv line {number}": line for number, line in enumerate(lines)}
    return predictions | {f"val prints {name}": value for name, value in measures}


async def resumed(trees, side, folder, options):
    """Train, stop in the middle of an epoch, and resume."""
    return await stop_and_resume(trees[side], trees[side], folder, options)


async def resumed_by_new(trees, side, folder, options):
    """The old tree trains undisturbed on one side; on the other it is stopped, and the new tree resumes its run."""
    if side == "old":
        return await once(trees, side, folder, options)
    return await stop_and_resume(trees["old"], trees["new"], folder, options)


async def stop_and_resume(first, second, folder, options):
    """Start a training with one tree, stop it, and resume it with another. Fails unless it stopped within an epoch."""
    await run(first, folder, "train", *options, stop=True)
    stopped = steps(folder)
    await run(second, folder, "train", "--work-dir=runs", f"--resume={run_folder(folder)}")
    rows = read_results(run_folder(folder))
    last = int(rows[-1]["step"])
    if stopped >= last or stopped % (last // len(rows)) == 0:
        raise Failed(f"the training stopped after {stopped} of {last} steps: not in the middle of an epoch")
    return {}


class Row(NamedTuple):
    """One comparison: the data, the options, the way to run it, the precision, and options that only the new tree gets,
    because it has another default."""

    data: str
    options: str
    way: Callable = once
    precision: str = "fp32"
    new: str = ""


# BatchNorm and dropout; 28 pictures an epoch.
SMALL = "--model=mobilenet_v2 --width=0.25 --image-size=32 --max-epoch=2"
STOPPED = f"{SMALL} --batch-size=2 --ema=0.9 --optimizer=AdamW --warmup-epochs=0.5"
ROWS = {
    "demo": Row("pets", "--config=Demo --image-size=32 --batch-size=4 --max-epoch=2", evaluated),
    "heart": Row("nothing", "--config=Heart --max-epoch=2"),
    "cifar10": Row("cifar", "--config=CIFAR10 --batch-size=20 --max-epoch=2"),
    "segmentation": Row(
        "shapes", "--config=Segmentation --image-size=64 --batch-size=4 --max-epoch=2", new="--fit=squeeze"
    ),
    "coco_ssd": Row("coco", "--config=Coco --model=SSD --image-size=64 --batch-size=2 --max-epoch=2"),
    "coco_mask_rcnn": Row("coco", "--config=Coco --image-size=64 --proposals=20 --batch-size=2 --max-epoch=1"),
    "accumulate": Row("pets", f"{SMALL} --batch-size=8 --accumulate=3"),
    "ema": Row("pets", f"{SMALL} --batch-size=4 --ema=0.9"),
    "mixup": Row("pets", f"{SMALL} --batch-size=4 --mixup=0.2 --cutmix=0.5"),
    "augment": Row("pets", f"{SMALL} --batch-size=4 --rotate=20 --noise=0.05 --resample=mean --criterion=focal"),
    "schedule": Row(
        "pets",
        f"{SMALL} --batch-size=4 --scheduler=multistep --milestones=1 --lr-gamma=0.3 --warmup-epochs=0.5"
        " --clip-grad=0.5 --optimizer=SGD --momentum=0.8 --lr=0.05",
    ),
    "bf16": Row("pets", f"{SMALL} --batch-size=4", precision="bf16"),
    "two_processes": Row("pets", f"{SMALL} --batch-size=8", two_processes),
    "resume": Row("pets", STOPPED, resumed),
    "resume_of_old": Row("pets", STOPPED, resumed_by_new),
}


async def compare(row, trees, place, data):
    """Run a row with both trees at once. Returns (whether all is equal, what to print)."""
    options = [*row.options.split(), *COMMON, f"--precision={row.precision}", "--work-dir=runs", "--pack-dir=packs"]
    folders = {side: place / side for side in trees}
    for folder in folders.values():
        folder.mkdir(parents=True)
    own = {"old": [], "new": row.new.split()}
    ways = [row.way(trees, side, folder, [*options, *own[side], *data]) for side, folder in folders.items()]
    extras = await asyncio.gather(*ways, return_exceptions=True)
    failures = [str(extra) for extra in extras if isinstance(extra, Failed)]
    for extra in extras:
        if isinstance(extra, BaseException) and not isinstance(extra, Failed):
            raise extra
    if failures:
        return False, "\n  ".join(failures)
    try:
        old, new = (outcome(folder, options) | more for folder, more in zip(folders.values(), extras, strict=True))
    except Failed as failure:
        return False, str(failure)
    tensors = [value.numel() for value in old.values() if isinstance(value, torch.Tensor)]
    counts = f"{len(old) - len(tensors):,} numbers, {sum(tensors):,} values in {len(tensors):,} tensors"
    difference = first_difference(old, new)
    return difference is None, difference or counts


@contextlib.contextmanager
def checked_out(commit, tree):
    """`commit` as a git worktree in the folder `tree`, for as long as the block runs."""
    git = ["git", "-C", str(ROOT), "worktree"]
    try:
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        yield
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)])


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", help="what this tree is compared with")
    parser.add_argument("--only", default=",".join(ROWS), help="names of rows, with commas between them")
    parser.add_argument("--keep", type=Path, help="new folder that the runs stay in; several GB")
    given = parser.parse_args()
    names, known = (
        list(dict.fromkeys(given.only.split(","))),
        ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet"],
    )
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no row is named {', '.join(unknown)}: there are {', '.join(ROWS)}")
    if given.keep and given.keep.exists():
        parser.error(f"{given.keep} exists already")
    if subprocess.run([*known, f"{given.commit}^{{commit}}"], stdout=subprocess.DEVNULL).returncode:
        parser.error(f"{given.commit} is no commit of {ROOT}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the worktree is removed
    began, different, data = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory() as temporary:
        place, trees = (given.keep or Path(temporary)).resolve(), {"old": Path(temporary, "tree"), "new": ROOT}
        with checked_out(given.commit, trees["old"]):
            (place / "data").mkdir(parents=True)
            for name in names:
                row, start = ROWS[name], time.monotonic()
                if row.data not in data:
                    data[row.data] = DRAW[row.data](place / "data" / row.data)
                equal, text = asyncio.run(compare(row, trees, place / name, data[row.data]))
                verdict = f"equal ({text}; {time.monotonic() - start:.0f} s)" if equal else f"DIFFERENT: {text}"
                print(f"{name}: {verdict}", flush=True)
                if not equal:
                    different.append(name)
                if not given.keep:  # a detector's checkpoints take a GB
                    shutil.rmtree(place / name)
    print(f"{len(names) - len(different)} of {len(names)} rows equal, {time.monotonic() - began:.0f} s")
    sys.exit(bool(different))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
