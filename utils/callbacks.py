"""What watches a run. A callback hears of events while main.py's loop goes its way; it overrides what it cares for."""

import math
import shlex
import sys
import time
from bdb import BdbQuit

import torch
from tqdm import tqdm

from . import UserError, plots

EVENTS = (
    "on_train_begin",  # before the first epoch, once
    "on_epoch_begin",
    "on_batch_begin",
    "on_train_summary",  # every print_freq steps: losses and the training meter's measures so far
    "on_batch_end",
    "on_test_begin",
    "on_test_summary",  # after every batch of validation (dataset, input, target, prediction) or test
    "on_test_end",
    "on_epoch_end",  # metrics (a row of results.csv), train_meter, val_meter
    "on_train_end",  # in any case; finished: all epochs are done, stopped: left through the debugger
)


class Callback:
    """Does nothing on every event; events bring their facts as keyword arguments."""

    def _ignore(self, **facts):
        pass

    for _event in EVENTS:
        locals()[_event] = _ignore


class Callbacks(Callback):
    """Passes every event on to some callbacks, in order. `with Callbacks(...)` brackets the training:
    on_train_end comes whatever happens, and quitting the debugger is a regular end of the block."""

    def __init__(self, *callbacks):
        self.callbacks = callbacks

    def __enter__(self):
        self.on_train_begin()
        return self

    def __exit__(self, kind, error, traceback):
        stopped = kind is not None and issubclass(kind, BdbQuit)
        self.on_train_end(finished=kind is None, stopped=stopped)
        return stopped

    def _forward(event):
        def forward(self, **facts):
            for callback in self.callbacks:
                getattr(callback, event)(**facts)

        return forward

    for _event in EVENTS:
        locals()[_event] = _forward(_event)


class Checkpoint(Callback):
    """Keeps last.pth (everything), best.pth and some epochs' weights; takes up what last.pth holds.

    Args:
        run: the Run; its position is part of the state.
        module: the model, a BasicModule.
        parts: {name: object with state_dict and load_state_dict}, saved and restored whole.
        measures: names of the validation's measures, the most telling first.
        monitor: the number that best.pth follows, or None for the first measure; losses are best low, all else high.
        keep_last: how many epochs' weights to keep besides.
        keep_every, keep_from: of every so many epochs, from that one on, also keep the weights, with the measure in the
            file's name, and a folder with the epoch's report; 0 for none.
    """

    def __init__(self, run, module, parts, measures, monitor, keep_last, keep_every, keep_from):
        self.run, self.model, self.parts = run, module, {"run": run, **parts}
        self.keep_last, self.keep_every, self.keep_from = keep_last, keep_every, keep_from
        known = [*(f"val_{name}" for name in measures), *(["val_loss"] if module.val_loss else []), "loss"]
        self.monitor = monitor or known[0]
        if self.monitor not in known:
            raise UserError(f"--monitor={monitor}: this data set and model give {', '.join(known)}")

    def on_train_begin(self):
        if (self.run.folder / "last.pth").exists():
            content = self.model.load(self.run.folder / "last.pth")
            missing = self.parts.keys() - content.keys()
            if missing:
                raise UserError(
                    f"{self.run.folder} was begun by an older hearth: last.pth has no {', '.join(missing)}. A new run "
                    "can start from its weights with --load-model-path, without --resume"
                )
            for name, part in self.parts.items():
                part.load_state_dict(content[name])
            print(f"going on with {self.run.folder} after {self.run.epoch} epochs and {self.run.batch} batches")
        else:
            self._save_last()  # tells now, not after the first epoch, when there is no room; and --resume has a start

    def on_epoch_end(self, metrics, val_meter, **_):
        if self.monitor not in metrics:  # of a measure that the data set has and this model does not
            raise UserError(f"--monitor={self.monitor}: this model gives {', '.join(metrics)}")
        folder, epoch, value, best = self.run.folder, self.run.epoch, metrics[self.monitor], self.run.best
        if best is None or best != best or (value < best if self.monitor.endswith("loss") else value > best):
            self.run.best = value
            self.model.save(folder / "best.pth", metrics=metrics)
        if self.keep_last:
            self.model.save(folder / f"epoch_{epoch:03d}.pth", metrics=metrics)
            kept = sorted(folder.glob("epoch_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
            for old in [path for path in kept if path.stem.count("_") == 1][: -self.keep_last]:
                old.unlink()
        if self.keep_every and epoch >= self.keep_from and epoch % self.keep_every == 0:
            kept = folder / f"epoch_{epoch:03d}_{self.monitor}_{value:.4g}"
            self.model.save(f"{kept}.pth", metrics=metrics)
            kept.mkdir(exist_ok=True)
            val_meter.report(kept)
        self._save_last()

    def on_train_end(self, finished, stopped):
        if stopped:
            self._save_last()
        if finished:
            self.run.finish()
            tqdm.write(f"finished: {self.run.folder}, best {self.monitor} {self.run.best:.4g}")
        elif not self.run.step:
            self.run.finish()  # failed in its first step: --resume would only fail again
        else:
            tqdm.write(f"stopped; to go on: python main.py train --resume={shlex.quote(str(self.run.folder))}")
        self.run.close()

    def _save_last(self):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        self.model.save(self.run.folder / "last.pth", **state)


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
    """Draws predictions beside the truth for every k-th batch of a validation: calls show(name, picture) with uint8
    tensors [3, H, W]."""

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

    def __init__(self, run, max_epoch):
        self.run, self.max_epoch = run, max_epoch
        self.next_drawing, self.draw = 0.0, lambda: None

    def on_epoch_begin(self):
        self.began = time.monotonic()

    def on_test_begin(self):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # once an epoch; the host is ahead of the device
        self.trained = time.monotonic()

    def on_epoch_end(self, metrics, val_meter, **_):
        seconds, training = time.monotonic() - self.began, self.trained - self.began
        rows = self.run.add_result({**metrics, "train_seconds": round(training, 2), "seconds": round(seconds, 2)})

        def draw():
            try:
                plots.curves(rows, self.run.folder / "curves.png")
                val_meter.report(self.run.folder)
            except OSError as error:  # a picture is no reason to end a training
                tqdm.write(f"warning: the epoch's report is not complete: {error}", file=sys.stderr)

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
    """A bar on a terminal, a plain line every few seconds elsewhere: epoch, loss, accuracy, samples/s, time left; and a
    warning for the steps that `update` skipped."""

    EVERY = 10.0  # seconds between two plain lines

    def __init__(self, run, loader, update, max_epoch, shown):
        order, self.update = loader.batch_sampler, update
        self.run, self.batch_size, self.max_epoch, self.shown = run, order.batch_size, max_epoch, shown
        self.per_epoch, self.total = order.length, order.length * max_epoch
        self.bar, self.facts = None, {}
        self.bad, self.last_bad = 0, -2

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
        self._warn()

    def on_epoch_end(self, **_):
        self._warn()

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
        self._warn()
        if self.bar is not None:
            self.bar.close()

    def _warn(self):
        for step, losses in self.update.skipped():
            self.bad = self.bad + 1 if step == self.last_bad + 1 else 1
            self.last_bad = step
            if self.bad & (self.bad - 1) == 0:  # 1, 2, 4, 8, ... in a row
                parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                row = f" ({self.bad} in a row)" if self.bad > 1 else ""
                what = "a gradient" if math.isfinite(sum(losses.values())) else "its loss"
                tqdm.write(f"warning: step {step} is skipped, {what} is not finite: {parts}{row}", file=sys.stderr)

    def _seen(self):
        within = min(self.run.batch * self.batch_size, self.per_epoch)
        return self.run.epoch * self.per_epoch + within
