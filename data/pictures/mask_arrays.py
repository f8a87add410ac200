"""Masks that are no pictures: arrays of numpy, and of MATLAB where scipy is installed."""

from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = {".npy", ".npz", ".mat"}  # suffixes, lower case
SAVE = "save the mask alone as whole numbers [height, width], np.save(file, mask.astype('uint8'))"


def read_array(path: Path) -> np.ndarray:
    """The one array of numbers in a file: [h, w], or colours uint8 [h, w, 3]; numbers beside it and axes of length 1 do
    not count. Nothing is unpickled. Raises ValueError that says what to do, or what numpy and scipy raise."""
    named = read_matlab(path) if path.suffix.lower() == ".mat" else read_numpy(path)
    found = {name: np.squeeze(value) for name, value in named.items() if value.size > 1}
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} arrays{': ' if found else ''}{', '.join(found)}: {SAVE}")
    (pixels,) = found.values()
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"its array holds no numbers, but {pixels.dtype}: {SAVE}")
    if pixels.ndim != 2 and (pixels.ndim, pixels.shape[2:], pixels.dtype) != (3, (3,), np.uint8):
        raise ValueError(f"its array has the shape {'x'.join(map(str, pixels.shape))}: {SAVE}")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def read_numpy(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a .npy or .npz file."""
    try:
        content: Any = np.load(path, allow_pickle=False)
        return dict(content) if path.suffix.lower() == ".npz" else {"mask": content}
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(f"a pickled array, not read because a file may run anything that way: {SAVE}") from None


def read_matlab(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a .mat file."""
    try:
        from scipy.io import loadmat  # scikit-learn brings it
    except ImportError:
        raise ValueError(f"a file of MATLAB: pip install scipy, or {SAVE}") from None
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise ValueError(f"a file of MATLAB 7.3: save it with -v7, or {SAVE}") from None
    return {name: value for name, value in content.items() if not name.startswith("__")}
