"""Pictures that tests draw: colored noise in a folder per class, and shapes with their masks."""

import numpy as np
from PIL import Image, ImageDraw

TREE_COLORS = {"oak": (60, 160, 60), "ash": (160, 60, 60), "fir": (60, 60, 160)}
SHAPE_COLORS = np.array([[90, 90, 90], [210, 60, 50], [50, 80, 210]])  # of the ground, discs (1) and bars (2)


def paint(path, kind="oak", number=0, size=(40, 36)):
    """A noisy picture in the color of its kind, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 80, (size[1], size[0], 3)) + TREE_COLORS.get(kind, (99, 99, 99))
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def trees(folder, **counts):
    """A folder per kind with this many PNG files; returns it."""
    for kind, count in counts.items():
        for number in range(count):
            paint(folder / kind / f"{number}.png", kind, number)
    return folder


def forest_of_42(folder):
    """oak, ash and fir as 10 : 3 : 1, times three; returns the folder."""
    return trees(folder, oak=30, ash=9, fir=3)


def fill(folder, *names, **texts):
    """Pictures with these names, folders for those that end with a slash, and texts as <name>.txt."""
    for name in names:
        (folder / name).mkdir(parents=True) if name.endswith("/") else paint(folder / name)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def write_list(folder, lines, name="list.txt"):
    """A text file with these lines; returns its path."""
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def draw_shapes(root, count, names=None, size=(72, 60)):
    """`count` noisy pictures 0.jpg, ... of a disc in front of a bar, with their masks; returns the folder."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = Image.new("L", size)
        pen = ImageDraw.Draw(mask)
        left, top, x, y = (int(rng.integers(0, limit - 30)) for limit in (*size, *size))
        pen.rectangle((left, top, left + rng.integers(18, 28), top + rng.integers(14, 22)), fill=2)
        pen.ellipse((x, y, x + 24, y + 24), fill=1)
        pixels = SHAPE_COLORS[np.array(mask)] + rng.integers(-40, 40, (size[1], size[0], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number}.jpg", quality=92)
        mask.save(root / "masks" / f"{number}.png")
    if names:
        (root / "class_name.txt").write_text("\n".join(names) + "\n")
    return root


def replace_mask(root, number, mask):
    """Put another mask, a numpy array, in the place of one of draw_shapes."""
    Image.fromarray(mask).save(root / "masks" / f"{number}.png")
