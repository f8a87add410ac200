"""TensorBoard: `tensorboard --logdir=checkpoints` shows every run that has it."""

import shutil
from pathlib import Path
from typing import Any

from .tracker import Tracker


class TensorBoard(Tracker):
    """Writes the run's curves, learning rate, pictures, log and options with the last measures into the folder
    `tensorboard` of the run. A resumed run writes it again, from its record. It needs no network."""

    needs = "tensorboard"

    def begin(self) -> None:
        """Open a new folder."""
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(self.folder / "tensorboard"))

    def scalar(self, name: str, step: int, value: float, time: float) -> None:
        """A point."""
        self.writer.add_scalar(name, value, step, walltime=time)

    def picture(self, name: str, step: int, path: Path, time: float) -> None:
        """A picture."""
        import numpy as np
        from PIL import Image

        self.writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, time, dataformats="HWC")

    def text(self, line: str, time: float) -> None:
        """A line of the log."""
        self.writer.add_text("log", line, walltime=time)

    def end(self, options: dict[str, Any], metrics: dict[str, float]) -> None:
        """The options with the last measures, for TensorBoard's HPARAMS."""
        self.writer.add_hparams(options, {f"last/{name}": value for name, value in metrics.items()}, run_name=".")
        self.writer.close()
