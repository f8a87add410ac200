"""Pictures of every kind that are read alike, and files that are no whole picture."""

import numpy as np
from conftest import draw
from PIL import Image

RED_LEFT = np.zeros((30, 60, 3), np.uint8)
RED_LEFT[:, :30, 0] = 255  # upright: the left half red, the right half black


def grey(path):
    Image.fromarray(RED_LEFT).convert("L").save(path, format="JPEG")
    return 76, 76, 76


def sixteen_bit(path):
    Image.fromarray((RED_LEFT[..., 0].astype(np.uint16) // 2) * 257).save(path, format="PNG")
    return 127, 127, 127


def dark_sixteen_bit(path):
    Image.fromarray(RED_LEFT[..., 0].astype(np.uint16)).save(path, format="PNG")
    return 1, 1, 1


def floating_point(path):
    Image.fromarray(RED_LEFT[..., 0].astype(np.float32) / 255 * 0.5).save(path, format="TIFF")
    return 127, 127, 127


def alpha(path):
    rgba = np.dstack([RED_LEFT, np.where(RED_LEFT[..., 0], 0, 255).astype(np.uint8)])  # the red half is invisible
    Image.fromarray(rgba, "RGBA").save(path, format="PNG")
    return 255, 255, 255


def palette_with_transparency(path):
    image = Image.fromarray(RED_LEFT).quantize(2)
    image.save(path, format="PNG", transparency=image.getpixel((5, 5)))
    return 255, 255, 255


def turned_by_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; a viewer turns it by 90 degrees clockwise
    Image.fromarray(RED_LEFT).rotate(90, expand=True).save(path, format="JPEG", quality=95, exif=exif)
    return 255, 0, 0


def mode(name):
    def write(path):
        Image.fromarray(RED_LEFT).convert(name).save(path, format="PNG" if name in "P1" else "JPEG", quality=95)
        return (255, 0, 0) if name != "1" else None

    write.__name__ = name
    return write


KINDS = [mode("RGB"), mode("CMYK"), mode("P"), grey, sixteen_bit, dark_sixteen_bit, floating_point]
KINDS += [alpha, palette_with_transparency, turned_by_exif]


NO_PICTURE = "cannot identify the image: it is "
REASONS = (f"{NO_PICTURE}empty", "image file is truncated", f"{NO_PICTURE}a web page", f"{NO_PICTURE}of no kind that")
# ... of broken_kinds


def broken_kinds(folder, kinds, number=500):
    """One of each broken kind, named as `kinds` (a list of four names) says."""
    draw(folder / "whole.jpeg", "dog", number)
    whole = (folder / "whole.jpeg").read_bytes()
    (folder / "whole.jpeg").unlink()
    contents = [b"", whole[: len(whole) // 2], b"<html>not a picture</html>", whole[:20] + bytes(200)]
    for name, content in zip(kinds, contents, strict=True):
        (folder / name).write_bytes(content)
