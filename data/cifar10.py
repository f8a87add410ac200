"""CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import UserError
from utils.files import write_csv

from .pictures.labelled import PictureData
from .pictures.split import RootError, Roots, Sample, as_list, by_class, shown, spread

URL, MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
SIDE = 32
RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
# What a pickled array of bytes is built from, by numpy 1 and 2, and how Python 3 writes bytes in the old protocols.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): lambda kind, *_: {"u1": np.dtype(np.uint8)}[kind],
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}


class CIFAR10(PictureData):
    """60,000 pictures of 32 x 32 pixels in ten classes, read from the python batches: data_batch_1 to _5 for train
    mode, test_batch for val and test mode, where the ids are 1, 2, ...

    Items are (uint8 [3, 32, 32], label or id), from memory; `prepare` resizes them to image_size. See PictureData for
    the other arguments.

    Args:
        root: the folder cifar-10-batches-py, or the folder that contains it; or a list of one.
        mode: train, val or test.
        val_data_root: the folder for val mode, if it is another one.
        val_size: maximum number of samples in val mode, or None.
        download: download missing files.
    """

    def __init__(
        self,
        root: Roots,
        mode: str,
        val_data_root: Roots = (),
        val_size: int | None = None,
        download: bool = False,
        **options: Any,
    ):
        folder = find_folder(val_data_root if mode == "val" and val_data_root else root, download)
        self.classes = read_names(folder / "batches.meta")
        names = [f"data_batch_{number}" for number in range(1, 6)] if mode == "train" else ["test_batch"]
        batches = [read_batch(folder / name, len(self.classes)) for name in names]
        paths = [f"{name} {row}" for name, (_, part) in zip(names, batches, strict=True) for row in range(len(part))]
        pixels, labels = torch.cat([part for part, _ in batches]), [label for _, part in batches for label in part]
        if mode == "val" and val_size:
            samples = [Sample(row, label, paths[row]) for row, label in enumerate(labels)]
            kept = sorted(
                sample.path for group in spread(by_class(samples, len(self.classes)), val_size) for sample in group
            )
            paths, pixels, labels = [paths[row] for row in kept], pixels[kept], [labels[row] for row in kept]
        targets = list(range(1, len(labels) + 1)) if mode == "test" else labels
        super().__init__(paths, targets, mode, pixels=pixels, **options)

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write Kaggle's CSV: header id,label and a row per picture, label = name of the most probable class."""
        write_csv(
            path,
            ["id", "label"],
            (
                [id, self.classes[label]]
                for ids, batch in predictions
                for id, label in zip(ids, batch.argmax(dim=1).tolist(), strict=True)
            ),
        )


def find_folder(root: Roots, download: bool) -> Path:
    """The folder with the batches in `root`. With `download` it is downloaded when it is missing. Raises UserError."""
    if len(as_list(root)) != 1:
        raise UserError(f"CIFAR10 takes one folder, not {shown(root)}")
    root = Path(as_list(root)[0])
    folders = [folder for folder in (root / FOLDER, root) if (folder / "batches.meta").is_file()]
    if folders:
        return folders[0]
    if not download:
        text = f"{root} has no {FOLDER} with batches.meta in it: --download fetches them (170 MB) from {URL}"
        raise RootError(root, text)
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as unpacked:
            download_and_extract_archive(URL, unpacked, md5=MD5)
            os.replace(Path(unpacked, FOLDER), root / FOLDER)  # all of it or nothing
    except (OSError, HTTPException, RuntimeError) as error:  # offline, disk full, not the expected file
        reason = " ".join(str(error).split())
        raise UserError(f"{URL} cannot be fetched into {root} ({reason}): unpack it there by hand") from None
    return root / FOLDER


class ArraysOnly(pickle.Unpickler):
    """Reads arrays of bytes, numbers, text, lists and dicts; refuses anything else, which could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The object with this name, if a batch needs it. Raises UserError for any other."""
        if (module, name) not in ALLOWED:
            raise UserError(f"it asks for {module}.{name}, which no batch needs and which may do harm")
        return ALLOWED[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in a batch file, its keys as text. Raises UserError when it cannot be read or is no dict."""
    try:
        with open(path, "rb") as file:
            content = ArraysOnly(file, encoding="latin1").load()
        return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    except UserError as error:
        raise UserError(f"{path} is refused: {error}; get it from {URL}") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing: remove the folder and fetch it again with --download") from None
    except Exception:  # a damaged pickle raises anything
        raise damaged(path) from None


def read_names(path: Path) -> list[str]:
    """The names of the classes in batches.meta."""
    names = read_pickle(path).get("label_names")
    if not isinstance(names, list) or len(names) < 2:
        raise damaged(path)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def read_batch(path: Path, classes: int) -> tuple[torch.Tensor, list[int]]:
    """(pixels uint8 [n, 32, 32, 3], n labels below `classes`) of a batch. Raises UserError for a damaged file."""
    content = read_pickle(path)
    pixels, labels = content.get("data"), content.get("labels")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or not isinstance(labels, list)
        or pixels.shape != (len(labels), 3 * SIDE * SIDE)
        or not all(isinstance(label, int) and 0 <= label < classes for label in labels)
    ):
        raise damaged(path)
    return torch.from_numpy(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1).copy()), labels


def damaged(path: Path) -> UserError:
    """The error for a file that is no batch."""
    return UserError(f"{path} is damaged or no CIFAR-10 batch: remove the folder and fetch it again with --download")
