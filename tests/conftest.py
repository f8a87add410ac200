"""What the tests share: the real command line as a subprocess, and a small folder of pictures named as Kaggle's."""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fork_server import QUICK, ROOT, Server
from PIL import Image, ImageDraw

# The tests' runs are tiny: a second thread would only wait for the first, and spin while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is compared bit by bit is computed on the CPU; HEARTH_TEST_GPU=1 lets the tests that need a GPU run.
if "HEARTH_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# In the fork server, too: nobody cuts the power, so what the system has need not be on the disk.
os.fsync = lambda handle: None

UNDRAWN = (
    "from utils.metrics import plots; plots.save.__code__ = (lambda figure, path: open(path, 'w').close()).__code__"
)
NO_SERVER = "--vis-port=1"  # nothing listens there
FAST = ["--image-size=32", "--batch-size=4", "--num-workers=0", "--model=SqueezeNet", NO_SERVER]


@functools.cache
def server():
    server = Server(QUICK)
    atexit.register(server.__exit__)
    return server


def main(*arguments, cwd, check=None, drawn=False, **options):
    """Run `python main.py *arguments` in the folder cwd; stdout and stderr come back as text. It is a fork of a process
    that has loaded everything; with options of subprocess.run, a whole new one. Unless they are to be `drawn`, the
    files of a fork's plots stay empty: to draw them takes longer than to train."""
    if options:
        return cold(*arguments, cwd=cwd, check=check, **options)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        code = server().run(*arguments, cwd=cwd, files=files, first="" if drawn else UNDRAWN)
        done = subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files))
    return checked(done, check)


def cold(*arguments, cwd, check=None, **options):
    """The same, as a whole new process."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1800,  # only what hangs takes as long
        stdin=subprocess.DEVNULL,
        **options,
    )
    return checked(done, check)


def checked(done, code):
    assert code in (None, done.returncode), done.stdout + done.stderr
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


@pytest.fixture
def written(monkeypatch):
    """The texts that Pillow writes on pictures from now on, in order; they are written."""
    texts, write = [], ImageDraw.ImageDraw.text

    def keep(self, place, text, *arguments, **options):
        texts.append(text)
        write(self, place, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", keep)
    return texts


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
    done = main("train", f"--train-data-root={pictures}", *FAST, "--max-epoch=2", cwd=cwd, check=0, drawn=True)
    (run,) = (cwd / "checkpoints").iterdir()
    return cwd, run, done.stdout


def pytest_xdist_auto_num_workers():
    """One more than there are cores: some tests wait for terminals and servers."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests: begun last, they would leave the other core idle at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
