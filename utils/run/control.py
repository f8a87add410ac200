"""What controls a run: a fixed set in a fixed order, around the loop."""

from typing import Any

from utils.events import EVENTS, Control
from utils.train.processes import World

from .checkpoint import Checkpoint
from .debugger import Debugger
from .failure import Failure
from .guard import NonFiniteGuard
from .signals import Signals


class RunControl(Control):
    """Hands every event to failure, guard, checkpoint, signals and debugger, in this order: the failing batch is named
    before anything is saved or closed; skipped steps are counted before they are saved; what is saved is a whole step;
    a signal or the debugger's quit ends the run when all others are done with the batch.

    Args:
        guard: the NonFiniteGuard, which acts every print_freq steps.
        checkpoint: the Checkpoint, whose state has the run and its meters.
        world: the World.
        train_loader, val_loader: whose batches may fail.
        debug_file, pdb: as in config.py.
    """

    def __init__(
        self,
        guard: NonFiniteGuard,
        checkpoint: Checkpoint,
        world: World,
        train_loader: Any,
        val_loader: Any,
        debug_file: str,
        pdb: bool,
    ):
        state, self.guard, self.checkpoint = checkpoint.state, guard, checkpoint
        failure, debugger = Failure(state.run, train_loader, val_loader, pdb), Debugger(debug_file, world)
        self.signals = Signals(world, state.meters, debugger)
        self.parts = (failure, guard, checkpoint, self.signals, debugger)

    def on_train_end(self, **facts: Any) -> None:
        """Every part concludes, whatever fails in the others: the run has to be saved. Raises the first failure."""
        failures: list[BaseException] = []
        for part in self.parts:
            try:
                part.on_train_end(**facts)
            except BaseException as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def on_train_summary(self, **facts: Any) -> None:
        """The guard alone controls something here: it may take the weights back to an earlier checkpoint."""
        self.guard.check(self.checkpoint.restore_before)

    def close(self, **facts: Any) -> None:
        """Release the run, and let a signal end the program."""
        try:
            self.checkpoint.close(**facts)
        finally:
            self.signals.close(**facts)


def _forward(event: str) -> Any:
    def forward(self: RunControl, **facts: Any) -> None:
        for part in self.parts:
            getattr(part, event)(**facts)

    return forward


for _event in EVENTS:
    if _event not in vars(RunControl):
        setattr(RunControl, _event, _forward(_event))
