"""CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html"""

import os
import pickle
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from utils import UserError
from utils.files import write_csv

from .pictures import PictureData
from .samples import Sample, as_list, by_class, shown, spread

URL, MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
SIDE = 32
# What a pickled array of bytes is made from, by numpy 1 and 2, and what Python 3 makes of bytes in the old protocols.
ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0] for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): lambda kind, *_: {"u1": np.dtype(np.uint8)}[kind],
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}


class CIFAR10(PictureData):
    """60,000 pictures of 32 x 32 in ten classes, from the python batches: train has data_batch_1 to _5, val and test
    have test_batch, where the ids are 1, 2, ...

    Items are (uint8 [3, 32, 32], label or id), from memory; `prepare` makes them image_size high and wide. See
    PictureData for the other arguments.

    Args:
        root: the folder cifar-10-batches-py, or the one that holds it; or a list of one.
        mode: train, val or test.
        val_data_root: the same for val mode, where it is another one.
        val_size: how many samples val mode has at most, or None.
        download: fetch what is not there.
    """

    def __init__(self, root, mode, val_data_root=(), val_size=None, download=False, **options):
        folder = find_folder(val_data_root if mode == "val" and val_data_root else root, download)
        self.classes = read_names(folder / "batches.meta")
        names = [f"data_batch_{number}" for number in range(1, 6)] if mode == "train" else ["test_batch"]
        pixels, labels = zip(*(read_batch(folder / name, len(self.classes)) for name in names), strict=True)
        paths = [f"{name} {row}" for name, part in zip(names, labels, strict=True) for row in range(len(part))]
        pixels, labels = torch.cat(pixels), [label for part in labels for label in part]
        if mode == "val" and val_size:
            samples = [Sample(row, label, paths[row]) for row, label in enumerate(labels)]
            kept = sorted(
                sample.path for group in spread(by_class(samples, len(self.classes)), val_size) for sample in group
            )
            paths, pixels, labels = [paths[row] for row in kept], pixels[kept], [labels[row] for row in kept]
        targets = list(range(1, len(labels) + 1)) if mode == "test" else labels
        super().__init__(paths, targets, mode, pixels=pixels, **options)

    def write_results(self, path, predictions):
        """Kaggle's CSV: header id,label and a row per picture, label = name of the most probable class."""
        write_csv(
            path,
            ["id", "label"],
            (
                [id, self.classes[label]]
                for ids, batch in predictions
                for id, label in zip(ids, batch.argmax(dim=1).tolist(), strict=True)
            ),
        )


def find_folder(root, download):
    """The folder with the batches in `root`; it is fetched where it is missing and `download` says so. Raises
    UserError."""
    if len(as_list(root)) != 1:
        raise UserError(f"CIFAR10 takes one folder, not {shown(root)}")
    (root,) = map(Path, as_list(root))
    folders = [folder for folder in (root / FOLDER, root) if (folder / "batches.meta").is_file()]
    if folders:
        return folders[0]
    if not download:
        raise UserError(f"{root} has no {FOLDER} with batches.meta in it: --download fetches them (170 MB) from {URL}")
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as unpacked:
            download_and_extract_archive(URL, unpacked, md5=MD5)
            os.replace(Path(unpacked, FOLDER), root / FOLDER)  # there whole or not at all
    except (OSError, HTTPException, RuntimeError) as error:  # offline, no room, another file than expected
        reason = " ".join(str(error).split())
        raise UserError(f"{URL} cannot be fetched into {root} ({reason}): unpack it there by hand") from None
    return root / FOLDER


class ArraysOnly(pickle.Unpickler):
    """Reads arrays of bytes, numbers, text, lists and dicts; anything else, which could run code, is refused."""

    def find_class(self, module, name):
        """What a pickle may name."""
        if (module, name) not in ALLOWED:
            raise UserError(f"it asks for {module}.{name}, which no batch needs and which may do harm")
        return ALLOWED[module, name]


def read_pickle(path):
    """The dict in a batch file, its keys as text. Raises UserError when it cannot be read, or is something else."""
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


def read_names(path):
    """The names of the classes in batches.meta."""
    names = read_pickle(path).get("label_names")
    if not isinstance(names, list) or len(names) < 2:
        raise damaged(path)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def read_batch(path, classes):
    """(pixels uint8 [n, 32, 32, 3], labels, a list of n whole numbers below `classes`) of a batch."""
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


def damaged(path):
    """The error for a file that is no batch."""
    return UserError(f"{path} is damaged or no CIFAR-10 batch: remove the folder and fetch it again with --download")
