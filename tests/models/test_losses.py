"""Every loss against its formula in numpy, on the scores of classes, pixels and numbers; and what they refuse."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import config
from models import losses
from models.losses import Criterion
from utils import UserError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and HEARTH_TEST_GPU=1")
WEIGHTS = [None, [0.5, 1.0, 4.0]]
C = 3


def classes(dims, dtype=torch.float32, seed=0):
    """Scores [N, 3, ...] with gradients and targets [N, ...]; of pixels about a third are ignored."""
    random = torch.Generator().manual_seed(seed)
    shape = {2: (16,), 4: (4, 5, 6)}[dims]
    score = (3 * torch.randn(shape[0], C, *shape[1:], generator=random)).to(dtype).requires_grad_()
    target = torch.randint(C, shape, generator=random)
    if dims == 4:
        target[torch.rand(shape, generator=random) < 0.3] = 255
    return score, target


def numbers(name, dtype=torch.float32):
    """Scores [16, 1], for bce probabilities, with gradients; targets of their shape."""
    random = torch.Generator().manual_seed(1)
    score, target = torch.randn(16, 1, generator=random), torch.randn(16, 1, generator=random)
    if name == "bce":
        score, target = score.sigmoid(), (target > 0).float()
    return score.to(dtype).requires_grad_(), target


def by_hand(name, score, target, weight):
    """The loss in float64, element by element."""
    score, target = score.detach().double().numpy(), target.numpy()
    if name in ("bce", "l1", "mse"):
        p, t = score, target.astype(float)
        each = {
            "bce": lambda: -(t * np.log(p) + (1 - t) * np.log(1 - p)),
            "l1": lambda: abs(p - t),
            "mse": lambda: (p - t) ** 2,
        }
        return each[name]().mean()
    rows, labels = np.moveaxis(score, 1, -1).reshape(-1, C), target.reshape(-1)
    total, factors = 0.0, 0.0
    for row, label in zip(rows, labels, strict=True):
        if label == 255:
            continue
        log = row - np.log(np.exp(row).sum())
        w = np.ones(C) if weight is None else np.array(weight)
        if name == "cross_entropy":
            total -= w[label] * log[label]
        elif name == "label_smoothing":
            total -= 0.9 * w[label] * log[label] + 0.1 * (w * log).mean()
        elif name == "focal":
            total -= w[label] * (1 - np.exp(log[label])) ** 2 * log[label]
        factors += w[label]
    return total / factors


def computed(name, score, target, weight=None):
    """The loss by its function, after a look at its gradients."""
    weight = None if weight is None else torch.tensor(weight)
    loss = losses.LOSSES[name](score, target, weight)
    assert loss.shape == () and loss.dtype == torch.float32
    score.grad = None
    loss.backward()
    assert score.grad.isfinite().all()
    return loss.item()


def shares(target):
    """Of classes [N] some shares [N, 3] that sum to 1: 0.7 of each, 0.3 of the one before it, as mixtures have them."""
    hard = F.one_hot(target, C).float()
    return 0.7 * hard + 0.3 * hard.roll(1, 0)


CASES = [(name, dims, weight) for name in losses.OVER_CLASSES for dims in (2, 4) for weight in WEIGHTS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("name", "dims", "weight"), CASES)
def test_losses_over_classes_are_their_formulas(name, dims, weight, dtype):
    score, target = classes(dims, dtype)
    assert computed(name, score, target, weight) == pytest.approx(by_hand(name, score, target, weight), rel=1e-5)
    assert score.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["bce", "l1", "mse"])
def test_losses_of_numbers_are_their_formulas(name, dtype):
    score, target = numbers(name, dtype)
    assert computed(name, score, target) == pytest.approx(by_hand(name, score, target, None), rel=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_the_same_under_autocast(name, device):
    score, target = numbers(name) if name not in losses.OVER_CLASSES else classes(2)
    expected = by_hand(name, score, target, None)
    score = score.detach().to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        assert computed(name, score, target.to(device)) == pytest.approx(expected, rel=1e-5)


def test_bce_is_computed_outside_of_autocast(monkeypatch):
    """On a GPU torch refuses it inside; here it can only be seen that it is outside."""
    seen, real = [], F.binary_cross_entropy

    def watched(*args, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(*args, **options)

    monkeypatch.setattr(F, "binary_cross_entropy", watched)
    with torch.autocast("cpu", torch.bfloat16):
        losses.bce(*numbers("bce"), None)
    assert seen == [False]


@NEEDS_GPU
def test_bce_of_no_probability_is_nan_on_a_gpu_and_the_gpu_lives_on():
    for wrong in (torch.nan, 3.0, -1.0):
        score = torch.tensor([[0.5], [wrong]], device="cuda")
        assert losses.bce(score, torch.ones_like(score), None).isnan()
    assert losses.bce(torch.ones_like(score), torch.ones_like(score), None) == 0


@pytest.mark.parametrize(("name", "dims", "weight"), [case for case in CASES if case[0] != "focal"])
def test_torchs_own_losses_agree(name, dims, weight):
    score, target = classes(dims)
    smoothing = 0.1 if name == "label_smoothing" else 0.0
    tensor = None if weight is None else torch.tensor(weight)
    expected = F.cross_entropy(score, target, tensor, ignore_index=255, label_smoothing=smoothing)
    assert computed(name, score, target, weight) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_a_picture_of_one_class_alone_costs_what_the_class_costs(name, weight, dtype):
    score, target = classes(2, dtype)
    expected = computed(name, score, target, weight)
    gradient = score.grad.clone()
    assert computed(name, score, F.one_hot(target, C).float(), weight) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(score.grad, gradient)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_shares_of_classes_count_as_so_much_of_each_class(name, weight):
    """A picture of 0.7 of one class and 0.3 of another costs as much as 7 pictures of the one and 3 of the other."""
    score, target = classes(2)
    many = torch.cat([score.detach()] * 10).requires_grad_()
    expected = computed(name, many, torch.cat([target] * 7 + [target.roll(1)] * 3), weight)
    assert computed(name, score, shares(target), weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "label_smoothing"])
def test_torchs_own_losses_of_shares_agree(name):
    score, target = classes(2)
    smoothing = 0.1 if name == "label_smoothing" else 0.0
    expected = F.cross_entropy(score, shares(target), label_smoothing=smoothing)
    assert computed(name, score, shares(target)) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_ignored_pixels_count_for_nothing_and_nothing_else_is_zero(name, weight):
    score, target = classes(4)
    before = computed(name, score, target, weight)
    ignored = target == 255
    changed = score.detach().clone()
    changed.permute(0, 2, 3, 1)[ignored] = torch.tensor([1e4, -1e4, 0.0])
    assert computed(name, changed.requires_grad_(), target, weight) == pytest.approx(before)
    assert not changed.grad.permute(0, 2, 3, 1)[ignored].any()
    assert computed(name, score, torch.full_like(target, 255), weight) == 0
    assert not score.grad.any()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_parts_of_a_batch_have_the_mean_of_the_whole_whatever_is_ignored(name, weight):
    score, target = classes(4)
    target[0] = 255
    target[1, 1:] = 255
    criterion, parts = losses.Criterion(name, weight), [slice(0, 1), slice(1, 2), slice(2, 4)]
    counts = [float(criterion.samples(target[part])) for part in parts]
    means = [criterion(score[part], target[part])["loss"].item() for part in parts]
    mean = sum(count * value for count, value in zip(counts, means, strict=True)) / sum(counts)
    assert mean == pytest.approx(criterion(score, target)["loss"].item(), rel=1e-5) and counts[0] == 0
    assert weight or criterion.samples(torch.zeros_like(target)) == len(target)


@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_classes_of_weight_zero_do_not_count(name):
    score, target = classes(2)
    weight = [1.0, 0.0, 1.0]
    assert computed(name, score, target, weight) == pytest.approx(by_hand(name, score, target, weight), rel=1e-5)
    assert computed(name, score, torch.ones_like(target), weight) == 0 and not score.grad.any()


@pytest.mark.parametrize("name", losses.OVER_CLASSES)
def test_class_255_of_a_picture_is_a_class_like_any_other(name):
    score = torch.zeros(2, 300, requires_grad=True)
    assert computed(name, score, torch.tensor([255, 255])) > 0


def test_focal_without_its_focus_would_be_cross_entropy_and_forgets_what_is_learnt():
    score, target = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0])
    assert losses.focal(score[:1], target[:1], None).item() == pytest.approx(0.25 * np.log(2))
    assert losses.focal(score[1:], target[1:], None) < 1e-7 * losses.cross_entropy(score[1:], target[1:], None) * 10
    confident = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)  # p is 1, and 0
    assert computed("focal", confident, torch.tensor([0, 0])) == pytest.approx(100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bce_of_certain_probabilities_is_finite(dtype):
    score = torch.tensor([[0.0], [1.0], [0.0], [1.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    assert computed("bce", score, target) == pytest.approx(50)  # torch takes -log 0 for 100


@pytest.mark.parametrize("name", losses.LOSSES)
def test_scores_that_are_nan_make_the_loss_nan_and_stop_nothing(name):
    score, target = numbers(name) if name not in losses.OVER_CLASSES else classes(2)
    score = score.detach().clone()
    score[0] = torch.nan
    assert losses.LOSSES[name](score, target, None).isnan()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("focal", {"loss": {"focal": 1}}),
        ("2*focal", {"loss": {"focal": 2}}),
        (
            "0.7*cross_entropy+0.3*focal",
            {"loss_cross_entropy": {"cross_entropy": 0.7}, "loss_focal": {"focal": 0.3}},
        ),
        (
            "cross_entropy + .5 * label_smoothing + 1e-2*focal",
            {
                "loss_cross_entropy": {"cross_entropy": 1},
                "loss_label_smoothing": {"label_smoothing": 0.5},
                "loss_focal": {"focal": 0.01},
            },
        ),
    ],
)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_criterion_is_a_weighted_sum_by_name(names, expected, weight):
    config.DefaultConfig().update({"criterion": names})
    score, target = classes(2)
    result = Criterion(names, weight)(score, target)
    assert list(result) == list(expected)
    for key, terms in expected.items():
        ((name, factor),) = terms.items()
        assert result[key].item() == pytest.approx(factor * by_hand(name, score, target, weight), rel=1e-5)
    sum(result.values()).backward()


def test_the_options_names_are_those_of_the_losses():
    assert tuple(losses.LOSSES) == config.LOSSES
    assert all(function.__name__ == name for name, function in losses.LOSSES.items())


def test_class_weights_move_with_a_model_but_stay_out_of_its_checkpoints():
    criterion = Criterion("focal", [1, 2, 3])
    assert criterion.weight.dtype == torch.float32 and criterion.state_dict() == {}
    assert criterion.to("meta").weight.device.type == "meta"


@pytest.mark.parametrize(
    ("names", "weight", "message"),
    [
        ("foucal", None, "the criterion foucal is no sum of different losses: there are cross_entropy, "),
        ("torch", None, "the criterion torch is no sum"),
        ("0.5*l1+0.5*l1", None, "no sum of different losses"),
        ("bce", [1, 2], "the criterion bce takes no --class-weights: cross_entropy, label_smoothing, focal do"),
        ("l1", [1, 2], "takes no --class-weights"),
        ("0.5*focal+0.5*mse", [1, 2], "takes no --class-weights"),
    ],
)
def test_a_criterion_that_cannot_be_is_refused_at_once(names, weight, message):
    with pytest.raises(UserError) as error:
        Criterion(names, weight)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", losses.OVER_CLASSES)
@pytest.mark.parametrize(
    ("score", "target", "message"),
    [
        (torch.rand(32, 1), torch.zeros(32).long(), "not [32, 1] with [32] (int64)"),
        (torch.rand(32), torch.zeros(32).long(), "not [32] with [32] (int64)"),
        (torch.rand(32, 2), torch.zeros(32), "not [32, 2] with [32] (float32)"),
        (torch.rand(32, 2), torch.zeros(32, 2).double(), "not [32, 2] with [32, 2] (float64)"),
        (torch.rand(32, 2), torch.zeros(32, 2).long(), "not [32, 2] with [32, 2] (int64)"),
        (torch.rand(32, 1), torch.ones(32, 1), "not [32, 1] with [32, 1] (float32)"),
        (torch.rand(32, 2), torch.zeros(32, 3), "not [32, 2] with [32, 3] (float32)"),
        (torch.rand(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), "not [2, 3, 8, 8] with [2, 3, 8, 8] (float32)"),
        (torch.rand(2, 2), torch.tensor([[0.5, 0.5], [0.5, 0.4]]), "met shares that sum to 0.9, not 1: check labels"),
        (torch.rand(2, 2), torch.tensor([[0.5, 0.5], [1.5, -0.5]]), "met 1.5 where it takes 0 to 1"),
        (torch.rand(2, 2), torch.tensor([[0.5, 0.5], [-0.5, 1.0]]), "met -0.5 where it takes 0 to 1"),
        (torch.rand(32, 2), torch.zeros(32, 1).long(), "not [32, 2] with [32, 1] (int64)"),
        (torch.rand(32, 2), torch.zeros(31).long(), "not [32, 2] with [31] (int64)"),
        (torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 9).long(), "not [2, 3, 8, 8] with [2, 8, 9] (int64)"),
        (torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), "with [2, 8, 8] (uint8)"),
        (torch.rand(3, 3), torch.tensor([0, 3, 1]), "met 3 where it takes 0 to 2"),
        (torch.rand(3, 3), torch.tensor([0, -1, 1]), "met -1 where it takes 0 to 2"),
        (torch.rand(3, 3), torch.tensor([0, -100, 1]), "met -100 where it takes 0 to 2"),
        (torch.rand(3, 3), torch.tensor([0, 255, 1]), "met 255 where it takes 0 to 2"),
        (torch.rand(1, 3, 1, 2), torch.tensor([[[255, 254]]]), "met 254 where it takes 0 to 2"),
    ],
)
def test_classes_that_do_not_fit_are_refused(name, score, target, message):
    refused(name, score, target, None, message)


@pytest.mark.parametrize("name", losses.OVER_CLASSES)
@pytest.mark.parametrize("weight", [torch.ones(2), torch.ones(4)])
def test_class_weights_of_other_classes_are_refused(name, weight):
    refused(name, *classes(2), weight, f"the loss {name} has {len(weight)} class weights for scores of 3 classes")


@pytest.mark.parametrize("name", ["bce", "l1", "mse"])
@pytest.mark.parametrize(
    ("score", "target"),
    [
        (torch.rand(32, 2), torch.zeros(32)),
        (torch.rand(32, 1), torch.zeros(32)),  # torch would compare each score with each target
        (torch.rand(32), torch.zeros(32, 1)),
        (torch.rand(32, 2), torch.zeros(32).long()),
    ],
)
def test_numbers_of_another_shape_are_refused(name, score, target):
    refused(name, score, target, None, f"not {list(score.shape)} with {list(target.shape)} (")


@pytest.mark.parametrize(
    ("score", "target", "message"),
    [
        (3.5, 1.0, "the loss bce met 3.5 where it takes 0 to 1"),
        (-0.5, 1.0, "the loss bce met -0.5 where"),
        (0.5, 2.0, "the loss bce met 2 where"),
    ],
)
def test_bce_refuses_what_is_no_probability(score, target, message):
    refused("bce", torch.tensor([[0.5], [score]]), torch.tensor([[1.0], [target]]), None, message)


def refused(name, score, target, weight, message):
    with pytest.raises(UserError) as error:
        losses.LOSSES[name](score, target, weight)
    text = str(error.value)
    assert message in text and text.startswith(f"the loss {name} ") and "\n" not in text and len(text) < 240


def test_an_own_loss_that_cannot_be_called_as_one_and_a_model_without_scores_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_losses.py").write_text("def half(score, target): return score\n")
    with pytest.raises(UserError, match="--criterion=own_losses.half: .*; a loss takes .score, target, weight."):
        Criterion("own_losses.half")
    with pytest.raises(UserError, match="no_such_file.*; files are looked for in .* and beside main.py"):
        Criterion("no_such_file.half")
    with pytest.raises(UserError, match="the model's forward returns nothing"):
        Criterion("cross_entropy")(None, torch.tensor([1]))
