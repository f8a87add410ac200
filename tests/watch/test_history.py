"""What a report draws of the last training batch, and what happens when a part of it fails."""

from types import SimpleNamespace

import pytest
import torch
from toy_data import Squares

from models.mlp import MLP
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


def test_a_picture_that_fails_is_one_warning_and_the_rest_is_written(history, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.notices._said", set())
    history.dataset.draw = lambda input, target, prediction: prediction.argmax()
    for _ in range(2):
        history.on_batch_end()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the report is not complete: draw_batch fails: AttributeError: ")
    assert (tmp_path / "index.html").exists()
