"""What was changed between two starts of a run is said, and a model that does not fit its data leaves no run."""

import pytest
from runs import only_run
from torch import nn

import main as program
import models
from models.basic_module import BasicModule
from utils import UserError, watch
from utils.metrics.iou_meter import IoUMeter
from utils.options import own


class Mine(BasicModule):
    """A user's model, edited between two starts."""

    outputs = width = 0

    def __init__(self, num_classes=2):
        super().__init__()
        self.body, self.classifier = (
            nn.Linear(3, 4 + self.width),
            nn.Linear(4 + self.width, self.outputs or num_classes),
        )

    def forward(self, x):
        return self.classifier(self.body(x.mean(dim=(2, 3))))


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train a Mine in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "Mine", Mine, raising=False)
    monkeypatch.setattr(watch.History, "draw", lambda self: None)
    monkeypatch.setattr(own, "files", {})

    def run(**options):
        fast = {"image_size": 32, "batch_size": 8, "num_workers": 0, "vis_port": 1, "progress": False, "pack": False}
        program.train(model="Mine", train_data_root=str(pictures), **fast, **options)

    return run


@pytest.mark.parametrize("outputs", [3, 1000])
def test_a_model_with_another_number_of_outputs_than_classes_is_one_line_before_a_run_begins(
    train, tmp_path, monkeypatch, outputs
):
    monkeypatch.setattr(Mine, "outputs", outputs)
    with pytest.raises(UserError, match=rf"^the scores are \[2, {outputs}\], for targets \[2\] of 2 classes: "):
        train(max_epoch=1)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_whose_code_was_changed_says_so_when_it_is_resumed(train, tmp_path, monkeypatch, capsys):
    loss = "from torch.nn import functional as F\n\n\ndef changed_loss(score, target, weight):\n    return {}"
    loss += "F.cross_entropy(score, target)\n"
    (tmp_path / "changed_file.py").write_text(loss.format(""))
    train(max_epoch=1, criterion="changed_file.changed_loss")
    run = only_run(tmp_path)
    train(resume=run.name, max_epoch=2)
    assert "this code has changed" not in capsys.readouterr().out
    (tmp_path / "changed_file.py").write_text(loss.format("2 * "))
    what = f"changed_file.py (it was checkpoints/{run.name}/source_2_changed_file.py)"
    monkeypatch.setattr(Mine, "width", 1)
    with pytest.raises(
        UserError, match="does not fit Mine .*; since the run's last start this code has changed: "
    ) as e:
        train(resume=run.name, max_epoch=3)
    assert str(e.value).endswith(what)
    assert f"note: since the last start of checkpoints/{run.name} this code has changed: {what}\n" in (
        capsys.readouterr().out
    )


def test_scores_of_more_classes_than_pixels_have_are_never_counted():
    meter, scores = IoUMeter(["sky", "sea"]), program.torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match="last layer needs an output per class"):
        meter.add(scores, program.torch.zeros(1, 4, 4, dtype=int))
