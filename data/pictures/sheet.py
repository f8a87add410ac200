"""Pictures with captions on one sheet: predictions beside the truth."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

DRAWN = 16  # pictures of a batch that are drawn
TILE = 160  # minimum width of each picture, pixels


def compared(
    images: torch.Tensor, classes: Sequence[str], target: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor:
    """Up to 16 pictures of a batch in rows of four, uint8 [3, H, W], each above the predicted class, its probability
    and in brackets the true class; green if they agree, else red. Small ones are enlarged by a whole factor, so that a
    caption has room.

    images: float [N, 3, S, S] from 0 to 1; target: int64 [N]; prediction: probabilities [N, C].
    """
    pictures = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    scale = math.ceil(TILE / images.shape[-1])
    side, line = scale * images.shape[-1], 24
    columns = min(4, len(pictures))
    sheet = Image.new("RGB", (columns * (side + 8), math.ceil(len(pictures) / columns) * (side + line)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    names = [name if len(name) <= 10 else f"{name[:9]}…" for name in classes]
    shares, labels = prediction[:DRAWN].max(dim=1)
    truth = zip(shares.tolist(), labels.tolist(), target[:DRAWN].tolist(), strict=True)
    for number, (picture, (share, label, true)) in enumerate(zip(pictures, truth, strict=True)):
        x, y = number % columns * (side + 8) + 4, number // columns * (side + line)
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (x, y))
        text = f"{names[label]} {share:.2f} ({names[true]})"
        while pen.textlength(text, font=font) > side:
            text = text[:-2] + "…"
        pen.text((x, y + side + 2), text, fill="darkgreen" if label == true else "firebrick", font=font)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
