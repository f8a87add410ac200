"""Pictures with captions on one sheet: predictions beside the truth."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

DRAWN = 16  # pictures of a batch that are drawn
TILE = 160  # minimum width of each picture, pixels


def tiles(pictures: torch.Tensor, captions: list[tuple[str, str]], columns: int = 4) -> torch.Tensor:
    """Pictures in rows of four, each above its caption: uint8 [N, 3, S, S] and N pairs (text, color) -> uint8
    [3, H, W]. Small ones are enlarged by a whole factor, so that a caption has room."""
    scale = math.ceil(TILE / pictures.shape[-1])
    side, line = scale * pictures.shape[-1], 24
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * (side + 8), math.ceil(len(pictures) / columns) * (side + line)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (picture, (text, color)) in enumerate(zip(pictures, captions, strict=True)):
        x, y = number % columns * (side + 8) + 4, number // columns * (side + line)
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        while pen.textlength(text, font=font) > side:
            text = text[:-2] + "…"
        pen.text((x, y + side + 2), text, fill=color, font=font)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def compared(
    images: torch.Tensor, classes: Sequence[str], target: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor:
    """Up to 16 pictures of a batch, uint8 [3, H, W], each with the predicted class, its probability and in brackets the
    true class; green if they agree, else red.

    images: float [N, 3, S, S] from 0 to 1; target: int64 [N]; prediction: probabilities [N, C].
    """
    pictures = (images.clamp(0, 1) * 255).round().byte().cpu()
    shares, labels = prediction[:DRAWN].max(dim=1)
    names = [name if len(name) <= 10 else f"{name[:9]}…" for name in classes]
    captions = []
    for share, label, true in zip(shares.tolist(), labels.tolist(), target[:DRAWN].tolist(), strict=True):
        text = f"{names[label]} {share:.2f} ({names[true]})"
        captions.append((text, "darkgreen" if label == true else "firebrick"))
    return tiles(pictures, captions)
