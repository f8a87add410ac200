"""The pictures of a data set, decoded on demand or in memory: images[[3, 1, 4]] is a new uint8 tensor [3, H, W, C].

picture_set.py opens them; pack.py has those that are packed in a file.
"""

import errno
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import UnidentifiedImageError

from utils import UserError
from utils.deploy.inputs import PAUSE
from utils.files import megabytes
from utils.notices import counted, note

from .read import other_kind

DEVICE_SHARE = 0.2  # of a GPU's free memory, the largest part that the pictures of one mode take automatically
PIECE = 2_000_000  # bytes that are copied to the device at a time


class Images:
    """Images that are read from files. `sources` is where each of them is, `shape` is (N, H, W, C)."""

    def __init__(self, sources: Sequence[Any], shape: Sequence[int]):
        self.sources, self.shape = sources, (len(sources), *shape)

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        """uint8 [n, H, W, C], a new tensor."""
        raise NotImplementedError

    def select(self, kept: list[int]) -> None:
        """Leave only the images with these numbers, in this order."""
        self.sources = [self.sources[number] for number in kept]
        self.shape = len(kept), *self.shape[1:]


class LazyImages(Images):
    """Images that are decoded every time they are read, by a function as open_images takes."""

    def __init__(
        self,
        sources: Sequence[Any],
        read: Callable[[Any, tuple[int, int]], tuple[np.ndarray, Any]],
        shape: Sequence[int],
    ):
        super().__init__(sources, shape)
        self.read, self.size = read, (shape[0], shape[1])

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        rows = [self.read(self.sources[index], self.size)[0] for index in indices]
        return torch.from_numpy(np.stack(rows))

    def attempt(self, source: Any, strict: bool = False) -> tuple[np.ndarray | None, Any]:
        """(image, fact) of a source, or (None, the reason why it is broken). With `strict` errors of the machine rather
        than the file (no permission, a disk that does not respond) are raised: they may be temporary."""
        try:
            return self.read(source, self.size)
        except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
            cause = error.__cause__ or error
            if strict and isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT):
                raise cause from None
            return None, reason(error, source)


def reason(error: Exception, path: Any) -> str:
    """Why the picture at `path` cannot be read, in one line that does not repeat the path."""
    if isinstance(error, UnidentifiedImageError):
        return f"cannot identify the image: it is {other_kind(path)[0]}"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines())


class ImagesInMemory:
    """Images in memory, the computer's or a GPU's: a uint8 tensor [N, H, W, C]."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels, self.shape = pixels, tuple(pixels.shape)

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        # index_select is several times as fast as pixels[indices]; the host does not wait for the GPU.
        return self.pixels.index_select(0, torch.tensor(indices).to(self.pixels.device, non_blocking=True))


def fits_on_device(images: Images | ImagesInMemory, device: torch.device, cache: str) -> bool:
    """Whether to keep the images in the memory of `device`: with cache "device" yes, with "none" no, with "auto" if it
    is a GPU and they take at most a fifth of its free memory."""
    return cache == "device" or (
        cache == "auto"
        and device.type == "cuda"
        and math.prod(images.shape) <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    )


def load_on_device(images: Images | ImagesInMemory, device: torch.device) -> ImagesInMemory:
    """Copy all images to the device's memory, in small pieces. Raises UserError when they do not fit."""
    count, height, width, _ = images.shape
    size = f"{counted(count, 'picture')} of {width} x {height}, {megabytes(math.prod(images.shape))}"
    try:
        pixels = torch.empty(images.shape, dtype=torch.uint8, device=device)
    except RuntimeError:
        raise UserError(f"no room in the memory of {device} for {size}: give --cache=none") from None
    step = max(1, PIECE // math.prod(images.shape[1:]))
    pieces = [range(start, min(start + step, count)) for start in range(0, count, step)]
    for piece, part in zip(pieces, in_threads(lambda piece: images[list(piece)], pieces), strict=True):
        pixels[piece.start : piece.stop] = part
    note(f"kept in the memory of {device}: {size}")
    return ImagesInMemory(pixels)


def in_threads(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
    """Yield function(argument) of each in order, computed a few ahead by threads, because Pillow releases the lock. A
    PAUSE among the arguments is yielded as it is, after all that stand before it and before the next is asked for."""
    threads = min(16, os.cpu_count() or 1)
    pool, ahead = ThreadPoolExecutor(threads), deque[Future[Any]]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about odd metadata
            for argument in arguments:
                if argument is not PAUSE:
                    ahead.append(pool.submit(function, argument))
                while len(ahead) > (0 if argument is PAUSE else 4 * threads):
                    yield ahead.popleft().result()
                if argument is PAUSE:
                    yield PAUSE
            while ahead:
                yield ahead.popleft().result()
    finally:  # after Ctrl-C too, and then without finishing the rest
        pool.shutdown(cancel_futures=True)
