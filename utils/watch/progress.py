"""How far the training is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

from utils.events import Callback


class Progress(Callback):
    """A bar on a terminal, a plain line every few seconds elsewhere: epoch, loss, accuracy, samples/s, time left.

    Args:
        run: the Run, which knows the position.
        train_loader: whose batches are counted.
        schedule: the Schedule, which knows the epochs of the run: a command may change them.
        progress: whether to show anything.
    """

    EVERY = 10.0  # seconds between two plain lines

    def __init__(self, run: Any, train_loader: Any, schedule: Any, progress: bool):
        sampler = train_loader.batch_sampler
        self.run, self.batch_size, self.schedule, self.progress = run, sampler.batch_size, schedule, progress
        self.per_epoch = sampler.length
        self.bar: tqdm | None = None
        self.facts: dict[str, str] = {}

    def on_train_begin(self, **_: Any) -> None:
        self.started, self.first, self.printed = time.monotonic(), self._seen(), time.monotonic()
        if self.progress and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total,
                initial=self.first,
                unit=" samples",
                smoothing=0.1,
                miniters=1,  # else tqdm's own thread may draw the bar again, over the debugger's prompt
                dynamic_ncols=True,
                leave=False,
            )

    def on_epoch_begin(self, **_: Any) -> None:
        self.facts = {}

    def on_train_summary(self, loss: float = float("nan"), **facts: float) -> None:
        measures = {name: f"{value:.1f}" for name, value in facts.items() if not name.startswith("loss")}
        self.facts = {"loss": f"{loss:.3f}", **measures}

    def on_batch_end(self, **_: Any) -> None:
        epochs = self.schedule.max_epoch
        head = f"epoch {min(self.run.epoch + 1, epochs)}/{epochs}"
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_description_str(head, refresh=False)
            self.bar.set_postfix(self.facts, refresh=False)
            self.bar.update(self._seen() - self.bar.n)
        elif self.progress and time.monotonic() - self.printed > self.EVERY:
            self.printed = time.monotonic()
            rate = (self._seen() - self.first) / (self.printed - self.started)
            left = tqdm.format_interval((self.total - self._seen()) / rate)
            facts = "".join(f" {name} {value}" for name, value in self.facts.items())
            done = f"{self._seen() - self.run.epoch * self.per_epoch}/{self.per_epoch}"
            print(f"{head} {done}{facts}, {rate:.1f} samples/s, {left} left", flush=True)

    def on_train_end(self, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    @property
    def total(self) -> int:
        """Samples of the whole run."""
        return self.per_epoch * self.schedule.max_epoch

    def _seen(self) -> int:
        return self.run.epoch * self.per_epoch + min(self.run.batch * self.batch_size, self.per_epoch)
