"""End a run that gets no better."""

from typing import Any

from utils.events import Callback
from utils.notices import counted
from utils.run.run import monitored, read_rows


class EarlyStopping(Callback):
    """Ends the run, which then counts as finished, when its measure has not become better for some epochs. It counts
    from the rows of results.csv, so that a resumed run ends where the undisturbed one does.

    Args:
        run: the Run.
        vis: the Visualizer, whose log gets the reason.
        stop_patience: epochs without a better value, until the run ends.
        min_delta: by how much a value has to be better to count.
        monitor: name of the measure, or None for the one that selects best.pth; losses are best low, all else high.
    """

    def __init__(self, run: Any, vis: Any, stop_patience: int, min_delta: float, monitor: str | None = None):
        self.run, self.vis, self.patience, self.min_delta, self.monitor = run, vis, stop_patience, min_delta, monitor
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, **_: Any) -> None:
        self.rows = [row for row in read_rows(self.run.folder) if int(row["epoch"]) <= self.run.epoch]

    def on_epoch_end(self, metrics: dict[str, float], **_: Any) -> None:
        self.rows.append(metrics)
        name = monitored(metrics, self.monitor)
        waited = waiting([float(row.get(name) or "nan") for row in self.rows], self.min_delta, name.endswith("loss"))
        if waited >= self.patience:
            self.run.over = f"{name} has been no better for {counted(waited, 'epoch')} (--stop-patience)"
            self.vis.log(self.run.over)


def waiting(values: list[float], min_delta: float, low: bool) -> int:
    """How many values came since the last one that was better than all before it by more than min_delta. nan is never
    better."""
    best, since = float("-inf"), 0
    for value in values:
        signed = -value if low else value
        best, since = (signed, 0) if signed > best + min_delta else (best, since + 1)
    return since
