"""What controls a run: a fixed set in a fixed order, around the loop."""

from typing import Any

from utils.events import Control
from utils.notices import command
from utils.steer.steering import Steering
from utils.train.processes import World

from .checkpoint import Checkpoint
from .crash import Replay
from .debugger import Debugger
from .ending import Ending
from .failure import FailingBatch, Failure
from .signals import Signals


def run_controls(
    opt: Any, checkpoint: Checkpoint, world: World, train_loader: Any, val_loader: Any, debug_file: str, pdb: bool
) -> tuple[Control, ...]:
    """Failure (or with --step Replay), guard, checkpoint, ending, steering, signals and debugger, in this order: the
    failing batch is named before anything is saved or closed; skipped steps are counted before they are saved; what is
    saved is a whole step; a run that is done ends, and a command, a signal or the debugger's quit ends it, when all
    others are done with the batch.

    Args:
        opt: the options, which a command may change.
        checkpoint: the Checkpoint, whose state has the run, its guard and its meters.
        world: the World.
        train_loader, val_loader: whose batches may fail.
        debug_file, pdb: as in config.py.
    """
    state, watched = checkpoint.state, (world, train_loader, val_loader)
    otherwise = f"; to open it: {command('control', '--debug', f'--run={state.run.folder}')}" * opt.steer
    debugger = Debugger(debug_file, world, otherwise)
    failure = Replay(checkpoint, opt, *watched) if opt.step else Failure(state, *watched, pdb)
    signals, ending = Signals(world, state.meters, debugger), Ending(state.run, world)
    return failure, state.guard, checkpoint, ending, Steering(checkpoint, world, signals, opt), signals, debugger


def loop_controls(loader: Any, debug_file: str) -> tuple[Control, ...]:
    """What controls val and test: the failing batch is named, and the debugger opens on request.

    Args:
        loader: whose batches are measured or predicted.
        debug_file: as in config.py.
    """
    return FailingBatch(loader), Debugger(debug_file)
