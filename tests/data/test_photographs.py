"""The real Dogs vs. Cats photographs, where they are (../shared/data/dogcat); they are not part of the repository."""

import csv
from pathlib import Path

import pytest
from conftest import NO_SERVER, ROOT, main

from data import DogCat

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "dogcat"
pytestmark = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs in {PHOTOGRAPHS}")


def test_every_photograph_is_read_and_split(tmp_path):
    train, val = DogCat(PHOTOGRAPHS / "train", "train"), DogCat(PHOTOGRAPHS / "train", "val")
    assert (len(train), len(val)) == (1402, 600) and not train.broken and not val.broken
    assert sum(train.targets) == 701 and sum(val.targets) == 300
    assert train[0][0].shape == (3, 256, 256) and val[0][0].shape == (3, 224, 224)


@pytest.mark.slow
def test_train_and_test_on_the_photographs(tmp_path):
    small = ["--image-size=32", "--max-epoch=1", "--batch-size=64", "--precision=fp32", NO_SERVER]
    main("train", f"--train-data-root={PHOTOGRAPHS / 'train'}", *small, cwd=tmp_path, check=0)
    main("test", f"--test-data-root={PHOTOGRAPHS / 'test1'}", cwd=tmp_path, check=0)
    with open(Path(tmp_path, "result.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, 401))
    assert all(0 < float(row["label"]) < 1 for row in rows) and len({row["label"] for row in rows}) > 300
