"""Several trained models that are used as one: which they are, and that they fit together."""

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

from utils import UserError
from utils.notices import note
from utils.options.kinds import height_width
from utils.options.options import read_yaml

from .resume import written

OUT_OF_FOLD = "out_of_fold.csv"  # of a folder of folds that is complete
AVERAGED = "val", "test", "predict"  # the commands that take several
SEEN = "center_crop", "interpolation", "fit"  # options by which all see the same pictures, in any size
DIVIDED = "train_data_root", "val_data_root", "folds", "fold", "group"  # and those by which they validate on the same


def is_folds(folder: Path) -> bool:
    """Whether --fold=all trained in this folder, or still does."""
    return (folder / "config.yaml").is_file() and recorded(folder).get("fold") == "all"


def recorded(folder: Path) -> dict[str, Any]:
    """A run's options as its config.yaml has them, {} where that is lost."""
    try:
        return read_yaml(folder / "config.yaml", ())
    except UserError:
        return {}


def fold_runs(folder: Path) -> dict[int, Path]:
    """{fold: its run} of a folder of folds, as far as they have begun; of a fold the oldest run, not one that somebody
    trained from its config.yaml."""
    found = [(recorded(path.parent), path.parent) for path in folder.glob("*/config.yaml")]
    newest_first = sorted(found, key=lambda one: (begun(one[0]), one[1]), reverse=True)
    runs = {options.get("fold"): run for options, run in newest_first}
    return {fold: runs[fold] for fold in sorted(fold for fold in runs if isinstance(fold, int))}


def begun(options: dict[str, Any]) -> str:
    """When a run, by what its config.yaml records, was started first; "" where that is lost."""
    with contextlib.suppress(LookupError, TypeError):
        return str(options["run"][0]["started"])
    return ""


def named(given: Any) -> tuple[str, list[str]]:
    """(what names the models, the path of each): of those that options name, files and folders of runs or of folds, or
    of the newest folder of folds where no best.pth is newer. ("", []) where it is one model. Raises UserError, see
    trained_folds."""
    text = given.load_model_path or given.run
    if given.load_model_path and "," in text and not os.path.exists(text):
        parts = [part.strip() for part in text.split(",")]
        folds = [folder_of_folds(given.work_dir, part) for part in parts]
        paths = [trained_folds(one) if one else [part] for part, one in zip(parts, folds, strict=True)]
        return text, [path for several in paths for path in several]
    if text:
        folder = folder_of_folds(given.work_dir, text)
    else:
        files = [*Path(given.work_dir).glob("*/best.pth"), *Path(given.work_dir).glob(f"*/{OUT_OF_FOLD}")]
        newest = max(files, key=written, default=Path())
        folder = newest.parent if newest.name == OUT_OF_FOLD else None
    return (str(folder), trained_folds(folder)) if folder else ("", [])


def folder_of_folds(work_dir: str, name: str) -> Path | None:
    """The folder of folds that a path, or a name in work_dir, means, None where it means none."""
    return next((one for one in (Path(name), Path(work_dir, name)) if is_folds(one)), None)


def trained_folds(folder: Path) -> list[str]:
    """The runs of a folder of folds. A note says so where they have different numbers of epochs. Raises UserError for
    folds that are not all trained."""
    runs = fold_runs(folder)
    if not (folder / OUT_OF_FOLD).is_file():
        count = recorded(folder).get("folds")
        raise UserError(
            f"{folder} is not complete, of {count} folds: `python main.py train --resume={folder}` continues it"
        )
    epochs = sorted({recorded(run).get("max_epoch", 0) for run in runs.values()})
    if len(epochs) > 1:  # one of them was resumed by itself
        all_alike = f"`python main.py train --resume={folder} --max-epoch={epochs[-1]}`"
        note(f"{folder}: its folds have --max-epoch={' and '.join(map(str, epochs))}: {all_alike} trains all alike")
    return [str(run) for run in runs.values()]


def each(given: Any) -> tuple[str, list[Any]]:
    """(what names the models, options like those given for each of them), to be averaged: also for a single model with
    --tta. ("", []) where the options mean one model as it is.

    Raises UserError for a command that takes one model, and for --calibrate without folds."""
    if given.member:
        return "", []
    name, paths = named(given)
    if len(paths) > 1 and given.command not in AVERAGED:
        raise UserError(
            f"{given.command} takes one model, and {name} are {len(paths)}: --load-model-path={paths[0]} names one"
        )
    if given.calibrate and not (name and os.path.isfile(os.path.join(name, OUT_OF_FOLD))):
        raise UserError(
            f"--calibrate needs the {OUT_OF_FOLD} that `train --folds=5 --fold=all` writes: give the folder of those "
            f"folds, --load-model-path={name or given.load_model_path or given.run or 'FOLDER'} is none"
        )
    wanted = [{"load_model_path": path, "run": None} for path in paths] or [{}] * bool(given.tta)
    members = [copy.deepcopy(given) for _ in wanted]
    for one, values in zip(members, wanted, strict=True):
        one.assign(**values)
        one.member = True
    return name, members


def check_alike(members: list[Any], given: Any) -> None:
    """Raise UserError where models, by the options of each, see other pictures than the first one does, or where val
    would measure what some of them were trained on."""
    first, *others = members
    for other in others:
        (height, width), (other_height, other_width) = height_width(first.image_size), height_width(other.image_size)
        if height * other_width != other_height * width:
            raise UserError(
                f"{first.load_model_path} has image_size={first.image_size}, {other.load_model_path} "
                f"{other.image_size}: pictures for models whose probabilities are averaged need the same proportions"
            )
        for name in SEEN:
            mine, its = getattr(first, name), getattr(other, name)
            if mine != its:
                raise UserError(
                    f"{first.load_model_path} has {name}={mine}, {other.load_model_path} {its}: models whose "
                    "probabilities are averaged have to see the same pictures"
                )
        apart = [name for name in DIVIDED if getattr(first, name) != getattr(other, name)]
        if given.command == "val" and apart and not given.val_data_root:
            raise UserError(
                f"{first.load_model_path} and {other.load_model_path} were trained on different parts of the data "
                f"({', '.join(apart)}), so each validates on what the other has seen: give --val-data-root"
                + "; `train --fold=all` printed how good they are out of fold"
                * ("fold" in apart)
            )
