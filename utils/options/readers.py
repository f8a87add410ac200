"""The marks of options that several commands read, see marks.py."""

from .marks import by

LOOK = "doctor", "find-lr"  # they take a training's command line as it is
SHIP = "export", "prune"  # they measure a trained model, as val does
TESTED = by("train", "test", "pack", *LOOK)
RESUME = by("train", hint="--run=NAME takes the best model of that run")
ALL, USE = by("train", "val", "test", "pack", *LOOK, *SHIP), by("train", "val", "test", *LOOK, *SHIP)
NET = by("train", "val", "test", *LOOK, *SHIP, "predict")  # all that need the model, but not samples
SEEN = by("train", "val", "test", "pack", *LOOK, *SHIP, "predict")
LABELLED = by("train", "val", "pack", *LOOK, *SHIP)
CONTROL, STEERED = by("control"), by("train", "control", *LOOK, "prune")
NAMED = by("val", "test", "replay", "control", "doctor", *SHIP, "predict", "card")
PACKS = by("train", "val", "test", "pack", "runs", *LOOK, *SHIP)
FOLDER = by("train", "val", "test", "runs", "replay", "control", *LOOK, *SHIP, "predict", "card")
