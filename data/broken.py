"""Samples that could not be read: named, and too many of them refused."""

import os
from pathlib import Path

from utils import UserError
from utils.files import write_atomically
from utils.notices import counted, note, warn

from .base import BaseData

BROKEN_SHARE = 0.05  # a larger share of broken samples is an error


def name_broken(*data_sets: BaseData, folder: Path | None = None, consequence: str = "left out") -> None:
    """One warning that lists the samples that cannot be used; folder/broken.txt lists them too, a line each."""
    broken = [str(one) for data in data_sets for one in data.broken]
    if broken:
        warn(f"{counted(len(broken), 'sample')} cannot be used, {consequence}: {', '.join(broken)}")
        if folder:
            write_atomically(Path(folder, "broken.txt"), lambda file: file.write("\n".join(broken) + "\n"))


def refuse_broken(*data_sets: BaseData) -> None:
    """Raise UserError when there are no samples, more than 5 % of them cannot be used, or all of a class; a note, when
    several data sets share samples. The last of them is the one for validation."""
    lost = [
        (part, *one)
        for part, data in zip(("validate", "train"), reversed(data_sets), strict=False)
        for one in getattr(data, "lost", ())  # only pictures in files and with labels have it, see PictureFiles
    ]
    if lost:
        parts, names, reasons = zip(*reversed(lost), strict=True)
        raise UserError(
            f"no picture of {', '.join(dict.fromkeys(names))} can be read, of {len(lost)} to "
            f"{' and '.join(dict.fromkeys(parts))} on; the first is {reasons[0]}: repair or replace them"
        )
    broken = [one for data in data_sets for one in data.broken]
    total = len(broken) + sum(len(data) for data in data_sets)
    if len(broken) > BROKEN_SHARE * total:
        raise UserError(
            f"{len(broken)} of {counted(total, 'sample')} cannot be used, which is more than 5 %; the first is "
            f"{broken[0]}: repair or remove them"
        )
    for data in data_sets:
        if not len(data):
            part, other = ("validate", ", --val-data-root") if data is data_sets[-1] else ("train", "")
            raise UserError(f"{type(data).__name__} found no sample to {part} on: check --train-data-root{other}")
    if len(data_sets) > 1:
        note_shared(data_sets[0], data_sets[-1])


def note_shared(train: BaseData, val: BaseData) -> None:
    """A note, when files of the validation's samples, one each, are trained on."""
    names = files(val)
    shared = names & files(train) if len(names) == len(val) else set()
    if shared and os.path.exists(min(shared)):
        count = f"{counted(len(shared), 'sample')} of {len(val)} to validate on"
        note(f"{count} are trained on, too, the first is {min(shared)}: measures are better than on new ones")


def files(data: BaseData) -> set[str]:
    """The files of a data set's samples, where it tells."""
    paths, samples = getattr(data, "paths", None), getattr(data, "samples", None)
    if paths is None and isinstance(samples, list):
        paths = [one.path for one in samples if hasattr(one, "path")]
    return {str(path) for path in ([] if paths is None else paths)}
