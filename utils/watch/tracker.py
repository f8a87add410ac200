"""What feeds a run's record (events.jsonl) to another program, live or afterwards: the same lines either way."""

import itertools
import os
from pathlib import Path
from typing import Any

from utils import UserError
from utils.events import Callback
from utils.options.options import read_yaml
from utils.visdom.screen import gather, read_events


class Tracker(Callback):
    """Hands over what the record has: at the start of a run all that is there, afterwards what was added. A subclass
    says what is done with it, in the methods below. What fails is one warning, like that of any callback.

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

    def on_train_begin(self, **_: Any) -> None:
        self.pictures: dict[str, itertools.count[int]] = {}
        self.begin()
        self.size = size = os.path.getsize(self.record) if self.record.exists() else 0
        events = [*read_events(self.record, 0, size)]
        drawn = [event for event in events if event.get("kind") == "plot"]
        times = {(event["name"], event["x"]): event["time"] for event in drawn}
        for (_kind, name), values in gather(drawn).items():  # drawn again by a resumed run: its last value counts
            for x, y in sorted(values.items()):
                self.hand_over({"kind": "plot", "name": name, "x": x, "y": y, "time": times[name, x]})
        for event in events:
            if event.get("kind") != "plot":
                self.hand_over(event)

    def on_train_summary(self, **_: Any) -> None:
        self.follow()

    def on_epoch_end(self, **_: Any) -> None:
        self.follow()

    def on_train_end(self, **_: Any) -> None:
        self.follow()
        last: dict[str, float] = {}
        for (kind, name), values in gather(read_events(self.record)).items():
            if kind == "plot" and values[max(values)] is not None:
                last[name] = values[max(values)]
        self.end(self.options(), last)

    def follow(self) -> None:
        """Hand over what was added to the record: whole lines."""
        size = os.path.getsize(self.record) if self.record.exists() else 0
        for event in read_events(self.record, self.size, size - self.size):
            self.hand_over(event)
        self.size = size

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
