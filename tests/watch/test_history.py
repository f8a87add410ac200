"""What a report draws of the last training batch, and what happens when a part of it fails."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_data import Squares

from models.mlp import MLP
from utils.train.step import TrainStep
from utils.visdom import Visualizer
from utils.watch import History


@pytest.fixture
def history(tmp_path):
    """A History of a run in tmp_path, whose data set draws one picture per sample."""
    dataset, step = Squares(), SimpleNamespace(batch=(torch.zeros(3, 3, 8, 8), torch.zeros(3)))
    dataset.draw = lambda input, target, prediction: [*input.byte()]
    run, loader = SimpleNamespace(folder=tmp_path, step=1), SimpleNamespace(dataset=dataset)
    return History(run, SimpleNamespace(max_epoch=1), MLP(), loader, step)


def test_a_batch_of_fewer_pictures_leaves_none_of_an_earlier_one(history, tmp_path):
    (tmp_path / "train_of_thought.png").touch()  # somebody's own
    history.draw_batch()
    assert len([*tmp_path.glob("train_batch_?.png")]) == 3
    history.step.batch = history.step.batch[0][:1], history.step.batch[1][:1]
    history.on_batch_end()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["train_batch_0.png", "train_of_thought.png"]


def test_a_run_resumed_after_its_epochs_last_step_draws_nothing_and_keeps_what_was_drawn(history, tmp_path, capsys):
    history.draw_batch()
    model = MLP()
    history.step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))
    history.attempt(history.draw_batch)
    assert len([*tmp_path.glob("train_batch_?.png")]) == 3 and not capsys.readouterr().err


def test_a_picture_that_fails_is_one_warning_and_the_rest_is_written(history, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.notices._said", set())
    history.dataset.draw = lambda input, target, prediction: prediction.argmax()
    for _ in range(2):
        history.on_batch_end()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the report is not complete: draw_batch fails: AttributeError: ")
    assert (tmp_path / "index.html").exists()


def test_curves_that_callbacks_plot_are_drawn_and_no_others(history, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("utils.metrics.plots.save", lambda figure, path: drawn.update({path.name: figure}))
    vis = Visualizer(port=1, record=tmp_path / "events.jsonl")
    (tmp_path / "results.csv").write_text("epoch,loss,val_accuracy\n1,0.5,50\n")
    for name in ("loss", "loss_box", "val_accuracy"):
        vis.plot(name, 1.0)
    history.on_train_end()
    assert not drawn
    for number, value in enumerate((1.5, math.nan, 2.5)):
        vis.plot("norm $", value, x=10 * number)
    vis.plot("other", 3)
    history.on_train_end()
    norm, other = drawn["callbacks.png"].axes
    assert norm.get_title(loc="left") == r"norm \$" and other.get_title(loc="left") == "other"
    assert np.array_equal(norm.lines[0].get_xydata(), [[0, 1.5], [10, math.nan], [20, 2.5]], equal_nan=True)
