"""Cartoon cats and dogs, to try training without a data set.

Both kinds share fur, eye colours, backgrounds, poses and camera faults; only their shapes differ:
a cat has upright pointed ears, almond eyes, whiskers and a thin tail, a dog hanging ears, a snout and round eyes.
The same kind and seed draw the same picture on every machine.
"""

import math
import os
import random
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

FURS = ["#f2ede4", "#e0b77a", "#d98c3f", "#a8672f", "#6b4a33", "#3a3432", "#8d8d92", "#c9c2b8", "#b5a08a", "#5d6470"]
EYES = ["#5d3a1a", "#8a5a20", "#5c8a3c", "#c9a227", "#4f86b5"]
NOSES = ["#2a2222", "#c9747c", "#5a3c36"]
DARK, PALE = "#1c1818", "#f4f0ea"
FINE = 2  # pictures are drawn this many times too large and shrunk, which smooths their edges
Point = tuple[float, float]
Colour = Any  # "#rrggbb", a name, or (red, green, blue)


class Brush:
    """Draws in the animal's own coordinates: its head is a circle of radius 1 around (0, 0), and y points down."""

    def __init__(self, canvas: Image.Image, centre: Point, scale: float, angle: float, mirror: bool = False):
        self.pen, self.centre, self.scale = ImageDraw.Draw(canvas), centre, scale
        self.cos, self.sin, self.flip = math.cos(angle) * scale, math.sin(angle) * scale, -1 if mirror else 1

    def place(self, points: Sequence[Point]) -> list[Point]:
        """The pixels of these points."""
        turned = [(x * self.cos - y * self.sin, x * self.sin + y * self.cos) for x, y in points]
        # Rounded, so that the last digit of another machine's sine does not move a pixel.
        return [(round(self.centre[0] + self.flip * x, 3), round(self.centre[1] + y, 3)) for x, y in turned]

    def shape(self, points: Sequence[Point], fill: Colour, edge: Colour = None) -> None:
        """A filled polygon, with an outline of colour `edge`."""
        pixels = self.place(points)
        self.pen.polygon(pixels, fill=fill)
        if edge is not None:
            self.pen.line([*pixels, *pixels[:2]], fill=edge, width=max(1, round(0.06 * self.scale)), joint="curve")

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour,
        edge: Colour = None,
        tilt: float = 0.0,
        corners: int = 40,
    ) -> None:
        """A filled ellipse around (x, y), rotated by `tilt`; with few `corners` it is a triangle or a diamond."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        turns = [2 * math.pi * corner / corners for corner in range(corners)]
        rim = [(rx * math.cos(turn), ry * math.sin(turn)) for turn in turns]
        self.shape([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in rim], fill, edge)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour, edge: Colour = None) -> None:
        """A thick line with round ends along the Bézier curve with these control points."""
        path = self.place(curve(points))
        for colour, half in ((edge, (width / 2 + 0.06) * self.scale), (fill, width / 2 * self.scale)):
            if colour is not None:
                self.pen.line(path, fill=colour, width=max(1, round(2 * half)), joint="curve")
                for x, y in (path[0], path[-1]):
                    self.pen.ellipse((x - half, y - half, x + half, y + half), fill=colour)


def curve(points: Sequence[Point]) -> list[Point]:
    """Points along the Bézier curve with these control points (de Casteljau's construction)."""
    path: list[Point] = []
    steps = 14 if len(points) > 2 else 1
    for step in range(steps + 1):
        share, left = step / steps, points
        while len(left) > 1:
            left = [(a + (c - a) * share, b + (d - b) * share) for (a, b), (c, d) in zip(left, left[1:], strict=False)]
        path.append(left[0])
    return path


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour at `share` of the way from the first to the second."""
    first, second = (ImageColor.getrgb(colour) if isinstance(colour, str) else colour for colour in (first, second))
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def any_colour(rng: random.Random) -> Colour:
    """A colour of any hue, rarely a bright one."""
    grey = rng.randint(70, 210)
    return tuple(grey + rng.randint(-45, 45) for _ in range(3))


def choose_coat(rng: random.Random) -> dict[str, Any]:
    """Colours and markings, drawn the same way for both kinds."""
    fur, second = mix(rng.choice(FURS), rng.choice(FURS), rng.choice([0, rng.random()])), rng.choice(FURS)
    return {
        "fur": fur,
        "second": second,
        "edge": mix(fur, "black", 0.55),
        "muzzle": rng.choice([mix(fur, "white", 0.45), second, fur]),
        "ear": rng.choice([fur, second, mix(fur, "black", 0.25)]),
        "nose": rng.choice(NOSES),
        "eye": mix(rng.choice(EYES), "white", 0.2),
        "markings": rng.choice(["none", "patches", "stripes"]),
        "collar": any_colour(rng) if rng.random() < 0.4 else None,
    }


def draw_body(brush: Brush, rng: random.Random, coat: dict[str, Any], kind: str) -> None:
    """A sitting or standing body behind the head; only the tail depends on the kind."""
    fur, edge, standing = coat["fur"], coat["edge"], rng.random() < 0.5
    x, y, rx, ry = (1.7, 1.5, 1.5, 0.75) if standing else (0.25, 2.0, 0.95, 1.3)
    a, b, lift = x + rx * 0.9, y - 0.2 if standing else y + 0.8, rng.uniform(0.6, 1.3)
    if kind == "cat":
        brush.stroke([(a, b), (a + 1.5, b + 0.2), (a + 0.1, b - 1.2 * lift), (a + 1, b - 2)], 0.2, fur, edge)
    else:
        brush.stroke([(a, b), (a + 0.6, b - 0.2), (a + 0.8, b - lift)], 0.38, fur, edge)
    for hip in (0.55, 0.95, 2.4, 2.8) if standing else ():
        brush.stroke([(hip, 1.7), (hip + rng.uniform(-0.2, 0.2), 3)], 0.36, fur, edge)
    brush.oval(x, y, rx, ry, fur, edge)
    for _ in range(4 if coat["markings"] != "none" else 0):
        a, b = x + rng.uniform(-0.6, 0.6) * rx, y - rng.uniform(-0.3, 0.6) * ry
        wide, high = (0.07, 0.3) if coat["markings"] == "stripes" else (0.3, 0.22)
        brush.oval(a, b, wide, high, coat["second"])
    for paw in () if standing else (-0.15, 0.5):
        brush.stroke([(paw, 2), (paw, 3.15)], 0.36, fur, edge)
    if coat["collar"]:
        brush.oval(0.1, 0.85, 0.75, 0.4, coat["collar"], edge)


def draw_skull(brush: Brush, rng: random.Random, coat: dict[str, Any], width: float, height: float) -> None:
    """The bare round head and its markings."""
    brush.oval(0, 0, width, height, coat["fur"], coat["edge"])
    if coat["markings"] == "stripes":
        for x in (-0.28, 0, 0.28):
            brush.stroke([(x, -0.8 * height), (x * 0.8, -0.45)], 0.1, coat["second"])
    elif coat["markings"] == "patches":
        brush.oval(rng.choice([-0.42, 0.42]), -0.15, 0.38, 0.42, coat["second"])


def draw_cat_head(brush: Brush, rng: random.Random, coat: dict[str, Any], turn: float) -> None:
    """Upright triangular ears, almond eyes with slits, a small nose and whiskers."""
    tall, spread = rng.uniform(1.45, 1.8), rng.uniform(0.7, 0.95)
    for side in (-1, 1):
        brush.shape([(side * spread, -tall), (side * 0.98, -0.2), (side * 0.15, -0.7)], coat["ear"], coat["edge"])
        inside = [(side * spread * 0.95, -tall + 0.3), (side * 0.82, -0.5), (side * 0.4, -0.75)]
        brush.shape(inside, mix(coat["fur"], "#e89aa0", 0.7))
    draw_skull(brush, rng, coat, rng.uniform(0.98, 1.12), rng.uniform(0.85, 0.95))
    slit, nose = rng.uniform(0.05, 0.11), turn * 0.25
    brush.oval(nose - 0.17, 0.44, 0.22, 0.18, coat["muzzle"])
    brush.oval(nose + 0.17, 0.44, 0.22, 0.18, coat["muzzle"])
    for side in (-1, 1):
        x = side * 0.43 + turn * 0.18
        inner, outer = (x - side * 0.26, 0.02), (x + side * 0.26, -0.16)
        lids = curve([inner, (x - side * 0.05, -0.5), outer]) + curve([outer, (x + side * 0.05, 0.3), inner])
        brush.shape(lids, coat["eye"], DARK)
        brush.oval(x, -0.08, slit, 0.17, DARK)
        brush.stroke([(nose, 0.36), (nose + side * 0.05, 0.62), (nose + side * 0.28, 0.5)], 0.04, DARK)
        for rise in (-0.16, 0.02, 0.2):
            brush.stroke([(nose + side * 0.25, 0.42 + rise / 3), (nose + side * 1.25, 0.36 + rise * 1.6)], 0.03, PALE)
    brush.shape([(nose - 0.13, 0.22), (nose + 0.13, 0.22), (nose, 0.36)], coat["nose"])


def draw_dog_head(brush: Brush, rng: random.Random, coat: dict[str, Any], turn: float) -> None:
    """Hanging ears, round eyes, and a long snout with a big nose, sometimes with the tongue out."""
    draw_skull(brush, rng, coat, rng.uniform(0.85, 1.0), rng.uniform(0.9, 1.0))
    length, swing = rng.uniform(0.55, 0.8), rng.uniform(0.05, 0.5)
    for side in (-1, 1):
        x, y = side * (0.85 + length * math.sin(swing) * 0.7), -0.5 + length * math.cos(swing) * 0.8
        brush.oval(x, y, 0.32, length, coat["ear"], coat["edge"], tilt=-side * swing)
        x = side * 0.36 + turn * 0.2
        brush.oval(x, -0.22, 0.2, 0.2, PALE, DARK)
        brush.oval(x + turn * 0.04, -0.2, 0.13, 0.13, coat["eye"])
        brush.oval(x + turn * 0.04, -0.2, 0.07, 0.07, DARK)
    x, drop = turn * 0.5, rng.uniform(0.4, 0.55)
    if rng.random() < 0.5:
        brush.oval(x + 0.05, drop + 0.55, 0.18, 0.34, "#e0707c", "#8a3a44")
    brush.oval(x * 0.8, drop, 0.5, 0.46, coat["muzzle"], coat["edge"])
    for side in (-1, 1):
        brush.stroke([(x, drop), (x + side * 0.02, drop + 0.34), (x + side * 0.32, drop + 0.18)], 0.05, DARK)
    brush.oval(x * 1.1, drop - 0.22, 0.25, 0.18, coat["nose"], DARK)


HEADS = {"cat": draw_cat_head, "dog": draw_dog_head}


def draw_clutter(canvas: Image.Image, rng: random.Random, centre: Point, size: float) -> None:
    """A wedge, a diamond or a ball of any colour, so that neither points nor curves alone reveal the kind."""
    brush, corners = Brush(canvas, centre, size, rng.uniform(0, 2 * math.pi)), rng.choice([3, 4, 40])
    brush.oval(0, 0, 1, rng.uniform(0.5, 1), any_colour(rng), any_colour(rng), corners=corners)


def draw_background(rng: random.Random, width: int, height: int) -> Image.Image:
    """A colour gradient with a scene on it (a room, a meadow, a fence or nothing) and some clutter."""
    ramp = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize((width, height))
    canvas, other = (Image.new("RGB", ramp.size, any_colour(rng)) for _ in range(2))
    canvas.paste(other, mask=ramp)
    pen, ground, horizon = ImageDraw.Draw(canvas), any_colour(rng), height * rng.uniform(0.45, 0.85)
    scene = rng.choice(["plain", "room", "meadow", "fence"])
    if scene in ("room", "meadow"):
        pen.rectangle((0, horizon, width, height), fill=ground)
    if scene == "room":  # with a window
        x, y, wide = rng.uniform(0, 0.8) * width, rng.uniform(0, 0.2) * height, rng.uniform(0.15, 0.4) * width
        pen.rectangle((x, y, x + wide, y + wide), fill=any_colour(rng), outline=ground, width=6)
        pen.line((x + wide / 2, y, x + wide / 2, y + wide), fill=ground, width=6)
    elif scene == "meadow":
        for _ in range(60):
            x, y = rng.uniform(0, width), rng.uniform(horizon, height)
            blade = (x, y, x + rng.uniform(-0.03, 0.03) * width, y - 0.07 * height)
            pen.line(blade, fill=mix(ground, any_colour(rng), 0.4), width=4)
    elif scene == "fence":
        step = rng.randint(24, 90)
        for x in range(0, width, step):
            pen.line((x, 0, x + rng.choice([0, step]), height), fill=ground, width=rng.randint(2, step // 3))
    for _ in range(rng.randint(0, 5)):
        spot = rng.uniform(0, width), rng.uniform(0, height)
        draw_clutter(canvas, rng, spot, rng.uniform(0.05, 0.2) * width)
    return canvas


def take_photo(canvas: Image.Image, rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """The canvas at its final size, with a camera's faults: blur, noise, a colour cast, wrong brightness."""
    photo = canvas.resize(size, Image.Resampling.BOX)
    if rng.random() < 0.4:
        photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.006 * max(size))))
    pixels = np.asarray(photo, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(pixels.shape, dtype=np.float32)
    light = rng.uniform(0.75, 1.2) * np.array([rng.uniform(0.9, 1.1) for _ in range(3)], dtype=np.float32)
    return Image.fromarray(np.clip(pixels * light + noise * rng.uniform(0, 12), 0, 255).astype(np.uint8))


def draw_picture(kind: str, seed: int) -> Image.Image:
    """An RGB picture of one 'cat' or 'dog', 90 to 300 pixels on its long side."""
    rng = random.Random(f"{kind}-{seed}")
    long, aspect = rng.randint(90, 300), rng.uniform(0.7, 1.4)
    size = (round(long * min(1, aspect)), round(long / max(1, aspect)))
    canvas = draw_background(rng, size[0] * FINE, size[1] * FINE)
    short, whole = min(canvas.size), rng.random() < 0.6
    radius = short * (rng.uniform(0.18, 0.24) if whole else rng.uniform(0.23, 0.32))
    # The head stays inside the central square, which a centre crop keeps.
    room = short * 0.5 - radius * 1.3
    x, y = (side / 2 + rng.uniform(-0.8, 0.8) * room for side in canvas.size)
    coat, mirror, angle = choose_coat(rng), rng.random() < 0.5, math.radians(rng.uniform(-25, 25))
    if whole:
        draw_body(Brush(canvas, (x, y), radius, angle * 0.4, mirror), rng, coat, kind)
    HEADS[kind](Brush(canvas, (x, y), radius, angle, mirror), rng, coat, rng.uniform(-1, 1))
    if rng.random() < 0.35:  # something stands in front, beside or below the face
        away = rng.uniform(0, math.pi)
        spot = x + math.cos(away) * radius * 1.9, y + math.sin(away) * radius * 1.9
        draw_clutter(canvas, rng, spot, radius * rng.uniform(0.4, 0.9))
    return take_photo(canvas, rng, size)


def draw_data_set(root: Path, train_per_class: int = 1300, test: int = 100) -> None:
    """Draw `train/<kind>.<n>.jpg` and unlabelled `test1/<n>.jpg` into `root`, unless it exists already."""
    if root.exists():
        return
    print(f"drawing {2 * train_per_class + test:,} demo pictures in {root} ...", flush=True)
    # In a temporary folder, renamed when complete: a killed run leaves no partial set, and two at once do no harm.
    draft = root.with_name(f".{root.name}-{uuid.uuid4().hex}")
    jobs = [(draft / "train" / f"{kind}.{n}.jpg", kind, n) for kind in HEADS for n in range(train_per_class)]
    secret = random.Random("test")  # test seeds are below zero, so no test picture is a training picture
    jobs += [(draft / "test1" / f"{n}.jpg", secret.choice(list(HEADS)), -n) for n in range(1, test + 1)]
    try:
        for part in ("train", "test1"):
            (draft / part).mkdir(parents=True)
        # Threads, because Pillow and numpy release the lock for most of the work; processes would import torch again.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda job: draw_picture(*job[1:]).save(job[0], quality=90), jobs))
        draft.rename(root)
    except OSError:
        if not root.exists():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
