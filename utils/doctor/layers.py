"""What happens from layer to layer: activations and gradients over some batches, units that are dead or saturated."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.files import write_csv

from .case import Case
from .finding import LOOK, OK, WRONG, Finding, judged

BATCHES = 3
SILENT = "dropout", "flatten", "linear.Identity", "pooling", "padding"  # modules of torch.nn that change no scale
RELUS = nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardtanh
SQUASHES = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0), nn.Hardsigmoid: (0.0, 1.0)}  # and what they tend to
NEAR = 0.01  # of the way between those two: a unit that is nearer to one of them hardly has a gradient
HALF, ALMOST_ALL = 0.5, 0.9  # shares of a layer's units: to be looked at, wrong
HUGE, TINY = 1e3, 1e-7  # standard deviation of activations that explode; of the first gradients beside the largest


class Sums:
    """Mean and standard deviation of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.first, self.second, self.finite = 0, 0.0, 0.0, True

    def add(self, values: torch.Tensor) -> None:
        """Add all numbers of a tensor."""
        double = values.detach().double()
        self.count += double.numel()
        self.first += double.sum().item()
        self.second += double.square().sum().item()
        self.finite &= math.isfinite(self.first)

    @property
    def mean(self) -> float:
        """nan before the first number."""
        return self.first / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Of all numbers, not of a sample of them."""
        return max(0.0, self.second / self.count - self.mean**2) ** 0.5 if self.count else math.nan


class Layer:
    """A layer, by the number of its channels or units where it is used with several.

    Attributes:
        name, module: its place in the model, and itself.
        activations, gradients: Sums of its outputs, and of the loss's derivatives by them.
        active: bool [units], which of a ReLU's have been above 0; None for other layers.
        saturated: share of a sigmoid's or tanh's outputs that hardly have a gradient; nan for others.
    """

    def __init__(self, name: str, module: nn.Module):
        self.name, self.module, self.activations, self.gradients = name, module, Sums(), Sums()
        self.active: torch.Tensor | None = None
        self.near = Sums()

    def add(self, output: torch.Tensor) -> None:
        """Count an output [N, units, ...], or [N, ..., units] of three dimensions."""
        self.activations.add(output)
        if isinstance(self.module, RELUS):
            units = output.detach().transpose(1, -1) if output.ndim == 3 else output.detach()
            active = (units > 0).transpose(0, 1).flatten(1).any(dim=1)
            self.active = active if self.active is None else self.active | active
        low, high = SQUASHES.get(type(self.module), (math.nan, math.nan))
        if not math.isnan(low):
            place = (output.detach() - low) / (high - low)
            self.near.add((place < NEAR) | (place > 1 - NEAR))

    @property
    def dead(self) -> float:
        """Share of a ReLU's units that were never above 0; nan for other layers."""
        return math.nan if self.active is None else 1 - self.active.float().mean().item()

    @property
    def saturated(self) -> float:
        """See the class."""
        return self.near.mean


def measure(case: Case) -> list[Layer]:
    """The layers of a copy of the model in the order in which they compute, over BATCHES training batches."""
    layers: dict[tuple[str, int], Layer] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point() and output.ndim > 1 and len(output):
                units = output.shape[1] if output.ndim != 3 else output.shape[-1]
                shown = name if (name, units) in layers or not any(one == name for one, _ in layers) else ""
                layer = layers.setdefault((name, units), Layer(shown or f"{name} ({units})", module))
                layer.add(output)
                if output.requires_grad:
                    output.register_hook(layer.gradients.add)

        return see

    with case.copy() as model:
        for name, module in model.named_modules():
            kind = f"{type(module).__module__}.{type(module).__name__}"
            leaf = not any(True for _ in module.children()) and not any(word in kind for word in SILENT)
            if leaf and isinstance(module, nn.Module) and name:
                module.register_forward_hook(hook(name))
        for input, target in case.batches(BATCHES):
            with model.autocast():
                _, losses = model.objective(input, target)
            loss: Any = sum(losses.values())
            loss.backward()
    return list(layers.values())


def check(layers: Sequence[Layer]) -> Iterator[Finding]:
    """Yield the Findings on measured layers."""
    yield (outputs := activated(layers))
    if outputs.verdict != OK:  # all else follows from it
        return
    yield differentiated(layers)
    dead = [layer for layer in layers if layer.dead >= HALF]
    relus = sum(layer.active is not None for layer in layers)
    sound = f"of {relus} ReLUs none has half of its units silent" if relus else "there is no ReLU module"
    advice = "a smaller --lr, kaiming_normal_, BatchNorm before it, or LeakyReLU"
    yield shared("dead ReLUs", [(layer, layer.dead) for layer in dead], sound, "never above 0:", advice)
    full = [(layer, layer.saturated) for layer in layers[:-1] if layer.saturated >= HALF]  # the last one may be certain
    squashes = sum(layer.near.count > 0 for layer in layers)
    sound = f"of {squashes} sigmoids and tanhs none inside is at its ends" if squashes else "there is none"
    yield shared("saturation", full, sound, "at the ends of its range:", "smaller weights at the start, or BatchNorm")


def shared(name: str, faults: Sequence[tuple[Layer, float]], sound: str, found: str, advice: str) -> Finding:
    """The Finding on layers with the share of their units that a fault has: wrong where it is almost all."""
    verdict = WRONG if any(share >= ALMOST_ALL for _, share in faults) else LOOK
    shown = [f"{layer.name} ({100 * share:.0f} % of its units)" for layer, share in faults]
    return judged(name, shown, sound, found, advice, verdict)


def activated(layers: Sequence[Layer]) -> Finding:
    """The first layer whose outputs are nan or infinite, or explode."""
    for layer in layers:
        if not layer.activations.finite:
            found = f"nan or inf, for the first time in {layer.name} ({type(layer.module).__name__})"
            return Finding("activations", WRONG, found, "look at its weights and its input: a log, a division, a root?")
    large = next((layer for layer in layers if layer.activations.std > HUGE), None)
    if large:
        found = f"they explode, for the first time in {large.name} with a deviation of {large.activations.std:.3g}"
        return Finding("activations", WRONG, found, "smaller weights at the start (kaiming_normal_), or BatchNorm")
    stds = [layer.activations.std for layer in layers] or [math.nan]
    return Finding("activations", OK, f"{len(layers)} layers, deviations from {min(stds):.2g} to {max(stds):.2g}")


def differentiated(layers: Sequence[Layer]) -> Finding:
    """Whether gradients are finite and reach the first layers."""
    for layer in reversed(layers):
        if not layer.gradients.finite:
            found = f"nan or inf, on the way back for the first time in {layer.name}"
            return Finding("gradients", WRONG, found, "a root, log or norm of 0 behind it? --clip-grad does not help")
    stds = {layer.name: layer.gradients.std for layer in layers if layer.gradients.count}
    first, largest = next(iter(stds.values()), math.nan), max(stds.values(), default=math.nan)
    if 0 < first < TINY * largest:
        found = f"they vanish: {first:.1g} in {next(iter(stds))}, {largest:.1g} in {max(stds, key=lambda k: stds[k])}"
        return Finding("gradients", WRONG, found, "shortcuts, BatchNorm, ReLU for sigmoid, kaiming_normal_")
    return Finding("gradients", OK, f"deviations from {min(stds.values(), default=math.nan):.2g} to {largest:.2g}")


def write(layers: Sequence[Layer], folder: Path) -> None:
    """Write the numbers of measured layers: layers.csv, and doctor.png."""
    from . import picture  # here: it loads matplotlib

    header = ["layer", "kind", "mean", "std", "gradient_mean", "gradient_std", "dead", "saturated"]
    rows = [
        [
            layer.name,
            type(layer.module).__name__,
            *(f"{value:.6g}" for sums in (layer.activations, layer.gradients) for value in (sums.mean, sums.std)),
            *("" if math.isnan(share) else f"{share:.4f}" for share in (layer.dead, layer.saturated)),
        ]
        for layer in layers
    ]
    write_csv(folder / "layers.csv", header, rows)
    picture.draw(layers, folder / "doctor.png")
