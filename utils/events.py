"""What happens in a run, and how whoever watches it hears of it. (Light: main.py needs it before torch is there.)"""

import sys
from bdb import BdbQuit

EVENTS = (
    "on_train_begin",  # before the first epoch, once
    "on_epoch_begin",
    "on_batch_begin",
    "on_train_summary",  # every print_freq steps: losses and the training meter's measures so far
    "on_batch_end",
    "on_test_begin",
    "on_test_summary",  # after every batch of validation (dataset, input, target, prediction) or test, or part
    "on_test_end",
    "on_epoch_end",  # metrics (a row of results.csv), train_meter, val_meter
    "on_train_end",  # in any case; finished: all epochs are done, stopped: left through the debugger or by a signal,
    # error: the exception that ended it otherwise, or None
)


class Callback:
    """Does nothing on every event; events bring their facts as keyword arguments."""

    def _ignore(self, **facts):
        pass

    for _event in EVENTS:
        locals()[_event] = _ignore


class Callbacks(Callback):
    """Passes every event on to some callbacks, in order. `with Callbacks(...)` brackets the training: on_train_end
    reaches all of them whatever happens, and quitting the debugger is a regular end of the block."""

    def __init__(self, *callbacks):
        self.callbacks = callbacks

    def __enter__(self):
        self.on_train_begin()
        return self

    def __exit__(self, kind, error, traceback):
        stopped = isinstance(error, BdbQuit) or not isinstance(error, (Exception, type(None)))
        failed = None if stopped else error
        failures = []
        for callback in self.callbacks:
            try:
                callback.on_train_end(finished=error is None, stopped=stopped, error=failed)
            except BaseException as failure:  # the others have to close what they hold, too
                failures.append(failure)
        for failure in failures:
            if failed is None or not isinstance(failure, Exception):
                raise failure
            print(f"and then: {type(failure).__name__}: {failure}", file=sys.stderr)
        return isinstance(error, BdbQuit)

    def _forward(event):
        def forward(self, **facts):
            for callback in self.callbacks:
                getattr(callback, event)(**facts)

        return forward

    for _event in EVENTS:
        locals()[_event] = _forward(_event)
