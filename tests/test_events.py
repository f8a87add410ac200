"""The events of a run: their order, who hears of them first, and what an error of a callback does."""

import inspect

import pytest
import torch
from matplotlib.figure import Figure
from runs import only_run

import main as program
from utils.events import EVENTS, Callback, Callbacks, Control
from utils.run.checkpoint import Checkpoint
from utils.run.checkpoint_file import read_checkpoint


class Recorder(Callback):
    """Writes down every event, with the names of its facts, and what the run had on the disk when it ended."""

    heard = []

    def __init__(self, run):
        self.run = run
        Recorder.heard = []
        Recorder.at_end = None

    def on_train_end(self, **facts):
        """What is on the disk when observers hear of the end."""
        Recorder.heard.append(("on_train_end", sorted(facts)))
        saved = read_checkpoint(self.run.folder / "last.pth")["run"]["step"]
        Recorder.at_end = {**facts, "saved": saved, "lock": (self.run.folder / "lock").read_text()}


for event in set(EVENTS) - {"on_train_end"}:
    setattr(Recorder, event, lambda self, event=event, **facts: self.heard.append((event, sorted(facts))))


class Broken(Callback):
    """An observer that fails at every batch, and at the end."""

    def on_batch_end(self, **_):
        """Fails."""
        raise ValueError("no such thing")

    on_train_end = on_batch_end


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train for two epochs of four steps in this process, watched by these callbacks; the run's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # which would take longer than to train

    def run(*callbacks, **options):
        fast = {"image_size": 32, "batch_size": 7, "num_workers": 0, "vis_port": 1, "print_freq": 2, "max_epoch": 2}
        names = [f"test_events.{name}" for name in callbacks]
        program.train(train_data_root=str(pictures), model="SqueezeNet", callbacks=names, **fast, **options)
        return only_run(tmp_path)

    return run


def test_the_events_of_a_run_come_in_their_order_with_their_facts(train):
    train("Recorder")
    two_steps = ["on_batch_begin", "on_batch_end", "on_batch_begin", "on_train_summary", "on_batch_end"]
    validation = ["on_test_begin", "on_test_summary", "on_test_summary", "on_test_end"]
    epoch = ["on_epoch_begin", *two_steps, *two_steps, *validation, "on_epoch_end"]
    assert [name for name, _ in Recorder.heard] == ["on_train_begin", *epoch, *epoch, "on_train_end"]
    assert {name for name, _ in Recorder.heard} == set(EVENTS)
    facts = dict(Recorder.heard)
    assert facts["on_train_summary"] == ["accuracy", "loss"]
    assert facts["on_test_summary"] == ["dataset", "input", "prediction", "target"]
    assert facts["on_epoch_end"] == ["metrics", "train_meter", "val_meter"]
    assert facts["on_train_end"] == ["error", "finished", "stopped"]
    assert not any(facts[name] for name in set(EVENTS) - {"on_train_summary", "on_test_summary", *EVENTS[-2:]})


def test_a_run_is_saved_before_observers_hear_of_its_end_and_released_after(train):
    run = train("Recorder")
    end = {"finished": True, "stopped": False, "error": None}
    assert Recorder.at_end == {**end, "saved": 8, "lock": "unfinished"}
    assert (run / "lock").read_text() == "finished"


def test_an_observer_that_fails_is_one_warning_and_the_run_continues(train, capsys):
    run = train("Broken", "Recorder")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "callback" in line]
    line = inspect.getsourcelines(Broken.on_batch_end)[1] + 2
    message = f"the callback Broken fails at on_batch_end: ValueError: no such thing ({__file__}:{line})"
    assert warnings == [f"warning: {message}; the run continues"]
    assert [name for name, _ in Recorder.heard].count("on_batch_end") == 8 and Recorder.at_end["finished"]
    assert (run / "lock").read_text() == "finished"


def test_an_error_of_what_controls_the_run_ends_it_and_it_is_saved(train, monkeypatch, tmp_path):
    plain = Checkpoint.on_batch_end

    def fails(self, **facts):
        plain(self, **facts)
        if self.run.step == 3:
            raise RuntimeError("this must not be passed over")

    monkeypatch.setattr(Checkpoint, "on_batch_end", fails)
    with pytest.raises(RuntimeError, match="this must not be passed over"):
        train("Recorder")
    assert Recorder.heard[-2:] == [("on_batch_end", []), ("on_train_end", ["error", "finished", "stopped"])]
    assert isinstance(Recorder.at_end["error"], RuntimeError) and not Recorder.at_end["finished"]
    assert Recorder.at_end["saved"] == 3
    run = only_run(tmp_path)
    assert (run / "lock").read_text() == "unfinished"
    assert all(value.isfinite().all() for value in read_checkpoint(run / "last.pth")["weights"].values())
    assert torch.load(run / "last.pth", weights_only=False)["run"]["step"] == 3


# --- the bracket by itself


class Watched(Callback):
    """Writes down what it hears of; fails at one event."""

    def __init__(self, name, log, fails=""):
        self.name, self.log, self.fails = name, log, fails

    def hear(self, event):
        """Write it down."""
        self.log.append(f"{self.name} {event}")
        if event == self.fails:
            raise KeyError(event)

    def on_batch_end(self, **_):
        """One event."""
        self.hear("on_batch_end")

    def on_train_end(self, **_):
        """Another one."""
        self.hear("on_train_end")


class Controls(Watched, Control):
    """The same as a control."""

    def close(self, **_):
        """The last act."""
        self.hear("close")


def test_observers_hear_in_their_order_and_then_the_control_but_of_the_end_the_control_hears_first():
    log = []
    with Callbacks([Watched("one", log), Watched("two", log)], Controls("control", log)) as callbacks:
        callbacks.on_train_begin()
        callbacks.on_batch_end()
    batch = ["one on_batch_end", "two on_batch_end", "control on_batch_end"]
    assert log == [*batch, "control on_train_end", "one on_train_end", "two on_train_end", "control close"]


def test_observers_hear_nothing_of_the_end_of_a_run_that_has_not_begun():
    log = []
    with pytest.raises(ZeroDivisionError):
        with Callbacks([Watched("one", log)], Controls("control", log)):
            raise ZeroDivisionError
    assert log == ["control on_train_end", "control close"]


@pytest.mark.parametrize("fails", ["on_train_end", "close"])
def test_whatever_fails_at_the_end_the_others_hear_of_it(fails, capsys):
    log = []
    with pytest.raises(KeyError, match=fails):
        with Callbacks([Watched("one", log), Watched("two", log)], Controls("control", log, fails)) as callbacks:
            callbacks.on_train_begin()
    assert log == ["control on_train_end", "one on_train_end", "two on_train_end", "control close"]
    log.clear()
    with pytest.raises(ZeroDivisionError):  # the first error is the one that counts; the other is printed
        with Callbacks([Watched("one", log)], Controls("control", log, fails)) as callbacks:
            callbacks.on_train_begin()
            raise ZeroDivisionError
    assert log == ["control on_train_end", "one on_train_end", "control close"]
    assert capsys.readouterr().err == f"and then: KeyError: '{fails}'\n"


def test_each_failing_observer_has_its_own_warning(capsys):
    log = []
    with Callbacks([Watched("one", log, "on_batch_end"), Watched("two", log, "on_batch_end")]) as callbacks:
        callbacks.on_batch_end()
        callbacks.on_batch_end()
    assert log[:4] == ["one on_batch_end", "two on_batch_end"] * 2
    assert capsys.readouterr().err.count("warning: the callback Watched fails at on_batch_end") == 2


def test_a_control_that_fails_at_the_end_does_not_keep_the_others_from_saving():
    class Part(Control):
        concluded = []

        def __init__(self, name, error=None):
            self.name, self.error = name, error

        def on_train_end(self, **facts):
            Part.concluded.append(self.name)
            if self.error:
                raise self.error

    parts = [Part("failure", OSError("the terminal is gone")), Part("guard"), Part("checkpoint")]
    with pytest.raises(OSError, match="the terminal is gone"), Callbacks([], *parts):
        pass
    assert Part.concluded == ["failure", "guard", "checkpoint"]
