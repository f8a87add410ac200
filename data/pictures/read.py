"""Any picture file -> pixels."""

import contextlib
import errno
import functools
import importlib.util
import inspect
import io
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.nn import functional as F

from utils.notices import note, once

from .augment import MEAN

# What Pillow only identifies; for PostScript it would start Ghostscript, which runs the file as a program.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
Image.preinit()  # first, so that the usual formats are tried first
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - NOT_DECODED}
SUFFIXES |= {".avif", ".heic", ".heif", ".hif", ".jxl", ".mpo"}  # of pictures, lower case; some need a plugin
# What files begin with that are no pictures for Pillow alone: what they are, and the plugin that reads them.
OTHERS = [
    (rb"....ftyp(hei|hev|mif1|msf1)", "HEIC: pip install pillow-heif, or save it as JPEG", "pillow_heif"),
    (rb"....ftypavi", "AVIF: pip install pillow-avif-plugin, or save it as PNG", "pillow_avif"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL: pip install pillow-jxl-plugin, or save it as PNG", "pillow_jxl"),
    (rb"version https://git-lfs", "a Git LFS pointer: run git lfs pull", ""),
    (rb"\s*<(?i:!doctype html|html|head|body)", "a web page: download the picture again", ""),
    (rb"\s*<(\?xml|svg)|%!PS|%PDF|\xc5\xd0\xd3\xc6", "SVG, PostScript or PDF: save it as PNG", ""),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF with other channels than Pillow can read: save it as PNG", ""),
    (rb"\0{16}", "nothing but zeros: copy it again", ""),
]
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # how a picture of each EXIF orientation becomes upright
ANIMATED = {"AVIF", "FLI", "GIF", "PNG", "TIFF", "WEBP"}  # not MPO, whose other pictures are smaller versions
MEAN_COLOR = [round(255 * value) for value in MEAN]  # of what is around a picture
NO_DATA = 1e30  # floats that are not below this, or NaN, stand for no data


def read_picture(path: Any, size: int | None = None, upright: bool = True) -> Image.Image:
    """A file as an upright RGB PIL image, whether it is grey, palette, CMYK, 16 bit, has alpha (put on white) or is
    turned by its EXIF tag. With `size` a JPEG may be decoded smaller, its sides at least `size`, which is faster. With
    upright=False the EXIF tag is ignored. Of an animation it is the first frame; a note says so, once. Float pixels
    without data are black.

    Raises OSError or another of Pillow's errors when it cannot be decoded completely.
    """
    with open_picture(path) as file:
        if size:
            file.draft(None, (size, size))
        note_frames(file, path)
        try:
            file.load()
        except ValueError as error:
            file = without_text(path, error)
            file.load()
        turn = TURNS.get(orientation(file)) if upright else None
        picture: Image.Image = file if turn is None else file.transpose(turn)
        if picture.mode.startswith(("I", "F")):  # Pillow would clip 16 bits at 255
            picture = Image.fromarray(to_bytes(picture))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def to_bytes(picture: Image.Image) -> np.ndarray:
    """An image of integers or floats -> uint8 [H, W]. White is the first of the usual maxima that no pixel exceeds.
    Raises ValueError when no pixel is a number."""
    values = np.asarray(picture, dtype=np.float32)
    known = np.abs(values) < NO_DATA
    if not known.any():
        raise ValueError("all its pixels are NaN or infinite")
    values = np.where(known, values, 0)
    usual = {"I;16": (65535,), "F": (1, 255, 65535)}.get(picture.mode[:4], (255, 65535))
    white = next((limit for limit in usual if values.max() <= limit), values.max())
    return (values / white * 255).clip(0, 255).astype(np.uint8)


def open_picture(path: Any) -> Any:
    """A picture file opened by Pillow, which has read its header; a context manager. A plugin for its format is loaded
    where it is installed. Raises OSError or another of Pillow's errors."""
    if not os.path.isfile(path):  # reading a pipe would wait forever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        return Image.open(path, "r", [kind for kind in Image.ID if kind not in NOT_DECODED])
    except UnidentifiedImageError:
        with contextlib.suppress(ImportError, ValueError):  # not installed, or none needed
            plugin = importlib.import_module(other_kind(path)[1])
            getattr(plugin, "register_heif_opener", Image.init)()  # the others register when they are imported
        return Image.open(path, "r", [kind for kind in Image.ID if kind not in NOT_DECODED])
    except ValueError as error:
        return without_text(path, error)


def can_be_opened(path: Any) -> bool:
    """Whether the file is a picture by its content, whatever its name."""
    try:
        with open_picture(path):
            return True
    except Exception:  # decoders raise anything
        return other_kind(path)[1] != ""


def other_kind(path: Any) -> tuple[str, str]:
    """(what a file is that Pillow does not know, the module of the plugin that reads it or "")."""
    with open(path, "rb") as file:
        head = file.read(64)
    found = (others[1:] for others in OTHERS if re.match(others[0], head, re.DOTALL))
    return next(found, ("of no kind that Pillow can read" if head else "empty", ""))


def decoders() -> list[str]:
    """What decodes pictures here: Pillow's version, and the plugins that are installed."""
    return [PIL.__version__, *(plugin for *_, plugin in OTHERS if plugin and importlib.util.find_spec(plugin))]


def without_text(path: Any, error: ValueError) -> Any:
    """A PNG opened without its text and its colour profile, which Pillow bounds, to limit its memory.
    Raises the `error` when it is no PNG."""
    with open(path, "rb") as file:
        kept = [file.read(8)]
        if kept != [b"\x89PNG\r\n\x1a\n"]:
            raise error
        while head := file.read(8):  # of a chunk: the length of its content, its type
            length = int.from_bytes(head[:4], "big") + 4  # with its checksum
            if head[4:] in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
                file.seek(length, os.SEEK_CUR)
            else:
                kept += head, file.read(length)
    return Image.open(io.BytesIO(b"".join(kept)), formats=["PNG"])


def orientation(file: Image.Image) -> int:
    """The EXIF orientation of an opened picture, 1 to 8; 1, which is upright, also where its EXIF is damaged."""
    with contextlib.suppress(Exception):  # Pillow raises anything then; the pixels are sound
        return int(file.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def note_frames(file: Any, path: Any) -> None:
    """A note, once, when an opened picture has several frames."""
    with contextlib.suppress(Exception):  # a damaged second frame
        if file.format in ANIMATED and getattr(file, "is_animated", False) and once("frames"):
            note(f"{path} has several frames or pages: only the first is used, in other pictures too")


def read_square(
    path: Any, size: tuple[int, int], interpolation: str = "bilinear", fit: str = "squeeze"
) -> tuple[np.ndarray, None]:
    """A whole picture in a square or rectangle, for open_images: (uint8 [*size, 3], None). What it does not cover, see
    `position`, has the mean colour."""
    square = np.full((*size, 3), MEAN_COLOR, dtype=np.uint8)
    covered = square[position(path, size, fit)]  # a view
    covered[:] = resized(np.asarray(read_picture(path, max(size))), *covered.shape[:2], interpolation)
    return square, None


def position(path: Any, size: tuple[int, int], fit: str) -> tuple[slice, slice]:
    """The (rows, columns) of size, (height, width), that a whole picture covers: all with fit "squeeze", with "pad" as
    many in the middle as its proportions allow."""
    h, w = size if fit == "squeeze" else fitted(*upright_size(path)[::-1], size)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return slice(top, top + h), slice(left, left + w)


def fitted(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a picture that becomes as large as fits into size, (height, width)."""
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_center_crop(
    path: Any, size: tuple[int, int], interpolation: str = "bilinear", share: float = 1.0
) -> tuple[np.ndarray, None]:
    """The largest part in the middle of a picture with the proportions of size, (height, width), or this share of its
    sides, for open_images: (uint8 [*size, 3], None)."""
    pixels = np.asarray(read_picture(path, math.ceil(max(size) / share)))
    return resized(middle(pixels, size, share), *size, interpolation), None


def reader(read: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """`read` with these arguments, where they are not its defaults; they are in its name, by which packs are told."""
    changed = {name: value for name, value in how.items() if inspect.signature(read).parameters[name].default != value}
    made: Any = functools.partial(read, **changed)
    made.__name__ = " ".join([read.__name__, *map(str, changed.values())])
    return made


def middle(pixels: Any, size: tuple[int, int], share: float) -> Any:
    """[..., H, W, C] -> the largest part in its middle with the proportions of size, or this share of its sides."""
    height, width = pixels.shape[-3:-1]
    h, w = min(height, max(1, round(width * size[0] / size[1]))), min(width, max(1, round(height * size[1] / size[0])))
    h, w = max(1, round(h * share)), max(1, round(w * share))
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[..., top : top + h, left : left + w, :]


def resized(pixels: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3], antialiased: bilinear within 1 of Pillow's resize, in a fifth of the
    time."""
    picture = torch.tensor(pixels).permute(2, 0, 1)[None]
    picture = F.interpolate(picture, (height, width), mode=interpolation, antialias=True)
    return picture[0].permute(1, 2, 0).contiguous().numpy()


def upright_size(path: Any) -> tuple[int, int]:
    """(width, height) of a picture as read_picture returns it, from the file's header."""
    with open_picture(path) as picture:
        width, height = picture.size
        upright = ExifTags.Base.Orientation in getattr(picture, "tag_v2", ())  # Pillow turns a TIFF itself
        return (height, width) if orientation(picture) in (5, 6, 7, 8) and not upright else (width, height)
