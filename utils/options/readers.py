"""The marks of options that several commands read, see marks.py."""

from .marks import by

TESTED = by("train", "test", "pack", "doctor")
RESUME = by("train", hint="--run=NAME takes the best model of that run")
ALL, USE = by("train", "val", "test", "pack", "doctor", "export"), by("train", "val", "test", "doctor", "export")
NET = by("train", "val", "test", "doctor", "export", "predict")  # all that need the model, but not samples
SEEN = by("train", "val", "test", "pack", "doctor", "export", "predict")
LABELLED = by("train", "val", "pack", "doctor", "export")
CONTROL, STEERED = by("control"), by("train", "control", "doctor")
NAMED = by("val", "test", "replay", "control", "doctor", "export", "predict")
PACKS = by("train", "val", "test", "pack", "runs", "doctor", "export")
FOLDER = by("train", "val", "test", "runs", "replay", "control", "doctor", "export", "predict")
