"""Which pictures are for training and which for validation."""

import shutil
from collections import Counter

import pytest
from conftest import draw
from drawn import forest_of_42, paint, trees

from data import DogCat, ImageFolder


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return forest_of_42(tmp_path_factory.mktemp("forest"))


def test_the_share_follows_from_names_and_keeps_70_to_30_in_each_class(forest, tmp_path):
    train, val = ImageFolder(forest, "train", image_size=32), ImageFolder(forest, "val", image_size=32)
    assert Counter(train.targets) == {0: 6, 1: 2, 2: 21} and Counter(val.targets) == {0: 3, 1: 1, 2: 9}
    assert not set(train.paths) & set(val.paths)
    last = sorted(path.name for path in (forest / "oak").iterdir())[-9:]
    kept = sorted(path.name for path in val.paths if path.parent.name == "oak")
    assert kept != last  # in the order of a hash, not of the names
    shutil.copytree(forest, tmp_path / "moved")
    paint(tmp_path / "moved" / "yew" / "1.png"), paint(tmp_path / "moved" / "yew" / "2.png")
    moved = ImageFolder(tmp_path / "moved", "val", image_size=32)
    names = [path.relative_to(tmp_path / "moved") for path in moved.paths if path.parent.name != "yew"]
    assert names == [path.relative_to(forest) for path in val.paths]


def test_val_data_root_is_read_whole_and_leaves_train_whole(forest, tmp_path):
    other = trees(tmp_path / "val", fir=1, oak=2)
    options = {"val_data_root": [str(other)], "image_size": 32}
    train, val = ImageFolder([str(forest)], "train", **options), ImageFolder([str(forest)], "val", **options)
    assert len(train) == 42 and sorted(val.targets) == [1, 2, 2] and val.classes == train.classes
    for number in range(3):
        draw(tmp_path / f"cat.{number}.jpg", "cat", number), draw(tmp_path / f"dog.{number}.jpg", "dog", number)
    assert len(DogCat(tmp_path, "train", val_data_root=[tmp_path])) == 6
    assert len(DogCat(tmp_path, "val", val_data_root=[tmp_path])) == 6


@pytest.mark.parametrize(("size", "expected"), [(7, [2, 1, 4]), (3, [1, 1, 1]), (1000, [3, 1, 9])])
def test_val_size_is_spread_over_the_classes(forest, size, expected):
    whole, some = (ImageFolder(forest, "val", val_size=limit, image_size=32) for limit in (None, size))
    assert [some.targets.count(label) for label in range(3)] == expected
    assert set(some.paths) <= set(whole.paths)
    assert len(ImageFolder(forest, "train", val_size=size, image_size=32)) == 29  # what val leaves is nobody's
