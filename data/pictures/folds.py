"""Folds: labelled samples in several parts: each validates the model that all others train."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from utils import UserError
from utils.notices import counted, note_once

from .split import Sample, digest

UNEQUAL = 1.5  # times its share of the samples that the largest fold may have without a note


def fold_numbers(labels: Sequence[int], groups: Sequence[str], folds: int) -> list[int]:
    """The fold of each sample, 0 to folds - 1, by its label and the name of its group. Groups stay together.

    The largest groups come first, in an order of their names' hashes: each goes into the fold that has least of its
    classes, so that every fold gets its share of each class, and adding cats moves no dog, unless a group has both.
    """
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    totals, found = Counter(labels), [0] * len(labels)
    loads = {label: [0] * folds for label in totals}
    for group in sorted(members, key=lambda one: (-len(members[one]), digest(Sample("", 0, one)), one)):
        own = Counter(labels[number] for number in members[group])
        shares = [0.0] * folds
        for label, count in own.items():
            shares = [
                share + count * load / totals[label] ** 2 for share, load in zip(shares, loads[label], strict=True)
            ]
        least, first = min(shares), min(own)  # classes begin at different folds, or the first gets what is left of all
        fold = next(one for one in (*range(first % folds, folds), *range(first % folds)) if shares[one] == least)
        for label, count in own.items():
            loads[label][fold] += count
        for number in members[group]:
            found[number] = fold
    return found


def part_of_folds(
    samples: Sequence[Any],
    labels: Sequence[int],
    groups: Sequence[str],
    classes: Sequence[str],
    options: Any,
    mode: str,
) -> list[Any]:
    """The samples of train or val mode, in order.

    Args:
        labels, groups: of each sample.
        classes: what a message calls a sample of each label, "picture of fir".
        options: (folds, fold, group) as config.py has them.

    Raises UserError where a class has fewer samples, or groups of them, than there are folds, or lies in one fold.
    """
    folds, fold, group = options
    if fold == "all":
        raise UserError("--fold=all is a loop of the command line: in a program call train(fold=0), train(fold=1), ...")
    found = fold_numbers(labels, groups, folds)
    members: list[list[int]] = [[] for _ in classes]
    for number, label in enumerate(labels):
        members[label].append(number)
    for name, own in zip(classes, members, strict=True):
        kept = {groups[number] for number in own}
        if len(kept) < folds or len({found[number] for number in own}) < 2:
            what = counted(len(own), name, name.replace("picture", "pictures", 1))
            what += f" in {counted(len(kept), 'group')} by --group={group}" if group else ""
            why = f"--folds={folds} needs {folds} or more" + " of every class" * (len(classes) > 1)
            why = why if len(kept) < folds else "as they lie with other classes, all would be in one fold"
            advice = ["take fewer folds"] * (len(kept) > 1) + ["make smaller groups"] * bool(group)
            raise UserError(f"there are {what}: {why}: {' or '.join(advice)}")
    sizes = [found.count(one) for one in range(folds)]
    largest = max(Counter(groups).values())
    if largest > 1 and max(sizes) * folds > UNEQUAL * len(samples):
        note_once(
            f"the folds have {', '.join(map(str, sizes))} samples: the largest group by --group={group} has {largest}; "
            "make smaller groups, or take fewer folds"
        )
    return [sample for sample, one in zip(samples, found, strict=True) if (one == fold) == (mode == "val")]


def grouped(names: Sequence[str], pattern: str | None) -> list[str]:
    """The group of each name: what the pattern finds in it, of a pattern with brackets what is in these; without a
    pattern each name is a group. Raises UserError where it is no pattern, or finds nothing in a name."""
    if pattern is None:
        return [*names]
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(f"--group={pattern} is no column of the data and no pattern: {error}") from None
    matches = [search(name) for name in names]
    found = ["\0".join(match.groups("") or [match[0]]) if match else "" for match in matches]
    without = [name for name, group in zip(names, found, strict=True) if not group.strip("\0")]
    if without:
        raise UserError(
            f"--group={pattern} is no column of the data, and as a pattern it finds nothing in "
            f"{len(without)} of {counted(len(names), 'name')}, the first is {without[0]}: every name needs a group, "
            r"--group='(tree\d+)_shot' say"
        )
    return found
