"""What is wrong with the weights that a training would start from."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .case import Case
from .finding import LOOK, OK, WRONG, Finding, judged, listed

DEAD_SHARE = 0.25  # of a layer's channels


def check(case: Case) -> Iterator[Finding]:
    """Yield the Findings on the checkpoint case.start; nothing for a new model."""
    if case.start:
        yield finite(case.start["weights"])
        yield alive(case.model)
        yield named(case.start.get("info", {}).get("classes"), list(case.train_data.classes))


def finite(weights: dict[str, torch.Tensor]) -> Finding:
    """Weights with nan or inf."""
    bad = [name for name, one in weights.items() if one.is_floating_point() and not one.isfinite().all()]
    advice = "the run has diverged: take an earlier checkpoint, train with a smaller --lr"
    return judged("weights", bad, f"all of the {len(weights)} tensors are finite", "nan or inf in", advice)


def alive(model: nn.Module) -> Finding:
    """Layers with many channels that are always 0: filters, or scales of a normalisation, that are all 0."""
    faults, total = [], 0
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or isinstance(module, nn.Embedding) or not weight.is_floating_point():
            continue
        dead = int((weight.detach().flatten(1) if weight.ndim > 1 else weight.detach()[:, None]).eq(0).all(1).sum())
        total += dead
        if dead >= DEAD_SHARE * len(weight) and weight.isfinite().all():
            faults.append(f"{name} ({dead} of {len(weight)})")
    sound = f"{total} channels are always 0" if total else "no channel is always 0"
    advice = "they learn nothing any more: begin with other weights, or a smaller --lr"
    return judged("dead channels", faults, sound, "always 0:", advice, LOOK)


def named(classes: list[str] | None, data: list[str]) -> Finding:
    """Whether the checkpoint's classes are the data's."""
    if not classes:
        return Finding("class names", OK, "the checkpoint has none to compare")
    if classes == data:
        return Finding("class names", OK, f"{len(data)}, in the order of the checkpoint's")
    advice = "its head means others: give the data it was trained on, or train a new head"
    if sorted(classes) == sorted(data):
        found = f"in another order, {listed(classes)} in the checkpoint and {listed(data)} in the data"
    else:
        missing = [name for name in classes if name not in data]
        more = [name for name in data if name not in classes]
        found = f"only in the checkpoint: {listed(missing) or 'none'}; only in the data: {listed(more) or 'none'}"
    return Finding("class names", WRONG, found, advice)
