"""The marks of options that several commands read, see marks.py."""

from .marks import by

SHIP = "export", "prune"  # they measure a trained model, as val does
TESTED = by("train", "test", "pack", "doctor")
RESUME = by("train", hint="--run=NAME takes the best model of that run")
ALL, USE = by("train", "val", "test", "pack", "doctor", *SHIP), by("train", "val", "test", "doctor", *SHIP)
NET = by("train", "val", "test", "doctor", *SHIP, "predict")  # all that need the model, but not samples
SEEN = by("train", "val", "test", "pack", "doctor", *SHIP, "predict")
LABELLED = by("train", "val", "pack", "doctor", *SHIP)
CONTROL, STEERED = by("control"), by("train", "control", "doctor", "prune")
NAMED = by("val", "test", "replay", "control", "doctor", *SHIP, "predict", "card")
PACKS = by("train", "val", "test", "pack", "runs", "doctor", *SHIP)
FOLDER = by("train", "val", "test", "runs", "replay", "control", "doctor", *SHIP, "predict", "card")
