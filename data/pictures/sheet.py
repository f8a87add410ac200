"""Pictures with captions on one sheet: predictions beside the truth."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from .read import read_picture

DRAWN = 16  # pictures of a batch that are drawn
TILE = 160  # minimum width of each picture, pixels
LINE, GAP = 24, 8  # height of a line of text, and what is between two pictures, pixels
PHOTOGRAPH = 256  # maximum side of a photograph that is shown, pixels


def compared(
    images: torch.Tensor, classes: Sequence[str], target: torch.Tensor, prediction: torch.Tensor | None
) -> torch.Tensor:
    """Up to 16 pictures of a batch in rows of four, uint8 [3, H, W], each above its caption, see `captions`. Small ones
    are enlarged by a whole factor, so that a caption has room.

    images: float [N, 3, H, W] from 0 to 1; target: int64 [N], or shares of the classes float [N, C]; prediction:
    probabilities [N, C], or None: only the truth is written.
    """
    pictures = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    (width, height), columns = enlarged(pictures[0]).size, min(4, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP), LINE + rows * (height + LINE)), "white")
    pen = Pen(sheet, "".join(classes))
    names, predicted = [pen.readable(name) for name in classes], None if prediction is None else prediction[:DRAWN]
    heading, texts = captions(names, target[:DRAWN], predicted)
    pen.write((GAP // 2, 2), heading, sheet.width - GAP, "dimgray")
    for number, (picture, (text, color)) in enumerate(zip(pictures, texts, strict=True)):
        x, y = number % columns * (width + GAP) + GAP // 2, LINE + number // columns * (height + LINE)
        sheet.paste(enlarged(picture), (x, y))
        pen.write((x, y + height + 2), text, width, color)
    return as_tensor(sheet)


def captions(
    classes: Sequence[str], target: torch.Tensor, prediction: torch.Tensor | None
) -> tuple[str, list[tuple[str, str]]]:
    """(a heading, [(caption, its color)]): of each picture the predicted class, its probability and, in brackets, the
    true one, green if they agree, else red; or without predictions the true class, of a mixture the shares of two."""
    if prediction is None:
        shares = target if target.is_floating_point() else F.one_hot(target, len(classes)).float()
        parts = [sorted(zip(row, classes, strict=True), reverse=True)[:2] for row in shares.tolist()]
        alone = [[name if share > 0.995 else f"{brief(name)} {share:.2f}" for share, name in two] for two in parts]
        texts = [", ".join(names[: 1 + (two[-1][0] >= 0.005)]) for names, two in zip(alone, parts, strict=True)]
        return "what the model sees in training, and its true class", [(text, "black") for text in texts]
    shares, labels = prediction.max(dim=1)
    rows = zip(shares.tolist(), labels.tolist(), target.tolist(), strict=True)
    texts = [f"{brief(classes[label])} {share:.2f} ({brief(classes[true])})" for share, label, true in rows]
    colors = ["darkgreen" if right else "firebrick" for right in (labels == target).tolist()]
    return "prediction, its probability (truth); red: wrong", [*zip(texts, colors, strict=True)]


def beside(
    pictures: Sequence[np.ndarray], headings: Sequence[str], legend: Iterable[tuple[str, Any]] = ()
) -> torch.Tensor:
    """Pictures side by side, each below its heading, uint8 [3, H, W]; small ones are enlarged by a whole factor.

    pictures: uint8 [h, w, 3] of one size. legend: (name, its RGB colour), written below the pictures.
    """
    tiles = [enlarged(picture) for picture in pictures]
    width, height = tiles[0].size
    total = len(tiles) * (width + GAP) - GAP
    entries = [*legend]
    columns = max(1, total // TILE)
    rows = math.ceil(len(entries) / columns)
    sheet = Image.new("RGB", (total, LINE + height + rows * LINE), "white")
    pen = Pen(sheet, "".join([*headings, *(name for name, _ in entries)]))
    for number, (tile, heading) in enumerate(zip(tiles, headings, strict=True)):
        x = number * (width + GAP)
        pen.write((x, 3), heading, width)
        sheet.paste(tile, (x, LINE))
    for number, (name, color) in enumerate(entries):
        x, y = number % columns * TILE, LINE + height + number // columns * LINE
        pen.draw.rectangle((x, y + 6, x + 12, y + 18), fill=tuple(color), outline="gray")
        pen.write((x + 18, y + 3), name, TILE - 24)
    return as_tensor(sheet)


class Pen:
    """Writes on a PIL image, in a font that has the letters of `text`, as far as there is one."""

    def __init__(self, sheet: Image.Image, text: str):
        from utils.metrics import fonts  # here: it loads matplotlib

        file = fonts.font_file(text)
        self.draw, self.font = ImageDraw.Draw(sheet), ImageFont.truetype(file, 12)
        self.readable = functools.partial(fonts.in_font, file=file)  # text with escapes for letters that it lacks

    def write(self, place: tuple[int, int], text: str, width: int, color: str = "black") -> None:
        """Write the text at (x, y), its end left out where it is wider than `width` pixels."""
        text = self.readable(text)
        while len(text) > 1 and self.draw.textlength(text, font=self.font) > width:
            text = text[:-2] + "…"
        self.draw.text(place, text, fill=color, font=self.font)


def enlarged(picture: np.ndarray) -> Image.Image:
    """uint8 [h, w, 3] -> an image at least TILE wide, a whole number of times as large."""
    height, width = picture.shape[:2]
    scale = math.ceil(TILE / width)
    return Image.fromarray(picture).resize((scale * width, scale * height), Image.Resampling.NEAREST)


def brief(name: str) -> str:
    """A class name for a caption of two."""
    return name if len(name) <= 10 else f"{name[:9]}…"


def as_tensor(sheet: Image.Image) -> torch.Tensor:
    """An RGB image -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def photograph(path: Any) -> torch.Tensor | None:
    """The whole picture of a file, 256 pixels at most on its longer side, uint8 [3, H, W]; None if it is unreadable."""
    try:
        picture = read_picture(path, PHOTOGRAPH)
    except Exception:  # decoders raise anything; a packed set may have lost its files, another never had any
        return None
    picture.thumbnail((PHOTOGRAPH, PHOTOGRAPH))
    return as_tensor(picture)
