"""The command predict: what a trained model says about any pictures."""

import contextlib
import csv
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image, PngImagePlugin

from utils import UserError
from utils.files import numbered, write_atomically
from utils.notices import counted, warn

from .inputs import named, paths
from .predictor import Predictor
from .results import Prediction

BOX = "x1", "y1", "x2", "y2"

WRITER = "hearth predict"  # the text Software of its pictures, by which it knows what it may replace
OURS = PngImagePlugin.PngInfo()
OURS.add_text("Software", WRITER)


def predict(program: ModuleType, opt: Any) -> None:
    """Print what a checkpoint predicts for every picture of --input, a line each as a table or as JSON, or as CSV a row
    for each class; on stdout there is nothing else.

    Pictures that cannot be read are named on stderr; the exit code is 1 when none could be read. Raises UserError.
    """
    with contextlib.redirect_stdout(sys.stderr):  # stdout may be a file of results
        if not opt.input:
            raise UserError("predict needs --input: a picture, a folder, a pattern like 'my/*.jpg', or - for a list")
        if opt.format not in (None, *FORMATS):
            raise UserError(f"--format={opt.format} is what export writes: predict prints {', '.join(FORMATS)}")
        words, folder = named(opt.input), Path(opt.output or "predictions")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output={folder} is a file: name a folder")
        opt, model, _ = program.load_trained(opt)
        if opt.output and not opt.draw and model.task != "segmentation":  # whose masks are written always
            hint = f"give both, or print into a file, > {opt.output}"
            raise UserError(f"--output={opt.output} is the folder for --draw: {hint}")
        predictor = Predictor(model, opt.values(), opt.batch_size)
        given = paths(words, predictor.preparation.pictures)
        files = Files(predictor.preparation, folder, opt.draw)
    write, read, lost = FORMATS[opt.format or "table"](), 0, 0
    for prediction in predictor(given):
        if prediction.error:
            lost += 1
            warn(f"{prediction.path} is not predicted: {prediction.error}")
        else:
            read += 1
            write(prediction.path, prediction.found[: opt.top], files.write(prediction))
    if files.names:
        print(f"wrote {counted(len(files.names), 'file')} into {files.folder}", file=sys.stderr)
    if lost or not read:
        print(f"predicted {read} of {counted(read + lost, 'picture')}", file=sys.stderr)
    if not read:
        sys.exit(1)


class Files:
    """The files that are written about pictures: masks and, if they are to be drawn, drawings, named like them.

    Args:
        preparation: of the pictures; it makes masks and drawings.
        folder: made when there is something to write.
    """

    def __init__(self, preparation: Any, folder: Path, draw: bool):
        self.preparation, self.folder, self.draw = preparation, folder, draw
        self.names: set[str] = set()

    def write(self, prediction: Prediction) -> str:
        """Write what belongs to a prediction. Returns the mask's path, or "". Raises UserError for a folder that cannot
        be written."""
        images = dict(self.preparation.files(prediction, self.draw))
        stem = next(one.name for one in numbered(Path(prediction.path).stem) if not self.taken(one.name, images))
        try:
            if images:
                self.folder.mkdir(parents=True, exist_ok=True)
            for ending, image in images.items():
                save = partial(image.save, format="PNG", pnginfo=OURS)
                write_atomically(self.folder / f"{stem}{ending}", save, binary=True)
                self.names.add(f"{stem}{ending}")
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror}): name a folder with --output"
            ) from None
        return str(self.folder / f"{stem}.png") if ".png" in images else ""

    def taken(self, stem: str, images: dict[str, Any]) -> bool:
        """Whether one of the files is that of a picture of the same name, from another folder, or somebody else's."""
        names = [f"{stem}{ending}" for ending in images]
        return any(name in self.names or not replaceable(self.folder / name) for name in names)


def replaceable(path: Path) -> bool:
    """Whether there is no such file, or one that predict has written before."""
    if not path.exists():
        return True
    with (
        contextlib.suppress(OSError, SyntaxError, ValueError),
        Image.open(path) as file,
    ):  # Pillow's, if it is no picture
        return bool(file.info.get("Software") == WRITER)
    return False


class Table:
    """A line per picture: path, then each class with its score and box."""

    def __call__(self, path: str, found: Any, mask: str) -> None:
        """Print a picture's line."""
        words = [f"{one.name} {one.score:.4f}{place(one.box)}" for one in found] or ["nothing found"]
        print("  ".join([path, *words, *([mask] if mask else [])]), flush=True)


class Csv:
    """A row per class or object: path, class, score, box and mask, empty where there is none."""

    def __init__(self) -> None:
        self.rows = csv.writer(sys.stdout, lineterminator="\n")
        self.rows.writerow(["path", "class", "score", *BOX, "mask"])

    def __call__(self, path: str, found: Any, mask: str) -> None:
        """Print a picture's rows."""
        for one in found:
            corners = [""] * 4 if one.box is None else [f"{value:.1f}" for value in one.box]
            self.rows.writerow([path, one.name, f"{one.score:.6f}", *corners, mask])
        sys.stdout.flush()


class Json:
    """A JSON object per line and picture."""

    def __call__(self, path: str, found: Any, mask: str) -> None:
        """Print a picture's line."""
        rows = [{"class": one.name, "score": one.score, **({"box": one.box} if one.box else {})} for one in found]
        print(json.dumps({"path": path, "found": rows, **({"mask": mask} if mask else {})}), flush=True)


def place(box: Any) -> str:
    """A box in a table."""
    return "" if box is None else f" ({', '.join(f'{value:.0f}' for value in box)})"


FORMATS: dict[str, Any] = {"table": Table, "csv": Csv, "json": Json}
