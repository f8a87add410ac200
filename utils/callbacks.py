"""What watches a run. A callback hears of events while main.py's loop goes its way; it overrides what it cares for."""

import sys
import time

import torch
from tqdm import tqdm

from . import plots
from .events import Callback


class Plots(Callback):
    """Sends losses, measures, rate and a line of log per epoch to the Visualizer, which also keeps the record."""

    def __init__(self, vis, run):
        self.vis, self.run = vis, run

    def on_train_summary(self, **facts):
        for name, value in facts.items():
            if name.startswith("loss"):
                self.vis.plot(name, value, x=self.run.step)

    def on_epoch_end(self, metrics, train_meter, val_meter):
        for name, value in metrics.items():
            if name not in ("epoch", "step") and not name.startswith("loss"):  # losses are plotted step by step
                self.vis.plot(name, value, x=self.run.epoch)
        self.vis.log(
            f"epoch:{metrics['epoch']}, lr:{metrics['lr']:g}, loss:{metrics['loss']:.4f}, "
            f"train_cm:{plain(train_meter.value())}, val_cm:{plain(val_meter.value())}"
        )

    def on_train_end(self, **_):
        self.vis.close()


def plain(value):
    """A small array or tensor as nested lists; any other value of a meter as it is."""
    if getattr(value, "size", 0) > 400:  # twenty classes: more is no line to read
        return f"{len(value)} x {len(value)}"
    return value.tolist() if hasattr(value, "tolist") else value


class Pictures(Callback):
    """Draws predictions beside the truth for every k-th batch of a validation, or part of one where memory ran out:
    calls show(name, picture) with uint8 tensors [3, H, W]."""

    def __init__(self, every, show):
        self.every, self.show = every, show

    def on_test_begin(self):
        self.batch = 0

    def on_test_summary(self, dataset, input, target, prediction):
        if self.every and self.batch % self.every == 0:
            for number, picture in enumerate(dataset.draw(input, target, prediction)):
                self.show(f"val_{self.batch:04d}_{number}", picture)
        self.batch += 1


class History(Callback):
    """Writes results.csv, curves.png and the validation's report into the run's folder; prints a line per epoch."""

    SHARE = 0.05  # of the time may go into drawing: with epochs of a second it would take longer than training

    def __init__(self, run, max_epoch, on_gpu):
        self.run, self.max_epoch, self.on_gpu = run, max_epoch, on_gpu
        self.next_drawing, self.draw = 0.0, lambda: None

    def on_epoch_begin(self):
        self.began = time.monotonic()

    def on_test_begin(self):
        if self.on_gpu:
            torch.cuda.synchronize()  # once an epoch; the host is ahead of the device
        self.trained = time.monotonic()

    def on_epoch_end(self, metrics, val_meter, **_):
        seconds, training = time.monotonic() - self.began, self.trained - self.began
        rows = self.run.add_result({**metrics, "train_seconds": round(training, 2), "seconds": round(seconds, 2)})

        def draw():
            try:
                plots.curves(rows, self.run.folder / "curves.png")
                val_meter.report(self.run.folder)
            except Exception as error:  # a picture is no reason to end a training
                what = f"{type(error).__name__}: {error}"
                tqdm.write(f"warning: the epoch's report is not complete: {what}", file=sys.stderr)

        self.draw = draw
        began = time.monotonic()
        if began > self.next_drawing:
            draw()
            self.draw = lambda: None
            self.next_drawing = time.monotonic() + (time.monotonic() - began) / self.SHARE
        facts = [f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "step")]
        line = f"epoch {metrics['epoch']}/{self.max_epoch}: {', '.join(facts)}, {seconds:.1f} s"
        tqdm.write(line)  # above the bar, where there is one

    def on_train_end(self, **_):
        self.draw()


class Progress(Callback):
    """A bar on a terminal, a plain line every few seconds elsewhere: epoch, loss, accuracy, samples/s, time left."""

    EVERY = 10.0  # seconds between two plain lines

    def __init__(self, run, loader, max_epoch, shown):
        order = loader.batch_sampler
        self.run, self.batch_size, self.max_epoch, self.shown = run, order.batch_size, max_epoch, shown
        self.per_epoch, self.total = order.length, order.length * max_epoch
        self.bar, self.facts = None, {}

    def on_train_begin(self):
        self.started, self.first, self.said = time.monotonic(), self._seen(), time.monotonic()
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total,
                initial=self.first,
                unit=" samples",
                smoothing=0.1,
                miniters=1,  # else tqdm's own thread may draw the bar again, over the debugger's prompt
                dynamic_ncols=True,
                leave=False,
            )

    def on_epoch_begin(self):
        self.facts = {}

    def on_train_summary(self, loss, **facts):
        measures = {name: f"{value:.1f}" for name, value in facts.items() if not name.startswith("loss")}
        self.facts = {"loss": f"{loss:.3f}", **measures}

    def on_batch_end(self):
        head = f"epoch {min(self.run.epoch + 1, self.max_epoch)}/{self.max_epoch}"
        if self.bar is not None:
            self.bar.set_description_str(head, refresh=False)
            self.bar.set_postfix(self.facts, refresh=False)
            self.bar.update(self._seen() - self.bar.n)
        elif self.shown and time.monotonic() - self.said > self.EVERY:
            self.said = time.monotonic()
            rate = (self._seen() - self.first) / (self.said - self.started)
            left = tqdm.format_interval((self.total - self._seen()) / rate)
            facts = "".join(f" {name} {value}" for name, value in self.facts.items())
            done = f"{self._seen() - self.run.epoch * self.per_epoch}/{self.per_epoch}"
            print(f"{head} {done}{facts}, {rate:.1f} samples/s, {left} left", flush=True)

    def on_train_end(self, **_):
        if self.bar is not None:
            self.bar.close()

    def _seen(self):
        within = min(self.run.batch * self.batch_size, self.per_epoch)
        return self.run.epoch * self.per_epoch + within
