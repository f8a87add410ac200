"""The events of a run, and how observers and controllers hear of them. (No torch here: signals.py needs it first.)"""

import functools
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from utils.notices import once, warn

EVENTS = (
    "on_train_begin",  # once, when the run's state is restored: before the first epoch
    "on_epoch_begin",
    "on_batch_begin",
    "on_train_summary",  # every print_freq steps: losses and the training meter's measures so far
    "on_batch_end",
    "on_test_begin",
    "on_test_summary",  # after every batch of validation (dataset, input, target, prediction) or test, or part of one
    "on_test_end",
    "on_epoch_end",  # metrics (a row of results.csv), train_meter, val_meter
    "on_train_end",  # however it ends; finished: all epochs are done, stopped: by the debugger or a signal,
    # error: the exception that ended it otherwise, or None
)


class Finished(Exception):
    """Ends a run before its last epoch as one that is finished: nothing went wrong, there is no more to do."""


class Callback:
    """Does nothing on every event. Events bring their facts as keyword arguments; a method names those that it needs
    and takes the rest as **facts. Observers are called in the first process alone. Their constructor may name options
    of config.py, and run, model, optimizer, schedule, step, meters, train_loader, val_loader, vis and show."""

    def _ignore(self, **facts: Any) -> None:
        pass

    on_train_begin = on_epoch_begin = on_batch_begin = on_train_summary = on_batch_end = _ignore
    on_test_begin = on_test_summary = on_test_end = on_epoch_end = on_train_end = _ignore


class Control(Callback):
    """A callback that controls the run: its errors end it. It hears of an event after all observers; of on_train_end
    before them, because nothing may keep a run from being saved, and `close` comes last. At the end every control is
    called, whatever fails in the others."""

    def close(self, **facts: Any) -> None:
        """Release what is held; the facts are those of on_train_end."""


class Callbacks(Callback):
    """Hands every event to the observers, in order, and then to the controls, in order.

    `with Callbacks(...)` brackets the work: on_train_end and close happen however it ends; Finished, and quitting the
    debugger, are regular ends of the block. An observer that fails is one warning and the run continues.
    """

    def __init__(self, observers: Sequence[Callback] = (), *controls: Control):
        self.observers, self.controls, self.began = observers, controls, False

    def __enter__(self) -> "Callbacks":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> bool:
        finished = error is None or isinstance(error, Finished)
        stopped = isinstance(error, BdbQuit) or not (finished or isinstance(error, Exception))
        failed = None if finished or stopped else error
        facts = {"finished": finished, "stopped": stopped, "error": failed}
        failures: list[BaseException] = []
        acts: list[Callable[..., None]] = [control.on_train_end for control in self.controls]
        if self.began:  # else the run could not be restored: observers hear nothing of its end
            acts.append(functools.partial(self._observe, "on_train_end"))
        for act in acts + [control.close for control in self.controls]:
            try:
                act(**facts)
            except BaseException as failure:  # the others have to close what they hold, too
                failures.append(failure)
        for later in failures:
            if failed is None or not isinstance(later, Exception):
                raise later
            print(f"and then: {type(later).__name__}: {later}", file=sys.stderr)
        return isinstance(error, (BdbQuit, Finished))

    def _observe(self, event: str, **facts: Any) -> None:
        """Hand an event to the observers: one that fails is a warning."""
        self.began |= event == "on_train_begin"
        for number, observer in enumerate(self.observers):
            try:
                getattr(observer, event)(**facts)
            except BdbQuit:  # somebody set a breakpoint in it and left
                raise
            except Exception as error:
                if once(f"failing {number}", owner=self):
                    name = type(observer).__name__
                    warn(f"the callback {name} fails at {event}: {describe(error)}; the run continues")


def describe(error: Exception) -> str:
    """What was raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _forward(event: str) -> Callable[..., None]:
    def forward(self: Callbacks, **facts: Any) -> None:
        self._observe(event, **facts)
        for control in self.controls:
            getattr(control, event)(**facts)

    return forward


for _event in EVENTS:
    setattr(Callbacks, _event, _forward(_event))
