"""Draws docs/run.png, the page of a run of the Demo: python -m docs.picture [RUN]

It trains the Demo (a minute or two on 2 cores), or takes the run in the folder RUN, and lets headless Chromium
(Debian's package chromium) take a picture of the top of its index.html.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["main.py", "train", "--config=Demo", "--vis-port=1", "--debug-file=none"]
PICTURE = Path(__file__).with_name("run.png")
PAGE = 1240, 1290  # pixels of the browser's window
BROWSER = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={PAGE[0]},{PAGE[1]}"),
]


def train(folder):
    """Train the Demo below `folder`. Returns the run's folder."""
    subprocess.run([sys.executable, *TRAIN, f"--work-dir={folder}"], cwd=ROOT, check=True)
    (run,) = folder.iterdir()
    return run


def photograph(page, folder):
    """A picture of the top of a page; `folder` is for temporary files."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    options = [f"--user-data-dir={folder}/profile", f"--screenshot={folder}/page.png"]
    subprocess.run([chromium, *BROWSER, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
    return Image.open(folder / "page.png").convert("RGB")


def main():
    """Train, show, save."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = Path(sys.argv[1]).resolve() if sys.argv[1:] else train(folder / "checkpoints")
        picture = photograph(run / "index.html", folder)
    picture.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {picture.width} x {picture.height}, {PICTURE.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
