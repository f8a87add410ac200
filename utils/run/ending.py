"""An observer may say that the run is done: then it ends after the epoch, in all processes."""

from typing import Any

from utils.events import Control, Finished
from utils.notices import note


class Ending(Control):
    """Raises Finished, when an epoch is saved, where `run.over` gives a reason. Observers are in the first process
    alone, which tells the others.

    Args:
        run: the Run.
        world: the World.
    """

    def __init__(self, run: Any, world: Any):
        self.run, self.world = run, world

    def on_epoch_end(self, **_: Any) -> None:
        if self.world.all_reduce_max(bool(self.run.over)):
            if self.run.over:
                note(f"the run ends after epoch {self.run.epoch}: {self.run.over}")
            raise Finished
