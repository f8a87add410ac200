"""What feeds a run's record (events.jsonl) to another program, live or afterwards: the same lines either way."""

import itertools
import os
import queue
import threading
from pathlib import Path
from typing import Any

from utils import UserError
from utils.events import Callback, describe
from utils.notices import command, warn
from utils.options.options import read_yaml
from utils.visdom.screen import gather, read_events

PATIENCE = 10.0  # seconds that the end of a run waits for a tracker


class Tracker(Callback):
    """Hands over what the record has: at the start of a run all that is there, afterwards what was added. A subclass
    says what is done with it, in the methods below. In a training they are called by a thread of their own, so that a
    program that is slow, or hangs, holds up no step; what fails, or takes too long at the end, is one warning.

    Attributes:
        needs: the package that it imports, which need not be installed.

    Args:
        run: the Run; in its folder are the record, config.yaml and results.csv.
    """

    needs = ""

    def __init__(self, run: Any):
        self.folder = Path(run.folder)
        self.record, self.size = self.folder / "events.jsonl", 0

    def begin(self) -> None:
        """The run begins, or is resumed: all that was handed over before comes again."""

    def scalar(self, name: str, step: int, value: float, time: float) -> None:
        """A point of a curve. step: of the losses the step, of all else the epoch; time: seconds since 1970."""

    def picture(self, name: str, step: int, path: Path, time: float) -> None:
        """A picture, a PNG file; step: its number among those of its name, from 1."""

    def text(self, line: str, time: float) -> None:
        """A line of the log."""

    def end(self, options: dict[str, Any], metrics: dict[str, float]) -> None:
        """The run ends, or is stopped. options: its numbers, texts and flags; metrics: the last of every curve."""

    def flush(self) -> None:
        """What was added to the record is handed over: points that were collected may be written now."""

    def on_train_begin(self, **_: Any) -> None:
        self.sizes: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # of the record when it grew; None at the end
        arguments = (self.record_size(),)
        self.thread = threading.Thread(target=self._work, args=arguments, name=type(self).__name__, daemon=True)
        self.thread.start()

    def on_train_summary(self, **_: Any) -> None:
        if self.sizes.empty():  # else the thread is behind, and catches up with a later size
            self.sizes.put(self.record_size())

    def on_epoch_end(self, **_: Any) -> None:
        self.on_train_summary()

    def on_train_end(self, **_: Any) -> None:
        self.sizes.put(self.record_size())
        self.sizes.put(None)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            name = type(self).__name__
            again = command("replay", f"--run={self.folder}", f"--to={name}")
            late = f"is not ready {PATIENCE:.0f} seconds after the end, and is left alone"
            warn(f"the callback {name} {late}; to make all of it: {again}")

    def _work(self, size: int) -> None:
        """What the thread does from the beginning of the run to its end."""
        try:
            self.catch_up(size)
            while (grown := self.sizes.get()) is not None:
                self.follow(grown)
            self.finish()
        except Exception as error:
            warn(f"the callback {type(self).__name__} fails: {describe(error)}; the run continues")

    def replay(self) -> None:
        """Hand over the whole record of a run that is not trained now. What fails is raised."""
        self.catch_up(size := self.record_size())
        self.follow(size)
        self.finish()

    def record_size(self) -> int:
        """Bytes of the record: whole lines, where no other thread writes it."""
        return os.path.getsize(self.record) if self.record.exists() else 0

    def catch_up(self, size: int) -> None:
        """Begin, with the first `size` bytes of the record."""
        self.pictures: dict[str, itertools.count[int]] = {}
        self.begin()
        self.size = size
        events = [*read_events(self.record, 0, size)]
        drawn = [event for event in events if event.get("kind") == "plot"]
        times = {(event["name"], event["x"]): event["time"] for event in drawn}
        for (_kind, name), values in gather(drawn).items():  # drawn again by a resumed run: its last value counts
            for x, y in sorted(values.items()):
                self.hand_over({"kind": "plot", "name": name, "x": x, "y": y, "time": times[name, x]})
        for event in events:
            if event.get("kind") != "plot":
                self.hand_over(event)

    def follow(self, size: int) -> None:
        """Hand over what was added to the record, which has now `size` bytes."""
        for event in read_events(self.record, self.size, size - self.size):
            self.hand_over(event)
        self.size = size
        self.flush()

    def finish(self) -> None:
        """End, with the last value of every curve."""
        last: dict[str, float] = {}
        for (kind, name), values in gather(read_events(self.record)).items():
            if kind == "plot" and values[max(values)] is not None:
                last[name] = values[max(values)]
        self.end(self.options(), last)

    def hand_over(self, event: dict[str, Any]) -> None:
        """One event of the record; what is no point, picture or line of log is ignored."""
        kind, time = event.get("kind"), event.get("time", 0.0)
        if kind == "plot" and event["y"] is not None:  # nan and inf are kept as None
            self.scalar(event["name"], int(event["x"]), event["y"], time)
        elif kind == "log":
            self.text(event["text"], time)
        elif kind == "image" and (path := self.folder / str(event.get("file"))).is_file():
            number = next(self.pictures.setdefault(event["name"], itertools.count(1)))
            self.picture(event["name"], number, path, time)

    def options(self) -> dict[str, Any]:
        """The options of the run that are numbers, texts or flags; {} where config.yaml is lost."""
        try:
            options = read_yaml(self.folder / "config.yaml", ())
        except UserError:
            return {}
        return {name: value for name, value in options.items() if isinstance(value, (int, float, str))}
