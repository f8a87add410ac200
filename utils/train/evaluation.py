"""Batches without gradients: measured against the truth, or predicted; in parts where memory runs out."""

from collections.abc import Iterator
from typing import Any

import torch

from utils.notices import counted, warn

from .device import device_of, prepared
from .memory import in_parts


def measured(model: Any, loader: Any) -> Iterator[tuple[Any, Any, Any, dict[str, torch.Tensor]]]:
    """Yield (input, target, prediction, {name: loss}) of every batch of labelled samples, or of parts of it."""

    def measure(*part: Any) -> tuple[Any, Any, Any, dict[str, torch.Tensor]]:
        input, target = prepared(loader.dataset, part, device_of(model))
        with model.autocast():
            score, losses = model.objective(input, target)
            return input, target, model.decode(score), losses

    for batch in loader:
        yield from in_parts(measure, *batch)


def predicted(model: Any, loader: Any) -> Iterator[tuple[list[Any], Any]]:
    """Yield (list of ids, prediction) of every batch of samples without labels, or of parts of it."""

    def predict(samples: Any, ids: Any) -> tuple[list[Any], Any]:
        input, _ = prepared(loader.dataset, (samples, ids), device_of(model))
        with model.autocast():
            return ids.tolist() if isinstance(ids, torch.Tensor) else list(ids), model.predict(input)

    lost = torch.zeros((), dtype=torch.int64)
    for batch in loader:
        for ids, prediction in in_parts(predict, *batch):
            if isinstance(prediction, torch.Tensor):
                lost = lost.to(prediction.device) + (~prediction.isfinite()).flatten(1).any(dim=1).sum()
            yield ids, prediction
            prediction = None  # the next batch needs the memory
    if lost:
        warn(f"{counted(int(lost), 'prediction')} of {len(loader.dataset)} are not finite: the model has diverged")
