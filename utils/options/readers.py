"""The marks of options that several commands read, see marks.py."""

from .marks import by

TESTED = by("train", "test", "pack")
RESUME = by("train", hint="--run=NAME takes the best model of that run")
ALL, USE, LABELLED = by("train", "val", "test", "pack"), by("train", "val", "test"), by("train", "val", "pack")
RUNS, CONTROL, STEERED = by("runs"), by("control"), by("train", "control")
NAMED, PACKS = by("val", "test", "replay", "control"), by("train", "val", "test", "pack", "runs")
FOLDER = by("train", "val", "test", "runs", "replay", "control")
