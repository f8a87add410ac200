"""Muon: momentum whose singular values are all made alike, so that no direction of a matrix is learned late."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

LEAST = 8  # rows and columns of a matrix that Muon changes: a head of few classes is Adam's
# Of the polynomial whose repetition drives singular values towards 1 (Jordan 2024, kellerjordan.github.io/posts/muon).
FACTORS = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices and convolutions, these as matrices [out, in * height * width]; AdamW for
    all else: biases, norms, depthwise convolutions and matrices of fewer than 8 rows or columns. A convolution in
    groups counts as one matrix.

    torch.optim.Muon takes matrices alone, and computes in bfloat16, in which CPUs without it are many times as slow.
    An update has the size that AdamW's has (0.2 * sqrt(larger side), Liu et al. 2025, arXiv:2502.16982), so that both
    take about the same learning rates.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: of the gradients' mean, with Nesterov's look ahead.
        weight_decay: share of a weight, times lr, by which a step shrinks it.
        adam_betas: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adam_betas: tuple[float, float] = (0.9, 0.99),
    ):
        first, second = adam_betas
        if not all(0 <= one < 1 for one in (momentum, first, second)):
            raise ValueError(f"momentum={momentum} and adam_betas={adam_betas} have to be from 0 to below 1")
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adam_betas": adam_betas}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient. closure: not supported, None."""
        for group in self.param_groups:
            for weight in (one for one in group["params"] if one.grad is not None):
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                update = momentum_update if is_matrix(weight) else adam_update
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update(weight.grad, state, group), alpha=-group["lr"])


def is_matrix(weight: torch.Tensor) -> bool:
    """Whether Muon changes this weight, or else AdamW."""
    depthwise = weight.ndim > 2 and weight.shape[1] == 1
    return weight.ndim > 1 and not depthwise and min(weight.flatten(1).shape) >= LEAST


def momentum_update(gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
    """Muon's change of a weight, to be multiplied by -lr."""
    mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
    matrix = gradient.lerp(mean, group["momentum"]).flatten(1)
    scale: float = 0.2 * max(matrix.shape) ** 0.5
    return scale * orthogonal(matrix).view_as(gradient)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """[rows, columns] -> nearly U V^T of its singular value decomposition U S V^T: singular values of about 0.7 to 1.2,
    by `steps` Newton-Schulz iterations in float32."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).float()
    wide = wide / (wide.norm() + 1e-7)
    first, third, fifth = FACTORS
    # All iterates are a polynomial of the square W W^T times W: the factors are gathered first, since a convolution's
    # square is much smaller than W.
    square, identity = wide @ wide.T, torch.eye(min(matrix.shape), device=matrix.device)
    total = identity
    for number in range(steps):
        factor = torch.addmm(first * identity + third * square, square, square, alpha=fifth)
        total = factor @ total if number else factor
        square = factor @ square @ factor if number < steps - 1 else square
    wide = total @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)


def adam_update(gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
    """Adam's change of a weight (Kingma & Ba 2014, arXiv:1412.6980), to be multiplied by -lr."""
    first, second = group["adam_betas"]
    state["step"] = state.get("step", 0) + 1
    square = state.setdefault("square", torch.zeros_like(gradient)).mul_(second)
    square.addcmul_(gradient, gradient, value=1 - second)
    mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
    return mean / ((square / (1 - second ** state["step"])).sqrt() + 1e-8)
