"""What a run left behind: its table, its events, its state, and whether two states are the same bits."""

import csv
import json

import torch
from wait import until

from utils.run.checkpoint_file import read_checkpoint


def rows(run):
    """The lines of results.csv, a dict of texts each."""
    with open(run / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def measures(folder):
    """measures.csv as {name: number}."""
    with open(folder / "measures.csv", newline="") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def events(run):
    """The lines of events.jsonl."""
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def only_run(folder):
    """The one run in folder/checkpoints."""
    (run,) = (folder / "checkpoints").iterdir()
    return run


def differences(one, other):
    """Names of the entries in which two nested states differ, bit by bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else ["tensor"]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [f"{key}.{name}" for key in one for name in differences(one[key], other[key])]
    if isinstance(one, (list, tuple)):
        return [f"{i}.{name}" for i, (a, b) in enumerate(zip(one, other, strict=True)) for name in differences(a, b)]
    return [] if one == other or one != one else [f"{one} != {other}"]


def state(run):
    """What last.pth holds that has to be the same after a run that was stopped and resumed."""
    content = read_checkpoint(run / "last.pth")
    return {name: content[name] for name in ("weights", "optimizer", "schedule", "run", "meters")}


def begun(folder):
    """The run in a folder, as soon as it is at its tenth step."""
    records = until(
        lambda: [path for path in folder.glob("checkpoints/*/events.jsonl") if '"loss"' in path.read_text()]
    )
    return records[0].parent
