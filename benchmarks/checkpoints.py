"""What share of an epoch goes into checkpoints at the defaults: last.pth after each, best.pth where it is better.

    python -m benchmarks.checkpoints [--n=3]    in the project's folder; five minutes on 2 cores

Trains SqueezeNet and ResNet34 with Adam on the 1,402 photographs of ../shared/data, 224 pixels, batch 32, for n epochs
after one that is not counted, and takes the time that `Checkpoint.on_epoch_end` needs. The more samples an epoch has
the smaller the share: Kaggle's 25,000 pictures would make it an eighteenth.
"""

import csv
import os
import tempfile
import time
from pathlib import Path

import main as program
from benchmarks.common import PHOTOGRAPHS, Report, arguments, hardware, spread
from utils.run.checkpoint import Checkpoint


def train(folder, model, epochs):
    """[(seconds of an epoch, seconds of its checkpoints), ...] and the size of last.pth in MB."""
    seconds, save = [], Checkpoint.on_epoch_end

    def timed(self, **values):
        began = time.perf_counter()
        save(self, **values)
        seconds.append(time.perf_counter() - began)

    Checkpoint.on_epoch_end = timed
    options = {"vis_port": 1, "progress": False, "work_dir": folder, "pack_dir": folder, "batch_size": 32}
    program.train(model=model, train_data_root=str(PHOTOGRAPHS), max_epoch=epochs, **options)
    Checkpoint.on_epoch_end = save
    (run,) = Path(folder).glob(f"{model}_*")
    with open(run / "results.csv", newline="", encoding="utf-8") as file:
        whole = [float(row["seconds"]) for row in csv.DictReader(file)]
    epochs = [(rest + saving, saving) for rest, saving in zip(whole, seconds, strict=True)]
    return epochs, os.path.getsize(run / "last.pth") / 1e6


def main():
    """Measure and print."""
    given, report = arguments(__doc__, 3).parse_args(), Report(__file__)
    report(hardware("torch"))
    for model in ("SqueezeNet", "ResNet34"):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            (_, *epochs), size = train(folder, model, given.n + 1)
        report(f"{model} and Adam, last.pth {size:.0f} MB")
        report(f"  epoch        {spread([whole for whole, _ in epochs], 's')}")
        report(f"  checkpoints  {spread([saved for _, saved in epochs], 's', 3)}")
        report(f"  share        {spread([100 * saved / whole for whole, saved in epochs], '%')}")
    report.save(given.results)


if __name__ == "__main__":
    main()
