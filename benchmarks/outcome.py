"""What a training run leaves behind, read and compared bit for bit."""

import csv
import json

import torch


class Failed(Exception):
    """A training that did not do what its comparison needs."""


def run_folder(folder):
    """The folder of the only run in `folder`."""
    found = list((folder / "runs").iterdir())
    if len(found) != 1:
        raise Failed(f"{len(found)} runs in {folder / 'runs'}, not one")
    return found[0]


def steps(folder):
    """The number of steps that the run in `folder` has recorded."""
    files = folder.glob("runs/*/events.jsonl")
    return sum(line.count('"name": "loss"') for file in files for line in file.read_text().splitlines())


def read_results(run):
    """The rows of results.csv."""
    with open(run / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def outcome(folder, options):
    """All that a run leaves and that has to be equal, in the order of time: {name: number, text or tensor}."""
    run = run_folder(folder)
    missing = [name for name in ("events.jsonl", "results.csv", "best.pth", "last.pth") if not (run / name).is_file()]
    if missing:
        raise Failed(f"{run} has no {', '.join(missing)}")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    # A later point replaces an earlier one: a resumed run may record a step again.
    points = {f"point {e['name']} at {e['x']}": e["y"] for e in events if e["kind"] == "plot"}
    rows = flatten(read_results(run), "results.csv row")
    rows = {name: text for name, text in rows.items() if name.split()[-1] not in ("seconds", "train_seconds")}
    best, last = (torch.load(run / name, map_location="cpu", weights_only=True) for name in ("best.pth", "last.pth"))
    # They are found by what they hold, because refactorings move and rename them.
    optimizer, average = find(last, {"state", "param_groups"}), find(last, {"steps", "weights"})
    parts = [points, rows, flatten(best["weights"], "best.pth weights"), flatten(last["weights"], "last.pth weights")]
    averages = int(any(option.startswith("--ema") for option in options))
    if not all(parts) or len(optimizer) != 1 or len(average) != averages:
        raise Failed(
            f"{run} has {', '.join(str(len(part)) for part in parts)} points, results, best and last weights, and in "
            f"last.pth {len(optimizer)} optimizers (not 1) and {len(average)} averages (not {averages})"
        )
    parts += [flatten(optimizer, "last.pth optimizer"), flatten(average, "last.pth average")]
    return {name: value for part in parts for name, value in part.items()}


def find(content, keys):
    """All dicts in nested dicts that have these keys."""
    if not isinstance(content, dict):
        return []
    return [content] if keys <= content.keys() else [hit for part in content.values() for hit in find(part, keys)]


def flatten(content, name):
    """{name: leaf} of nested dicts and lists."""
    if not isinstance(content, (dict, list, tuple)):
        return {name: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {key: leaf for part, value in items for key, leaf in flatten(value, f"{name} {part}").items()}


def same(one, other):
    """Whether two leaves are equal to the last bit, in the same type and shape; nan equals nan."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)
    return type(one) is type(other) and repr(one) == repr(other)


def first_difference(old, new):
    """One line on the first thing that differs, or None."""
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            return f"{name}: only the {'old' if name in old else 'new'} tree has it"
        if not same(old[name], new[name]):
            return f"{name}: {change(old[name], new[name])}"
    return None


def change(one, other):
    """How two leaves differ, in words."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if (one.dtype, one.shape) == (other.dtype, other.shape):
            return f"its values differ by up to {(one.double() - other.double()).abs().max():.3g}"
        one, other = ((value.dtype, tuple(value.shape)) for value in (one, other))
    return f"{one!r} became {other!r}"
