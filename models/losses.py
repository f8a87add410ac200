"""Loss functions, picked by name. Each takes (score, target, weight) and returns a scalar, in float32 whatever the
scores are. A new one is a function here and its name in LOSSES, below and in config.py.

Those over classes take scores [N, C] against classes [N], int64 from 0 to C - 1, or those of pixels: [N, C, H, W]
against [N, H, W], where the target 255 is ignored. A picture may also have several classes, each with its share:
float32 [N, C], rows that sum to 1; a share of 1 is the same as the class. `weight` is None or one factor per class,
float [C], for a weighted mean; the mean of nothing is 0. The other losses take score and target of the same shape, and
no weight. All raise UserError for what they cannot compare.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils import UserError
from utils.options import own

IGNORED = 255  # the target of pixels that are ignored
NEVER = -(2**62)  # the same for whole pictures, which are never ignored: there 255 is a class like any other


def cross_entropy(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """-log of the true class's softmax."""
    ignored = check_classes("cross_entropy", score, target, weight)
    total = F.cross_entropy(score.float(), target, weight, ignore_index=ignored, reduction="sum")
    return weighted_mean(total, factors(target, weight, ignored))


def label_smoothing(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy against 0.9 of the true class and 0.1 spread evenly over all (Szegedy et al. 2015,
    arXiv:1512.00567, section 7)."""
    ignored = check_classes("label_smoothing", score, target, weight)
    total = F.cross_entropy(score.float(), target, weight, ignore_index=ignored, reduction="sum", label_smoothing=0.1)
    return weighted_mean(total, factors(target, weight, ignored))


def focal(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy times (1 - p)^2, where p is the true class's softmax: what is learnt already counts little (Lin et
    al. 2017, arXiv:1708.02002, with gamma = 2, and `weight` as alpha)."""
    ignored = check_classes("focal", score, target, weight)
    if target.is_floating_point():
        entropy = -score.float().log_softmax(dim=1)  # of every class
    else:
        entropy = F.cross_entropy(score.float(), target, ignore_index=ignored, reduction="none")
    factor = factors(target, weight, ignored)
    return weighted_mean((torch.expm1(-entropy) ** 2 * entropy * factor).sum(), factor)


def bce(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Binary cross-entropy of probabilities against 0 or 1. A probability of nan makes the loss nan."""
    score, target = of_one_shape("bce", score, target)
    if score.device.type == "cpu":  # on a GPU the check would wait for it; there the loss becomes nan
        check_range("bce", torch.cat([score.detach().flatten(), target.flatten()]), 1)
    # torch fails on values outside 0 to 1, on a GPU for good; a step with a loss of nan can be skipped.
    sound = (score >= 0) & (score <= 1)
    with torch.autocast(score.device.type, enabled=False):  # torch refuses this loss under autocast, even in float32
        losses = F.binary_cross_entropy(score.where(sound, 0.5), target, reduction="none")
    return losses.where(sound, torch.nan).mean()


def l1(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(*of_one_shape("l1", score, target))


def mse(score: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(*of_one_shape("mse", score, target))


OVER_CLASSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "focal": focal,
}
LOSSES: dict[str, Callable[..., Tensor]] = {**OVER_CLASSES, "bce": bce, "l1": l1, "mse": mse}


def factors(target: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    """The weight of each target, or of each class's share of it: float, of the target's shape."""
    if target.is_floating_point():
        return target if weight is None else target * weight
    counts = target != ignored
    return counts.float() if weight is None else weight[target.where(counts, 0)] * counts


def weighted_mean(total: Tensor, factor: Tensor) -> Tensor:
    """A weighted sum of losses divided by the sum of its factors; 0 if they are all 0."""
    count = factor.sum()
    return total.where(count > 0, 0) / count.clamp(min=torch.finfo(count.dtype).tiny)


def check_classes(name: str, score: Tensor, target: Tensor, weight: Tensor | None) -> int:
    """The target that is ignored with such scores. Raises UserError when the loss cannot be computed."""
    soft = target.dtype == torch.float32 and score.ndim == 2 and target.shape == score.shape
    hard = target.dtype == torch.int64 and score.ndim in (2, 4) and target.shape == score[:, 0].shape
    if not (soft or hard) or score.shape[1] < 2:
        raise UserError(
            f"the loss {name} compares scores [N, C] or [N, C, H, W] of 2 classes or more with int64 [N] or [N, H, W], "
            f"or shares [N, C], {described(score, target)}: another --criterion or another model is needed"
        )
    classes = score.shape[1]
    if weight is not None and weight.shape != (classes,):
        raise UserError(f"the loss {name} has {weight.numel()} class weights for scores of {classes} classes")
    ignored = IGNORED if score.ndim == 4 else NEVER
    if target.device.type == "cpu" and soft:
        check_range(name, target, 1)
        sums = target.sum(dim=1)
        wrong = sums[(sums - 1).abs() > 1e-3]
        if len(wrong):
            raise UserError(f"the loss {name} met shares that sum to {wrong[0]:g}, not 1: check labels and model")
    elif target.device.type == "cpu":
        check_range(name, target[target != ignored], classes - 1)
    return ignored


def of_one_shape(name: str, score: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(score, target) in float32. Raises UserError when shapes differ: torch would compare each with each."""
    if score.shape != target.shape:
        raise UserError(
            f"the loss {name} compares scores and targets of one shape, {described(score, target)}: for classes give "
            "--criterion=cross_entropy"
        )
    return score.float(), target.float()


def check_range(name: str, values: Tensor, highest: int) -> None:
    """Raise UserError when one of `values` is below 0 or above `highest`; nan is neither."""
    wrong = values[(values < 0) | (values > highest)]
    if len(wrong):
        raise UserError(f"the loss {name} met {wrong[0]:g} where it takes 0 to {highest}: check labels and model")


def described(score: Tensor, target: Tensor) -> str:
    """The shapes and type that were given instead, for a message."""
    return f"not {list(score.shape)} with {list(target.shape)} ({str(target.dtype).removeprefix('torch.')})"


def own_loss(name: str) -> Any:
    """The loss my_file.my_loss of the user's. Raises UserError when it cannot be called as one."""
    found = own.find("criterion", name, "")
    try:
        inspect.signature(found).bind("score", "target", "weight")
    except TypeError as error:
        raise UserError(f"--criterion={name}: {error}; a loss takes (score, target, weight)") from None
    return found


class Criterion(nn.Module):
    """A sum of losses: (score, target) -> {name: weighted scalar}, whose values the loop adds up.

    Args:
        names: one name of this file, or of the user's, my_file.my_loss, or a weighted sum of several:
            "0.7*cross_entropy+0.3*focal".
        weight: factor on the loss of each class, float [C], or None.

    Raises UserError for unknown or repeated names, and for weights with losses that are not over classes.
    """

    def __init__(self, names: str, weight: Any = None):
        super().__init__()
        terms = [term.rpartition("*") for term in names.split("+")]
        self.terms = {name.strip(): float(factor or 1) for factor, _, name in terms}
        unknown = [name for name in self.terms if name not in LOSSES and "." not in name]
        if unknown or len(self.terms) < len(terms):
            raise UserError(f"the criterion {names} is no sum of different losses: there are {', '.join(LOSSES)}")
        self.losses = {name: LOSSES.get(name) or own_loss(name) for name in self.terms}
        if weight is not None and self.terms.keys() & LOSSES.keys() - OVER_CLASSES.keys():
            raise UserError(f"the criterion {names} takes no --class-weights: {', '.join(OVER_CLASSES)} do")
        weight = None if weight is None else torch.as_tensor(weight, dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)  # moves with the model, stays out of checkpoints

    def samples(self, target: Any) -> int | Tensor:
        """By how much a batch's losses count in their mean over several, as a scalar tensor where it has to be counted:
        its samples, less the share of their pixels that is ignored, or the sum of its targets' class weights. target:
        as the losses take it, or a list."""
        pixels = isinstance(target, Tensor) and target.ndim == 3
        if self.weight is None and not pixels:
            return len(target)
        total = factors(target, self.weight, IGNORED if pixels else NEVER).sum()
        return total / target[0].numel() if pixels else total

    def forward(self, score: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(score, target) -> {"loss": scalar} of a single loss, {"loss_<name>": scalar, ...} of several."""
        if score is None:
            raise UserError("the model's forward returns nothing: let it return the scores")
        several = len(self.terms) > 1
        shown = {name: f"loss_{name.rpartition('.')[2]}" if several else "loss" for name in self.terms}
        return {
            shown[name]: factor * self.losses[name](score, target, self.weight) for name, factor in self.terms.items()
        }
