"""What the presets reach: trained on four fifths of labelled photographs, measured on the fifth that nothing saw, --n
times, each time with another seed and another fifth.

usage: python -m benchmarks.recipes DogCatScratch|Finetune [--n=3] [--data=../shared/data/dogcat/train]

No epoch is picked by what is measured: DogCatScratch's last one counts, and Finetune's are picked by folds of its own
four fifths. Minutes are those of whole programs.
"""

import hashlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import PHOTOGRAPHS, ROOT, Report, arguments, hardware, spread

LITE = "tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"
SIZES = 224, 240, 260  # pixels that these were trained with


def divide(photographs, seed, folder):
    """Link a fifth of each class into folder/held and the others into folder/train; return both."""
    parts = folder / "train", folder / "held"
    for part in parts:
        part.mkdir(parents=True)
    for kind in ("cat", "dog"):
        files = sorted(photographs.glob(f"{kind}.*"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
        for number, path in enumerate(files):
            (parts[number % 5 == seed % 5] / path.name).symlink_to(path.absolute())
    return parts


def command(name, folder, *options):
    """Run main.py; return what it printed. Where it fails, end with its last lines."""
    options = [f"--work-dir={folder / 'runs'}", f"--pack-dir={folder / 'packs'}", *options]
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", name, *options], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"main.py {name} {' '.join(options)}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def measured(folder, held, *options):
    """(accuracy in %, log loss) of a checkpoint on the held pictures."""
    printed = command("val", folder, f"--val-data-root={held}", "--criterion=cross_entropy", *options)
    return tuple(float(re.search(rf"^val_{name}: (\S+)", printed, re.MULTILINE)[1]) for name in ("accuracy", "loss"))


def scratch(folder, train, held, seed):
    """{what was measured: (accuracy, log loss)}, and how many minutes the training took."""
    begin = time.monotonic()
    options = ["--config=DogCatScratch", f"--train-data-root={train}", f"--val-data-root={held}", "--keep-last=1"]
    command("train", folder, *options, f"--seed={seed}")
    minutes = (time.monotonic() - begin) / 60
    (last,) = (folder / "runs").glob("*/epoch_*.pth")
    views = {"one view": [], "--tta=flip": ["--tta=flip"]}
    return {name: measured(folder, held, f"--load-model-path={last}", *view) for name, view in views.items()}, minutes


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
    return scores, minutes


RECIPES = {"DogCatScratch": scratch, "Finetune": finetuned}


def main():
    """Measure a preset and save the report."""
    parser = arguments(__doc__, 3)
    parser.add_argument("preset", choices=RECIPES)
    parser.add_argument("--data", type=Path, default=PHOTOGRAPHS, help="photographs named cat.<num>.jpg, dog.<num>.jpg")
    given = parser.parse_args()
    report = Report(__file__)
    report(f"{given.preset}, {hardware('torch', 'timm')}")
    scores, minutes = {}, []
    for seed in range(given.n):
        with tempfile.TemporaryDirectory() as folder:
            train, held = divide(given.data, seed, Path(folder))
            counts = [len(list(part.iterdir())) for part in (train, held)]
            found, took = RECIPES[given.preset](Path(folder), train, held, seed)
        minutes.append(took)
        for name, (accuracy, loss) in found.items():
            report(
                f"seed {seed}, {counts[0]} trained on, {counts[1]} held: {name}: {accuracy:.2f} %, log loss {loss:.4f}"
            )
            scores.setdefault(name, []).append((accuracy, loss))
    for name, values in scores.items():
        accuracies, losses = zip(*values, strict=True)
        report(f"{name}: mean accuracy {statistics.mean(accuracies):.2f} % ({spread(accuracies, '%')})")
        report(f"{name}: mean log loss {statistics.mean(losses):.4f} ({spread(losses, '', 4)})")
    report(f"training: {spread(minutes, 'minutes', 1)}")
    report.save(given.results)


if __name__ == "__main__":
    main()
