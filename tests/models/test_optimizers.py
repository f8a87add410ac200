"""--optimizer takes every class of torch.optim that can train, or one of the user's, with options of its own."""

import math

import pytest
import torch
from conftest import FAST, main
from runs import differences, only_run, rows, state
from torch import nn

import config
from models.basic_module import BasicModule
from utils import UserError
from utils.options.names import UNUSABLE, optimizers
from utils.train.muon import Muon, orthogonal
from utils.train.step import TrainStep


class Tiny(BasicModule):
    """A line, and BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def test_all_of_torchs_optimizers_are_offered_but_those_that_cannot_train():
    there = {name for name, made in vars(torch.optim).items() if isinstance(made, type)}
    assert set(optimizers()) == there - set(UNUSABLE) and {"RMSprop", "NAdam", "Adafactor"} < set(optimizers())


@pytest.mark.parametrize("name", optimizers())
def test_each_learns_skips_a_step_that_is_not_finite_and_resumes(name):
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    target = (data[:, 0] > 0).long()

    def begin():
        model = Tiny()
        return model, TrainStep(model, model.get_optimizer(name, 0.05, 1e-4, 0.9))

    def train(model, step, numbers):
        losses = []
        for number in numbers:
            for input, wanted in step.micro_batches(data * float("nan") if number == 1 else data, target):
                with step.attempt():
                    step.backward(*reversed(step.objective(input, wanted)))
            losses.append(sum(step.losses.values()).item())
            step.apply(number)
        return losses

    model, step = begin()
    losses = train(model, step, range(20))
    assert losses[-1] < losses[0] and [number for number, _ in step.pop_skipped()] == [1]
    first, begun = begin()
    train(first, begun, range(7))
    second, other = begin()
    second.load_state_dict(first.state_dict())
    other.optimizer.load_state_dict(begun.optimizer.state_dict())
    train(second, other, range(7, 20))
    assert differences(dict(second.state_dict()), dict(model.state_dict())) == []


def test_its_own_options_reach_it_and_unknown_ones_are_one_line(tmp_path, pictures):
    options = ["train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--optimizer=RMSprop", "--lr=1e-4"]
    main(*options, "--optimizer-options=alpha=0.9,centered=True", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    group, _ = state(run)["optimizer"]["param_groups"]
    assert (group["alpha"], group["centered"], group["momentum"]) == (0.9, True, 0.9)
    main("train", f"--resume={run}", "--max-epoch=2", cwd=tmp_path, check=0)
    assert len(rows(run)) == 2
    for given, message in {
        "alfa=0.9": "main.py: --optimizer-options: RMSprop.__init__() got an unexpected keyword argument 'alfa'",
        "alpha": "main.py: --optimizer-options cannot be 'alpha': it takes settings like alpha=0.9,centered=True",
        "alpha=-1": "main.py: --optimizer-options: Invalid alpha value: -1: RMSprop takes lr, alpha, eps,",
    }.items():
        done = main(*options, f"--optimizer-options={given}", cwd=tmp_path, check=2)
        assert message in done.stderr and "Traceback" not in done.stderr


def test_settings_are_read_as_python_writes_arguments():
    opt = config.load({"optimizer_options": "betas=(0.8, 0.99), amsgrad=True"})
    assert opt.optimizer_options == {"betas": (0.8, 0.99), "amsgrad": True}
    assert Tiny().get_optimizer("Adam", 0.1, 0.0, 0.9, **opt.optimizer_options).defaults["betas"] == (0.8, 0.99)
    for text in ("open('x')", "alpha=open", "1,2", "alpha="):
        with pytest.raises(UserError, match="--optimizer-options cannot be"):
            config.load({"optimizer_options": text})


MINE = """
import torch
from torch.nn import functional as F

class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay=0.0, scale=1.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "scale": scale})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * group["scale"] * parameter.grad.sign()

def hinge(score, target, weight):
    return F.multi_margin_loss(score.float(), target)

def thirds(progress, **_):
    return (1, 0.5, 0.25)[min(2, int(3 * progress))]
"""


def test_an_optimizer_a_loss_and_a_schedule_of_ones_own_are_one_file(tmp_path, pictures):
    (tmp_path / "mine.py").write_text(MINE)
    own = ["--optimizer=mine.Signs", "--optimizer-options=scale=0.5", "--criterion=0.5*mine.hinge+0.5*cross_entropy"]
    options = ["train", f"--train-data-root={pictures}", *FAST, *own, "--scheduler=mine.thirds", "--max-epoch=3"]
    main(*options, cwd=tmp_path, check=0)
    table = rows(only_run(tmp_path))
    assert [float(row["lr"]) for row in table] == [0.001, 0.0005, 0.00025]
    assert all(float(row["loss_hinge"]) > 0 and float(row["loss_cross_entropy"]) > 0 for row in table)
    (tmp_path / "mine.py").write_text(MINE.replace("return F", "return 1 / 0 + F"))
    done = main(*options, cwd=tmp_path, check=1)  # an error in it is shown, from main.py on: nothing of Fire's
    assert "in hinge" in done.stderr and "ZeroDivisionError" in done.stderr and "fire/core.py" not in done.stderr
    done = main("train", f"--train-data-root={pictures}", *FAST, "--criterion=mine.hingee", cwd=tmp_path, check=2)
    assert "--criterion=mine.hingee cannot be loaded: AttributeError" in done.stderr


# --- Muon


@pytest.mark.parametrize("shape", [(16, 27), (64, 16), (32, 32)])
def test_muon_makes_singular_values_alike_and_keeps_the_directions(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix.float()).double() @ right.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3 and values.max() / values.min() > 1.7
    assert (found - found.diagonal().diag()).abs().max() < 1e-4


def test_muons_squares_keep_the_digits_of_small_singular_values():
    """Against the iterations on the whole matrix, in float64."""
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(32, 32).double())[0], torch.linalg.qr(torch.randn(288, 32).double())[0]
    matrix = left @ torch.logspace(0, -4, 32).double().diag() @ right.T
    expected = matrix / matrix.norm()
    for _ in range(5):
        square = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * square + 2.0315 * square @ square) @ expected
    assert (orthogonal(matrix.float()) - expected).norm() < 1e-3 * expected.norm()


def test_muon_steps_as_its_paper_says():
    """Twice, for a convolution as a matrix, with Nesterov's look ahead, and with weight decay beside the gradient."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(12, 3, 3, 3))
    start, gradients = weight.detach().clone(), [torch.randn_like(weight) for _ in range(2)]
    optimizer = Muon([weight], lr=0.1, momentum=0.8, weight_decay=0.5)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    mean, expected = torch.zeros_like(start), start
    for gradient in gradients:
        mean = 0.8 * mean + 0.2 * gradient
        ahead = 0.2 * gradient + 0.8 * mean
        expected = expected * (1 - 0.1 * 0.5)
        expected = expected - 0.1 * 0.2 * math.sqrt(27) * orthogonal(ahead.view(12, 27)).view_as(start)
    assert torch.allclose(weight, expected, atol=1e-6)


@pytest.mark.parametrize("options", [{"adam_betas": 0.9}, {"adam_betas": (0.9,)}, {"adam_betas": (2, 2)}])
def test_muon_refuses_what_it_cannot_compute_with(options):
    with pytest.raises(UserError, match="--optimizer-options: .*: Muon takes lr, momentum, weight_decay, adam_betas"):
        Tiny().get_optimizer("Muon", 0.1, 0.0, 0.9, **options)
    with pytest.raises(UserError, match="momentum=1.5 and"):
        Tiny().get_optimizer("Muon", 0.1, 0.0, 1.5)


def test_muon_leaves_biases_small_heads_and_depthwise_convolutions_to_adamw():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(*shape)) for shape in [(16,), (2, 64), (64, 2), (32, 1, 3, 3)]]
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    ours = Muon(weights, lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        for mine, other in zip(weights, others, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        ours.step()
        adamw.step()
    for mine, other in zip(weights, others, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
