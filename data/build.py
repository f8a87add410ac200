"""A data set, made as main.py makes it; an error about one of its folders begins with the option that names it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils import UserError

from .pictures.split import RootError, Roots, shown


def build(
    made: Callable[..., Any], root: Roots, mode: str, options: dict[str, Any], classes: Sequence[str] | None = None
) -> Any:
    """A data set of the class `made`, for train, val or test.

    Args:
        options: every option by name; a class takes those it needs.
        classes: those of a trained model, which test mode takes over and val mode has to have; None for a new model.

    Raises UserError.
    """
    try:
        dataset = made(root, mode, **options)
    except RootError as error:
        val = mode == "val" and Path(error.root) in map(Path, options["val_data_root"])
        named = "test" if mode == "test" else "val" if val else "train"
        raise UserError(f"--{named}-data-root: {error}") from None
    if mode == "test":
        dataset.classes = classes  # samples without labels may not tell
    elif classes and list(dataset.classes) != classes:
        where = shown(options["val_data_root"] or root)
        raise UserError(
            f"the classes of {where} are {', '.join(dataset.classes)}, but the model's are {', '.join(classes)}: give "
            "the data it was trained on, or data of the same classes, which class_name.txt can name"
        )
    return dataset
