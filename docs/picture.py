"""Draws docs/run.png, visdom's page of a run of the Demo: python -m docs.picture [RUN]

It trains the Demo (a minute or two on 2 cores), or takes the run in the folder RUN, shows it in a visdom server of its
own, in windows small enough for one picture, and takes that with headless Chromium (Debian's package chromium).
"""

import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from utils.visdom.screen import Screen, gather, read_events

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["main.py", "train", "--config=Demo", "--print-freq=5", "--draw-freq=20", "--vis-port=1", "--debug-file=none"]
PICTURE = Path(__file__).with_name("run.png")
PAGE = 1240, 695  # pixels of the browser's window
COLOURS = 250  # of the file
CURVES = ["loss", "val_loss", "val_accuracy", "train_accuracy"]  # the first row; below it the log and predictions
CURVE = {"width": 291, "height": 235, "marginleft": 38, "marginright": 12, "margintop": 36, "marginbottom": 34}
HALF = {"width": 592, "height": 322}
ROWS = 4  # of predictions that Pictures draws of a batch
STYLE = ".modebar { display: none !important; }"  # plotly's buttons, which show while the mouse is over a curve
BROWSER = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def train(folder):
    """Train the Demo below `folder`. Returns the run's folder."""
    subprocess.run([sys.executable, *TRAIN, f"--work-dir={folder}"], cwd=ROOT, check=True)
    (run,) = folder.iterdir()
    return run


def draw(run, port):
    """Draw a run's record in an environment of its name, in windows of the sizes above."""
    screen = Screen("demo", {"port": port, "server": "http://127.0.0.1"}, run / "events.jsonl")
    screen.connect()
    groups = gather(read_events(screen.record))
    for name in CURVES:
        screen.keywords[name] = {"opts": CURVE}
        screen.draw(("plot", name), groups["plot", name])
    screen.client.text("".join(groups["log", "log_text"]), win="log_text", opts={**HALF, "title": "log"})
    files = [what["file"] for (kind, _), what in groups.items() if kind == "image"]
    sheets = [np.array(Image.open(run / file).convert("RGB")).transpose(2, 0, 1) for file in files]
    rows = [sheet[:, : sheet.shape[1] // ROWS] for sheet in sheets]  # the first row of each batch: of cats, of dogs
    screen.client.image(np.concatenate(rows, axis=1), win="predictions", opts={**HALF, "title": "predictions"})


def photograph(run, folder):
    """A picture of visdom's page with this run; `folder` is for temporary files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "envs").mkdir()
    (folder / "envs" / "style.css").write_text(STYLE)
    command = [sys.executable, "-m", "utils.visdom.server", f"--port={port}", f"--checkpoints={folder}/none"]
    server = subprocess.Popen([*command, f"--env_path={folder}/envs"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        next(line for line in server.stdout if " shows " in line)
        draw(run, port)
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        options = [f"--user-data-dir={folder}/profile", f"--window-size={PAGE[0]},{PAGE[1]}"]
        page = [f"--screenshot={folder}/page.png", f"http://127.0.0.1:{port}/env/demo"]
        subprocess.run([chromium, *BROWSER, *options, *page], check=True, capture_output=True, timeout=120)
    finally:
        server.terminate()
        server.wait()
    return Image.open(folder / "page.png").convert("RGB")


def main():
    """Train, show, save."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = Path(sys.argv[1]).resolve() if sys.argv[1:] else train(folder / "checkpoints")
        picture = photograph(run, folder)
    picture.quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {picture.width} x {picture.height}, {PICTURE.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
