"""What the presets reach: on samples that the training has not seen, --n times, each with another seed.

usage: python -m benchmarks.recipes DogCatScratch|Finetune|CIFAR10Fast|SegmentationFast [--n=3]
                                    [--data=FOLDER] [--held=FOLDER]

    preset              --data                                            trained on, measured on
    DogCatScratch,      photographs named cat.<num>.jpg, dog.<num>.jpg    four fifths of them, and another fifth in
    Finetune            (../shared/data/dogcat/train)                     every turn; or all, and those of --held
    CIFAR10Fast         a folder with cifar-10-batches-py; none: these    data_batch_*, test_batch; the same fifths
                        photographs, of 32 x 32 pixels
    SegmentationFast    pictures with masks, CamVid's train, say; none:   all of it, --held: CamVid's test, say, or
                        drawn ones                                        other drawn ones

No epoch is picked by what is measured: the last one counts, but Finetune's are picked by folds of what it trains on.
CIFAR10Fast and SegmentationFast run against the recipe that people start from, for as many epochs as take as long on
2 cores. Minutes are those of whole programs.
"""

import hashlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import PHOTOGRAPHS, ROOT, Report, arguments, hardware
from benchmarks.small_data import draw_shapes

LITE = "tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"
SIZES = 224, 240, 260  # pixels that these were trained with
CAMVID, DRAWN = 367, 40  # pictures to train on


def whole_path(text):
    """The absolute path, which programs in other folders understand."""
    return Path(text).absolute()


def photographs(given, seed, folder):
    """(photographs to train on, photographs to measure on)."""
    data = given.data or PHOTOGRAPHS
    return (data, given.held) if given.held else divide(data, seed, folder)


def divide(data, seed, folder):
    """Link a fifth of each class into folder/held and the others into folder/train; return both."""
    parts = folder / "train", folder / "held"
    for part in parts:
        part.mkdir(parents=True)
    for kind in ("cat", "dog"):
        files = sorted(data.glob(f"{kind}.*"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
        for number, path in enumerate(files):
            (parts[number % 5 == seed % 5] / path.name).symlink_to(path.absolute())
    return parts


def small_pictures(given, seed, folder):
    """(options that name pictures of 32 pixels, what to measure on, the share of CIFAR-10's number that they are)."""
    if given.data:
        return [f"--train-data-root={given.data}"], given.data, 1
    train, held = divide(PHOTOGRAPHS, seed, folder)
    return ["--dataset=DogCat", f"--train-data-root={train}"], held, len(list(train.iterdir())) / 50_000


def scenes(given, seed, folder):
    """(options that name pictures with masks, what to measure on, the share of CamVid's number that they are)."""
    if given.data:
        return [f"--train-data-root={given.data}"], given.held, 1
    drawn = draw_shapes(folder / "train", range(DRAWN))
    draw_shapes(folder / "held", range(DRAWN, 2 * DRAWN))
    return drawn, folder / "held", DRAWN / CAMVID


def command(name, folder, *options):
    """Run main.py; return what it printed. Where it fails, end with its last lines."""
    options = [f"--work-dir={folder / 'runs'}", f"--pack-dir={folder / 'packs'}", *options]
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", name, *options], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"main.py {name} {' '.join(options)}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def trained(folder, *options):
    """(weights of the last epoch, minutes that `train` took)."""
    before, begin = set((folder / "runs").glob("*")), time.monotonic()
    command("train", folder, "--keep-last=1", *options)
    minutes = (time.monotonic() - begin) / 60
    (run,) = set((folder / "runs").glob("*")) - before
    (last,) = run.glob("epoch_*.pth")
    return last, minutes


def measured(folder, held, *options):
    """{what val measures: its value} of a checkpoint on other samples; the loss is the cross-entropy."""
    options = [f"--val-data-root={held}", "--val-size=None", "--criterion=cross_entropy", *options]
    printed = command("val", folder, *options)
    return {name: float(value) for name, value in re.findall(r"^val_(\w+): (\S+)", printed, re.MULTILINE)}


def scratch(folder, train, held, seed):
    """{what was measured: {metric: value}}, minutes of the training included."""
    options = ["--config=DogCatScratch", f"--train-data-root={train}", f"--val-data-root={held}", "--val-size=400"]
    last, minutes = trained(folder, *options, f"--seed={seed}")
    views = {"one view": [], "--tta=flip": ["--tta=flip"], "--tta=multi": ["--tta=multi"]}
    scores = {name: measured(folder, held, f"--load-model-path={last}", *view) for name, view in views.items()}
    return {**scores, "training": {"minutes": minutes}}


def finetuned(folder, train, held, seed):
    """The same of five folds of each network, each network's mean, and the mean of all."""
    begin, folds, scores = time.monotonic(), [], {}
    for model, size in zip(LITE, SIZES, strict=True):
        options = ["--config=Finetune", f"--model={model}", f"--image-size={size}", f"--train-data-root={train}"]
        command("train", folder, *options, f"--seed={seed}", "--folds=5", "--fold=all")
        (new,) = set((folder / "runs").glob("*_folds*")) - set(folds)
        folds.append(new)
    minutes = (time.monotonic() - begin) / 60
    for model, one in zip(LITE, folds, strict=True):
        scores[f"mean of 5 folds of {model}"] = measured(folder, held, f"--load-model-path={one}")
    scores["mean of all 15"] = measured(folder, held, f"--load-model-path={','.join(map(str, folds))}")
    return {**scores, "training": {"minutes": minutes}}


def raced(sides):
    """A recipe that trains with each of {options: epochs}, so many that all take about as long."""

    def recipe(folder, data, held, share, seed):
        """{side: {metric: value}}, minutes of the training included."""
        scores = {}
        for side, epochs in sides.items():
            options = [*side.split(), *data, f"--max-epoch={round(epochs / share)}", f"--seed={seed}"]
            last, minutes = trained(folder, *options, f"--val-data-root={held}", "--val-size=30")
            scores[side] = {**measured(folder, held, f"--load-model-path={last}"), "minutes": minutes}
        return scores

    return recipe


RECIPES = {
    "DogCatScratch": (photographs, scratch),
    "Finetune": (photographs, finetuned),
    "CIFAR10Fast": (small_pictures, raced({"--config=CIFAR10Fast": 6, "--config=CIFAR10 --model=resnet18": 3})),
    "SegmentationFast": (scenes, raced({"--config=SegmentationFast": 24, "--config=Segmentation": 11})),
}


def main():
    """Measure a preset and save the report."""
    parser = arguments(__doc__, 3)
    parser.add_argument("preset", choices=RECIPES)
    parser.add_argument("--data", type=whole_path, help="what to train on, see above")
    parser.add_argument("--held", type=whole_path, help="what to measure on, where it is not a part of --data")
    given, report = parser.parse_args(), Report(__file__)
    if given.held and given.preset == "CIFAR10Fast":
        parser.error("CIFAR10Fast takes no --held: CIFAR-10 has its own pictures to measure on")
    if given.preset == "SegmentationFast" and bool(given.data) != bool(given.held):
        parser.error("SegmentationFast needs both --data and --held, or neither")
    report(f"{given.preset}, {hardware('torch', 'timm')}")
    prepare, recipe = RECIPES[given.preset]
    found = {}
    for seed in range(given.n):
        with tempfile.TemporaryDirectory() as folder:
            scores = recipe(Path(folder), *prepare(given, seed, Path(folder)), seed)
        for what, values in scores.items():
            report(f"seed {seed}: {what}: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}")
            for name, value in values.items():
                found.setdefault(f"{what}: {name}", []).append(value)
    for name, values in found.items():
        report(f"{name}: mean {statistics.mean(values):.4g}, n {len(values)}, {min(values):.4g} to {max(values):.4g}")
    report.save(given.results)


if __name__ == "__main__":
    main()
