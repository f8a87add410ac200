"""What samples look like: a few numbers of each, by which they are found again."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.nn import functional as F

SIDE = 8  # of the coarse hash: it has SIDE * SIDE bits
LIKE = 58  # bits of it in which two versions of a picture agree at least
THUMB, CLOSE = 16, 3.0  # side of the thumbnails that confirm it; their mean difference, of 255
PALE = 0.1  # the same as a share of their standard deviation
CONSTANT = 3  # largest difference of two pixels of a picture that shows nothing
ROWS = 512  # of the table of all pairs that are compared at a time


class Sample(NamedTuple):
    """One sample of a data set, in some hundred bytes.

    Attributes:
        part: train or val.
        number: its number there.
        name: its file, or its number where it has none.
        exact: a hash of its file, or where there is none of its numbers.
        coarse: float [SIDE ** 2] of 1 and -1, the same for a re-encoded or resized version; None for other than
            pictures and for constant ones.
        constant: whether a picture shows nothing.
        side: the longer side of the picture, pixels; 0 where it is no picture.
        label: its class, or None where there is not one class for all of it.
        counts: {label: how often it occurs in it}: once, or number of pixels or objects.
        between: share of a mask's pixels whose value lies between those of their neighbours, by label.
    """

    part: str
    number: int
    name: str
    exact: bytes
    coarse: torch.Tensor | None
    constant: bool
    side: int
    label: int | None
    counts: dict[int, int]
    between: dict[int, float]

    def __str__(self) -> str:
        return self.name


def look_at(dataset: Any, part: str, index: int) -> Sample:
    """The Sample with this number of train or val."""
    input, target = dataset[index]
    path = file_of(dataset, index)
    whole = dataset.picture(index)[0] if hasattr(dataset, "picture") else input  # what the model sees may be a crop
    is_picture = isinstance(whole, torch.Tensor) and whole.ndim == 3 and whole.dtype == torch.uint8
    constant = is_picture and int(whole.max()) - int(whole.min()) <= CONSTANT
    exact = path.read_bytes() if path else input.contiguous().numpy().tobytes()
    counts, between = counted_labels(target)
    return Sample(
        part,
        index,
        "/".join(path.parts[-2:]) if path else f"sample {index} of {part}",
        hashlib.blake2b(exact, digest_size=16).digest(),
        None if constant or not is_picture else coarse_hash(whole),
        constant,
        side_of(path, whole) if is_picture else 0,
        next(iter(counts)) if len(counts) == 1 and not isinstance(target, dict) and not between else None,
        counts,
        between,
    )


def file_of(dataset: Any, index: int) -> Path | None:
    """The file of a sample, by the list in which data sets of pictures have theirs; None where there is none."""
    for name in ("paths", "samples", "pictures"):
        if rows := getattr(dataset, name, None):
            path = Path(getattr(rows[index], "path", rows[index]))
            return path if path.is_file() else None
    return None


def side_of(path: Path | None, picture: torch.Tensor) -> int:
    """The longer side of a picture: its file's, as its header says, or else that of the pixels [3, H, W]."""
    with contextlib.suppress(Exception):  # what only a plugin reads, or data that are no files
        if path:
            with Image.open(path) as opened:  # reads the header alone
                return max(opened.size)
    return max(picture.shape[1:])


def coarse_hash(picture: torch.Tensor) -> torch.Tensor:
    """Which of two neighbouring parts of a picture, uint8 [3, H, W], is lighter: float [SIDE ** 2] of 1 and -1."""
    grey = picture.float().mean(dim=0)[None, None]
    small = F.interpolate(grey, (SIDE, SIDE + 1), mode="bilinear", antialias=True)[0, 0]
    return (small[:, 1:] > small[:, :-1]).flatten().float() * 2 - 1


def thumbnail(dataset: Any, index: int) -> torch.Tensor:
    """A sample's picture, float [3, THUMB, THUMB]."""
    whole = dataset.picture(index)[0] if hasattr(dataset, "picture") else dataset[index][0]
    return F.interpolate(whole[None].float(), (THUMB, THUMB), mode="bilinear", antialias=True)[0]


def counted_labels(target: Any) -> tuple[dict[int, int], dict[int, float]]:
    """(counts, between) of Sample, of a target as data sets have them: a number, a mask uint8 [H, W] or a dict with
    labels; of anything else ({}, {})."""
    if isinstance(target, dict):
        target = target.get("labels", torch.zeros(0, dtype=torch.int64))
        return counts_of(target), {}
    if isinstance(target, int):
        return {target: 1}, {}
    if isinstance(target, torch.Tensor) and target.numel() == 1:
        return {round(target.item()): 1}, {}
    if isinstance(target, torch.Tensor) and target.ndim == 2 and target.dtype == torch.uint8:
        counts = counts_of(target)
        return counts, {label: between(target.int(), label) / count for label, count in counts.items()}
    return {}, {}


def counts_of(labels: torch.Tensor) -> dict[int, int]:
    """{label: how often it occurs}."""
    values, counts = labels.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def between(mask: torch.Tensor, label: int) -> int:
    """How many pixels of a label in a mask [H, W] lie between a smaller and a larger one, beside or above each other:
    so do those that a smooth resize makes."""
    total = torch.zeros_like(mask, dtype=torch.bool)
    for turned in (mask, mask.T):
        low, here, high = turned[:, :-2], turned[:, 1:-1], turned[:, 2:]
        found = (here == label) & ((low < here) & (here < high) | (low > here) & (here > high))
        (total if turned is mask else total.T)[:, 1:-1] |= found
    return int(total.sum())


def pairs(samples: Sequence[Sample], data_sets: dict[str, Any]) -> Iterator[tuple[Sample, Sample, bool]]:
    """Yield (one, other, whether they are the same byte for byte) of all samples that show the same, the first of
    several with each of the others; of those that are only alike, each with the one before it that is most alike.

    data_sets: {part: data set}, whose pictures confirm what the coarse hashes say.
    """
    first: dict[bytes, Sample] = {}
    again = set()
    for number, sample in enumerate(samples):
        if sample.exact in first:
            again.add(number)
            yield first[sample.exact], sample, True
        first.setdefault(sample.exact, sample)
    rows = [number for number, sample in enumerate(samples) if sample.coarse is not None and number not in again]
    table = torch.stack([samples[number].coarse for number in rows]) if rows else torch.zeros(0, SIDE**2)  # type: ignore[misc]
    for start in range(0, len(rows), ROWS):
        agree = (table[start : start + ROWS] @ table.T + SIDE**2) / 2  # bits
        most, best = agree.tril(start - 1).max(dim=1)  # of those before it
        for row in (most >= LIKE).nonzero().flatten().tolist():
            one, other = samples[rows[int(best[row])]], samples[rows[start + row]]
            if close(*(thumbnail(data_sets[each.part], each.number) for each in (one, other))):
                yield one, other, False


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two thumbnails differ as little as two versions of one picture; of a pale picture, even less."""
    return bool((one - other).abs().mean() < min(CLOSE, PALE * one.std().item()))
