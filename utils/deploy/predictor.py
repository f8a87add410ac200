"""Predictions for pictures one after the other: some batches of them are in memory, however many there are."""

import importlib
import inspect
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from utils import UserError
from utils.run.checkpoint_file import read_checkpoint
from utils.run.resume import best_of_folder
from utils.train.device import device_of

from .exported import is_exported, read_exported
from .inputs import PAUSE
from .results import Prediction

DIVERGED = "the prediction is not finite: the model has diverged"


class Predictor:
    """Predicts files with a model in eval mode.

    Args:
        module: a BasicModule whose `info` has the classes that it was trained for.
        options: {option: value}; `dataset` names the class of data/ that knows how pictures are prepared.
        batch_size: pictures that are predicted at once.

    Raises UserError for a data set that has no pictures.
    """

    def __init__(self, module: Any, options: dict[str, Any], batch_size: int = 32):
        self.module, self.batch_size = module, batch_size
        made = getattr(importlib.import_module("data"), options["dataset"]).preparation
        if made is None:
            raise UserError(f"predict is for pictures, --dataset={options['dataset']} has none: `test` predicts it")
        self.preparation = made(module.info["classes"], **options)

    def __call__(self, paths: Iterable[Any]) -> Iterator[Prediction]:
        """Yield the Prediction of every path, in their order; `error` says why there is none. A PAUSE among the paths
        answers those before it."""
        for chunk in chunks(self.preparation.stream(paths), self.batch_size):
            sound = [pixels for _, pixels, _ in chunk if pixels is not None]
            predictions = iter(self.predict(sound) if sound else ())
            for path, pixels, fact in chunk:
                if pixels is None:
                    yield Prediction(str(path), error=fact)
                else:
                    prediction = next(predictions)
                    lost = isinstance(prediction, torch.Tensor) and not prediction.isfinite().all()
                    yield (
                        Prediction(str(path), error=DIVERGED)
                        if lost
                        else self.preparation.result(path, fact, prediction)
                    )

    @torch.inference_mode()
    def predict(self, rows: list[Any]) -> Any:
        """uint8 arrays [h, w, 3] -> the model's predictions, a row or a dict for each."""
        with self.module.autocast():
            return self.module.predict(self.preparation.batch(rows, device_of(self.module)))


def chunks(stream: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` of the stream's rows; of fewer before a PAUSE in it, and at its end."""
    rows: list[Any] = []
    for row in itertools.chain(stream, [PAUSE]):
        rows += [row] if row is not PAUSE else []
        if rows and (row is PAUSE or len(rows) == size):
            yield rows
            rows = []


def load(path: str | Path, models: Any) -> Any:
    """The trained model of a checkpoint, or of a run's folder its best one, in eval mode, on the CPU; `models` is the
    package with its class. Raises UserError when the file is missing, damaged or was not written by a training."""
    path = best_of_folder(str(path), "checkpoints")
    content = read_exported(path) if is_exported(path) else read_checkpoint(path)
    info = content.get("info", {})
    if not {"classes", "config"} <= info.keys() or "model" not in content:
        raise UserError(f"{path} does not say which model it is of: give a checkpoint that hearth's train has written")
    made = getattr(models, content["model"])
    arguments = inspect.signature(made).parameters
    model = made(
        num_classes=len(info["classes"]), **{name: one for name, one in info["config"].items() if name in arguments}
    )
    model.info = info
    model.load(path, content=content)
    return model.eval()
