"""What the tests share: the real command line as a subprocess, and a small folder of pictures named as Kaggle's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The tests' runs are tiny: a second thread would only wait for the first, and spin while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
NO_SERVER = "--vis-port=1"  # nothing listens there
FAST = ["--image-size=32", "--batch-size=4", "--num-workers=0", "--model=SqueezeNet", NO_SERVER]


def main(*arguments, cwd, check=None, **options):
    """Run `python main.py *arguments` in the folder cwd; stdout and stderr come back as text."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        **options,
    )
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def draw(path, kind, number, size=(48, 40)):
    """Write a noisy JPEG, reddish for cats and bluish for dogs: easy to learn, no two alike."""
    noise = np.random.default_rng(number).integers(0, 160, (size[1], size[0], 3))
    noise[..., 0 if kind == "cat" else 2] += 90
    Image.fromarray(noise.astype(np.uint8)).save(path, quality=95)


def draw_folder(folder, per_class=20):
    """cat.0.jpg ... and dog.0.jpg ... in `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(per_class):
        for kind in ("cat", "dog"):
            draw(folder / f"{kind}.{number}.jpg", kind, number)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """20 cats and 20 dogs; not to be changed by a test."""
    return draw_folder(tmp_path_factory.mktemp("pictures") / "train")


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """12 pictures for test, ids 1 to 12, odd ones dogs."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for number in range(1, 13):
        draw(folder / f"{number}.jpg", "dog" if number % 2 else "cat", 1000 + number)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pictures):
    """A folder in which one short run was trained: (folder, run folder, what it printed)."""
    cwd = tmp_path_factory.mktemp("trained")
    done = main("train", f"--train-data-root={pictures}", *FAST, "--max-epoch=2", cwd=cwd, check=0)
    (run,) = (cwd / "checkpoints").iterdir()
    return cwd, run, done.stdout
