"""The marks of options that several commands read, see marks.py."""

from .marks import by

TESTED = by("train", "test", "pack", "doctor")
RESUME = by("train", hint="--run=NAME takes the best model of that run")
ALL, USE = by("train", "val", "test", "pack", "doctor"), by("train", "val", "test", "doctor")
LABELLED = by("train", "val", "pack", "doctor")
RUNS, CONTROL, STEERED = by("runs"), by("control"), by("train", "control", "doctor")
NAMED = by("val", "test", "replay", "control", "doctor")
PACKS = by("train", "val", "test", "pack", "runs", "doctor")
FOLDER = by("train", "val", "test", "runs", "replay", "control", "doctor")
