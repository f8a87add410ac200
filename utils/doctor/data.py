"""What is wrong with the data: pictures that are unreadable, alike, tiny or empty, and labels that cannot be right."""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from utils import UserError
from utils.notices import counted
from utils.options.kinds import height_width
from utils.train.device import eval_mode, to_device

from .case import Case
from .content import Sample, look_at, pairs
from .finding import LOOK, OK, WRONG, Finding, judged

MOST = 2000  # samples of a part that are looked at
UNEQUAL = 10  # times as many samples of one class as of another
TINY = 8  # pixels that a side has at least
SOFT = 0.5  # share of a class's pixels that lie between two others
CERTAIN, ACCURATE = 0.999, 0.9  # confidence of a mistake, and accuracy of the model that makes it


def check(case: Case, refuse: Callable[..., None]) -> Iterator[Finding]:
    """Yield the Findings on both parts of the data. refuse: raises UserError for data that main.py does not take."""
    parts = {"train": case.train_data, "val": case.val_data}
    yield read(parts, refuse)
    samples = [look_at(data, part, index) for part, data in parts.items() for index in chosen(len(data), case.opt.seed)]
    looked = {part: sum(one.part == part for one in samples) for part in parts}
    all_of = all(looked[part] == len(data) for part, data in parts.items())
    found = ", ".join(f"{looked[part]:,} of {len(data):,} {part} samples" for part, data in parts.items())
    yield Finding("looked at", OK, found + ("" if all_of else f", drawn with --seed={case.opt.seed}"))
    labels = {part: label_counts(data, [one for one in samples if one.part == part]) for part, data in parts.items()}
    yield balance(labels["train"], samples)
    yield occurring(labels, list(case.train_data.classes), case.train_data.task == "detection")
    advice = "remove or replace them"
    yield judged("constant pictures", [one for one in samples if one.constant], "none", "one color:", advice, LOOK)
    yield tiny(samples, max(height_width(case.opt.image_size)))
    yield from alike(samples, parts)
    yield soft(samples)
    if case.start:
        yield swapped(case, samples)


def chosen(count: int, seed: int) -> list[int]:
    """The numbers of at most MOST of `count` samples, in order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:MOST].tolist())


def read(parts: dict[str, Any], refuse: Callable[..., None]) -> Finding:
    """Samples that cannot be read."""
    broken = [one for data in parts.values() for one in data.broken]
    try:
        refuse(*parts.values())
    except UserError as error:
        return Finding("readable", WRONG, str(error))
    return judged("readable", broken, "all samples", f"{counted(len(broken), 'sample')} left out:", "repair them", LOOK)


def label_counts(data: Any, samples: Sequence[Sample]) -> Counter[int]:
    """How often each label occurs: in all samples where they are listed, else in those that were looked at."""
    listed = getattr(data, "targets", None)
    if isinstance(listed, list) and all(isinstance(one, int) for one in listed):
        return Counter(listed)
    total: Counter[int] = Counter()
    for sample in samples:
        total.update(sample.counts)
    return total


def balance(labels: Counter[int], samples: Sequence[Sample]) -> Finding:
    """How unequal the classes of samples with one class each are."""
    if not labels or any(one.label is None for one in samples):
        return Finding("class balance", OK, "a sample has several classes")
    (most, many), (least, few) = labels.most_common()[0], labels.most_common()[-1]
    found = f"{many:,} of class {most}, {few:,} of class {least}"
    if many > UNEQUAL * few:
        return Finding("class balance", LOOK, found, "--resample=mean or --class-weights, if rare ones matter")
    return Finding("class balance", OK, found)


def occurring(labels: dict[str, Counter[int]], classes: Sequence[str], background: bool) -> Finding:
    """Classes that no sample has; background: whether the first class is none."""
    named = {label: name for label, name in enumerate(classes) if label >= background and name != "unused"}
    missing = {part: [name for label, name in named.items() if not has[label]] for part, has in labels.items()}
    shown = [*missing["train"], *(f"{name} (in val)" for name in missing["val"] if name not in missing["train"])]
    advice = "nothing is learned or measured of them: are labels and class names those that were meant?"
    return judged("classes", shown, f"all {len(named)} occur in train and val", "never seen:", advice, LOOK)


def tiny(samples: Sequence[Sample], wanted: int) -> Finding:
    """Pictures that are far smaller than the others and than the `wanted` pixels that the model gets."""
    sides = [one.side for one in samples if one.side]
    usual = statistics.median(sides) if sides else 0
    small = [f"{one} ({one.side} pixels)" for one in samples if 0 < one.side < max(TINY, min(usual / 4, wanted / 2))]
    sound = f"the longer side has {min(sides)} to {max(sides)} pixels" if sides else "no pictures"
    found = f"far below the usual {usual:.0f} pixels:"
    return judged("tiny pictures", small, sound, found, "thumbnails? Get the originals", LOOK)


def alike(samples: Sequence[Sample], parts: dict[str, Any]) -> Iterator[Finding]:
    """Yield what pictures that occur several times mean: in train and val, twice in one of them, with other labels. In
    the lines = is the same file, ~ the same picture in another size or encoding."""
    found = list(pairs([sample for sample in samples if not sample.constant], parts))
    shown = [(f"{one} {'=' if exact else '~'} {other}", one, other, exact) for one, other, exact in found]
    both = {words: exact for words, one, other, exact in shown if one.part != other.part}
    name, advice = "train and val", "validation measures what was learned by heart: leave them in one part"
    found_both = f"{counted(len(both), 'sample')} in both parts, {sum(both.values())} of them the same file:"
    first = sorted(both, key=lambda words: not both[words])
    yield judged(name, first, "no sample is in both", found_both, advice, WRONG if any(both.values()) else LOOK)
    twice = [words for words, one, other, _ in shown if one.part == other.part and one.label == other.label]
    yield judged("duplicates", twice, "none within a part", "twice in a part:", "keep one of each", LOOK)
    odd = [words for words, one, other, _ in shown if one.label != other.label]
    advice = "one label of each is wrong"
    yield judged("labels of the same", odd, "no picture has two labels", "the same with two labels:", advice)


def soft(samples: Sequence[Sample]) -> Finding:
    """Classes of masks that only occur between two others, as a smooth resize or JPEG makes them."""
    shares: dict[int, list[float]] = {}
    for label, share in itertools.chain.from_iterable(one.between.items() for one in samples):
        shares.setdefault(label, []).append(share)
    odd = [f"class {label}" for label, each in sorted(shares.items()) if statistics.mean(each) > SOFT]
    advice = "were masks resized smoothly? Resize them to the nearest pixel"
    sound = "no class occurs only between others" if shares else "no masks"
    return judged("values of masks", odd, sound, "mostly on edges, between two other classes:", advice, LOOK)


@torch.no_grad()
def swapped(case: Case, samples: Sequence[Sample]) -> Finding:
    """Labels that a good model contradicts with certainty."""
    name, parts = "labels", {"train": case.train_data, "val": case.val_data}
    wrong, right, total = [], 0, 0
    labelled = [one for one in samples if one.label is not None]
    with case.copy() as model, eval_mode(model), model.autocast():
        for start in range(0, len(labelled), case.opt.batch_size):
            for part, data in parts.items():
                some = [one for one in labelled[start : start + case.opt.batch_size] if one.part == part]
                if not some:
                    continue
                batch = data.collate([data[one.number] for one in some])
                input, _ = case.val_data.prepare(*to_device(batch, case.device), generator=None)
                shares = model.predict(input).float()
                shares = torch.cat([1 - shares, shares], dim=1) if shares.shape[1] == 1 else shares  # of two classes
                confidence, found = (one.tolist() for one in shares.max(dim=1))
                right += sum(label == one.label for label, one in zip(found, some, strict=True))
                total += len(some)
                rows = zip(confidence, found, some, strict=True)
                wrong += [(sure, label, one) for sure, label, one in rows if sure >= CERTAIN and label != one.label]
    if right < ACCURATE * total or not total:
        why = f"the model is right about {right:,} of {total:,}, too few" if total else "a sample has several classes"
        return Finding(name, OK, f"not looked at: {why}")
    classes, few = case.train_data.classes, len(wrong) <= (1 - CERTAIN) * total  # as many mistakes as it admits
    shown = [f"{one} ({classes[one.label]}, not {classes[label]}?)" for _, label, one in sorted(wrong, reverse=True)]  # type: ignore[index]
    sound = f"the model is right about {right:,} of {total:,}, and contradicts {len(wrong)} with certainty"
    return judged(name, [] if few else shown, sound, "contradicted by the model:", "look at them", LOOK)
