"""What watches a run. A callback hears of events while main.py's loop goes its way; it overrides what it cares for."""

import shlex
import sys
import time
from bdb import BdbQuit

from tqdm import tqdm

from . import plots

EVENTS = (
    "on_train_begin",  # before the first epoch, once
    "on_epoch_begin",
    "on_batch_begin",
    "on_train_summary",  # every print_freq steps: loss and the training meter's measures so far
    "on_batch_end",
    "on_test_begin",
    "on_test_summary",  # after every batch of validation or test
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
    """Keeps last.pth (everything), best.pth and the weights of the last k epochs; takes up what last.pth holds.

    Args:
        run: the Run; its position is part of the state.
        model: BasicModule.
        parts: {name: object with state_dict and load_state_dict}, saved and restored whole.
        monitor: the measure that best.pth follows; losses are best low, everything else high.
        keep_last: how many epochs' weights to keep besides.
    """

    def __init__(self, run, model, parts, monitor, keep_last):
        self.run, self.model, self.parts = run, model, {"run": run, **parts}
        self.monitor, self.keep_last = monitor, keep_last

    def on_train_begin(self):
        if (self.run.folder / "last.pth").exists():
            content = self.model.load(self.run.folder / "last.pth")
            for name, part in self.parts.items():
                part.load_state_dict(content[name])
            print(f"going on with {self.run.folder} after {self.run.epoch} epochs and {self.run.batch} batches")
        else:
            self._save_last()  # tells now, not after the first epoch, when there is no room; and --resume has a start

    def on_epoch_end(self, metrics, **_):
        value, best = metrics[self.monitor], self.run.best
        if best is None or best != best or (value < best if self.monitor.endswith("loss") else value > best):
            self.run.best = value
            self.model.save(self.run.folder / "best.pth", metrics=metrics)
        if self.keep_last:
            self.model.save(self.run.folder / f"epoch_{self.run.epoch:03d}.pth", metrics=metrics)
            kept = sorted(self.run.folder.glob("epoch_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
            for old in kept[: -self.keep_last]:
                old.unlink()
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

    def _save_last(self):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        self.model.save(self.run.folder / "last.pth", **state)


class Plots(Callback):
    """Sends loss, accuracy, rate and a line of log per epoch to the Visualizer, which also keeps the record."""

    def __init__(self, vis, run):
        self.vis, self.run = vis, run

    def on_train_summary(self, loss, **_):
        self.vis.plot("loss", loss, x=self.run.step)

    def on_epoch_end(self, metrics, train_meter, val_meter):
        for name, value in metrics.items():
            if name not in ("epoch", "step", "loss"):  # the loss is plotted step by step
                self.vis.plot(name, value, x=self.run.epoch)
        self.vis.log(
            f"epoch:{metrics['epoch']}, lr:{metrics['lr']:g}, loss:{metrics['loss']:.4f}, "
            f"train_cm:{plain(train_meter.value())}, val_cm:{plain(val_meter.value())}"
        )

    def on_train_end(self, **_):
        self.vis.close()


def plain(value):
    """An array or tensor as nested lists; any other value of a meter as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


class History(Callback):
    """Writes results.csv, confusion.csv and .png, and curves.png into the run's folder; prints a line per epoch."""

    REDRAW = 30.0  # seconds between two drawings: with epochs of a second, drawing would take longer than training

    def __init__(self, run, max_epoch):
        self.run, self.max_epoch, self.drawn, self.draw = run, max_epoch, 0.0, lambda: None

    def on_epoch_begin(self):
        self.began = time.monotonic()

    def on_epoch_end(self, metrics, val_meter, **_):
        seconds = time.monotonic() - self.began
        rows = self.run.add_result({**metrics, "seconds": round(seconds, 2)})

        def draw():
            try:
                plots.curves(rows, self.run.folder / "curves.png")
                val_meter.report(self.run.folder)
            except OSError as error:  # a picture is no reason to end a training
                tqdm.write(f"warning: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)

        self.draw = draw
        if time.monotonic() - self.drawn > self.REDRAW:
            draw()
            self.drawn = time.monotonic()
        facts = [f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "step")]
        line = f"epoch {metrics['epoch']}/{self.max_epoch}: {', '.join(facts)}, {seconds:.1f} s"
        tqdm.write(line)  # above the bar, where there is one

    def on_train_end(self, **_):
        self.draw()


class Progress(Callback):
    """A bar on a terminal, a plain line every few seconds elsewhere: epoch, loss, accuracy, images/s, time left."""

    EVERY = 10.0  # seconds between two plain lines

    def __init__(self, run, samples_per_epoch, batch_size, max_epoch, shown):
        self.run, self.batch_size, self.max_epoch, self.shown = run, batch_size, max_epoch, shown
        self.per_epoch, self.total = samples_per_epoch, samples_per_epoch * max_epoch
        self.bar, self.facts = None, {}

    def on_train_begin(self):
        self.started, self.first, self.said = time.monotonic(), self._seen(), time.monotonic()
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total,
                initial=self.first,
                unit=" images",
                smoothing=0.1,
                miniters=1,  # else tqdm's own thread may draw the bar again, over the debugger's prompt
                dynamic_ncols=True,
                leave=False,
            )

    def on_epoch_begin(self):
        self.facts = {}

    def on_train_summary(self, loss, **facts):
        self.facts = {"loss": f"{loss:.3f}", **{name: f"{value:.1f}" for name, value in facts.items()}}

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
            print(f"{head} {done}{facts}, {rate:.1f} images/s, {left} left", flush=True)

    def on_train_end(self, **_):
        if self.bar is not None:
            self.bar.close()

    def _seen(self):
        within = min(self.run.batch * self.batch_size, self.per_epoch)
        return self.run.epoch * self.per_epoch + within
