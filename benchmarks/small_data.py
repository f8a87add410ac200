"""Small data sets that need no download: what the trainings of same_numbers.py learn from.

Every function draws one into a new folder and returns the options of main.py that name it.
"""

import json
import pickle

import numpy as np
from PIL import Image


def noise(number, height, width):
    """A noisy picture, uint8 [height, width, 3], that only `number` decides."""
    return np.random.default_rng(number).integers(0, 160, (height, width, 3)).astype(np.uint8)


def draw_pets(folder):
    """Draw 20 cats and 20 dogs, and 6 pictures without labels; return the options that name them."""
    for part, names in (
        ("train", [f"{('cat', 'dog')[number % 2]}.{number}.jpg" for number in range(40)]),
        ("test1", [f"{number}.jpg" for number in range(1, 7)]),
    ):
        (folder / part).mkdir(parents=True)
        for number, name in enumerate(names):
            pixels = noise(number + len(names), 40, 48)
            pixels[..., 2 * (number % 2)] += 90  # cats are reddish, dogs bluish
            Image.fromarray(pixels).save(folder / part / name, quality=95)
    return [f"--train-data-root={folder / 'train'}", f"--test-data-root={folder / 'test1'}"]


def draw_cifar(folder):
    """Write CIFAR-10's files with 20 pictures each."""
    folder.mkdir()
    contents = {"batches.meta": {"label_names": [f"class {number}" for number in range(10)]}}
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = [(row + number) % 10 for row in range(20)]
        contents[name] = {"labels": labels, "data": noise(number, 20, 1024).reshape(20, 3072)}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return [f"--train-data-root={folder}"]


def draw_shapes(folder, numbers=range(16)):
    """Draw a picture of two blocks for each number, with its mask."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in numbers:
        pixels, mask = noise(number, 60, 72), np.zeros((60, 72), np.uint8)
        for kind, (x, y) in enumerate(np.random.default_rng(number).integers(0, 36, (2, 2)), start=1):
            mask[y : y + 24, x : x + 24] = kind
        for kind in (1, 2):
            pixels[mask == kind, kind] += 90
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return [f"--train-data-root={folder}"]


def draw_coco(folder):
    """Draw 8 pictures of two blocks, with a COCO file."""
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 9):
        pixels = noise(number, 48, 64)
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 64, "height": 48})
        for kind, x, y, w, h in ((1, 6 * (number % 4), 6, 18, 12), (3, 36, 6 * (number % 5), 24, 18)):
            pixels[y : y + h, x : x + w, kind % 3] += 90
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            box = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [outline], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": kind, **box})
        Image.fromarray(pixels).save(folder / "images" / f"{number:012d}.jpg", quality=95)
    categories = [{"id": 1, "name": "block"}, {"id": 3, "name": "bar"}]
    file = folder / "annotations" / "instances_train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return [f"--train-data-root={file}"]


DRAW = {"pets": draw_pets, "cifar": draw_cifar, "shapes": draw_shapes, "coco": draw_coco, "nothing": lambda _: []}
