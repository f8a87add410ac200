"""How large a model is: parameters and work, against published figures."""

import pytest
import torch
from conftest import FAST, main
from toy_data import Points, Squares

from models import ResNet34
from models.mlp import MLP
from utils import UserError
from utils.watch.model_summary import print_summary, summary


def test_the_size_of_resnet34_is_the_published_one(capsys):
    model = ResNet34(num_classes=1000)
    sizes = summary(model, torch.zeros(1, 3, 224, 224))
    assert sizes["parameters"] == sizes["trainable"] == 21_797_672  # torchvision's figure
    assert sizes["flops"] / 2 == pytest.approx(3.664e9, rel=1e-3)  # torchvision: 3.66 GMACs

    model, perceptron = ResNet34(num_classes=2), MLP()
    model.freeze_body()
    model.train()
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    print_summary(model, Squares(), Squares())
    print_summary(perceptron, Points(), Points())
    data, first, _, second = capsys.readouterr().out.splitlines()
    assert data.startswith("Squares: ") and " samples to train on, " in data
    assert first == "ResNet34: 21,285,698 parameters (1,026 trainable), 598.1 MFLOPs for one sample"
    assert second == "MLP: 2,881 parameters, 5.5 kFLOPs for one sample"  # 2 x (2 x 72 + 72 x 36 + 36)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator) and all(p.grad is None for p in model.parameters())


def test_a_size_is_measured_without_cudnn_which_would_compile_for_it():
    class Curious(MLP):
        def forward(self, input):
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(input)

    seen = []
    print_summary(Curious(), Points(), Points())
    assert len(seen) == 2 and not any(seen) and torch.backends.cudnn.enabled


class Growing(Squares):
    """Squares that are trained on in two sizes."""

    train_sizes = [(64, 64), (32, 48)]


class OneSize(ResNet34):
    """Takes squares of 64 pixels alone."""

    def forward(self, x):
        assert x.shape[-1] == 64, f"width {x.shape[-1]}\nis not 64"
        return super().forward(x)


def test_a_size_in_training_that_the_model_cannot_take_is_named_before_the_first_step(capsys):
    print_summary(ResNet34(), Growing(), Squares())
    print_summary(OneSize(), Squares(), Squares())
    message = r"^OneSize takes no pictures of 48x32, which --train-image-size has \(width 48\): give others, or "
    with pytest.raises(UserError, match=message):
        print_summary(OneSize(), Growing(), Squares())


class One(Squares):
    """A class and a sample."""

    classes = ("left",)

    def __len__(self):
        return 1


def test_one_class_and_one_sample_are_counted_as_one(capsys):
    print_summary(MLP(), One(), Points())
    assert capsys.readouterr().out.startswith("One: 1 sample to train on, 6 to validate on; 1 class: left\n")


@pytest.mark.parametrize(
    "options", [["--criterion=l1", "--mixup=0.2"], ["--criterion=0.5*focal+0.5*mse", "--cutmix=1"]]
)
def test_a_loss_that_validation_alone_cannot_compute_is_one_line_before_a_run_begins(tmp_path, pictures, options):
    done = main("train", f"--train-data-root={pictures}", *FAST, *options, cwd=tmp_path)
    assert (
        done.returncode == 2 and "compares scores and targets of one shape, not [2, 2] with [2] (int64)" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "checkpoints").exists()


def test_what_is_tried_before_a_training_changes_nothing_of_the_model():
    class Strange(ResNet34):
        def objective(self, input, target):
            tried.append((self.training, torch.is_grad_enabled(), len(input)))
            torch.rand(3)
            return super().objective(input, target)

    tried, model = [], Strange(num_classes=2).train()
    before, generator = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    print_summary(model, Squares(), Squares())
    assert tried == [(False, False, 2)] and model.training and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.set_criterion("mse")
    with pytest.raises(UserError, match="the loss mse compares"):
        print_summary(model, Squares(), Squares())
