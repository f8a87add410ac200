"""Folds: every sample validates once, its class gets its share everywhere, and what is alike stays together."""

from collections import Counter

import pytest
from drawn import draw_shapes, forest_of_42, paint, trees, write_list

from data import ImageFolder, ListFile, MaskFolder
from data.pictures.folds import fold_numbers
from utils import UserError


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return forest_of_42(tmp_path_factory.mktemp("forest"))


def parts(made, root, folds, names=lambda data: {str(path) for path in data.paths}, **options):
    """[(names of train, names of val)] of every fold."""
    options = {"image_size": 32, "folds": folds, **options}
    return [tuple(names(made(root, mode, fold=fold, **options)) for mode in ("train", "val")) for fold in range(folds)]


def test_every_picture_validates_once_and_each_class_everywhere(forest):
    found = parts(ImageFolder, forest, 3)
    assert all(len(train | val) == 42 and not train & val for train, val in found)
    validated = Counter(path for _, val in found for path in val)
    assert len(validated) == 42 and set(validated.values()) == {1}
    for _, val in found:
        counts = Counter(path.split("/")[-2] for path in val)
        assert counts == {"oak": 10, "ash": 3, "fir": 1}
    assert len(ImageFolder(forest, "val", folds=3, fold=0, val_size=5, image_size=32)) == 5
    assert len(ImageFolder(forest, "val", folds=3, fold=0, val_data_root=[forest], image_size=32)) == 42


def test_all_folds_read_one_pack(forest, tmp_path):
    parts(ImageFolder, forest, 3, pack=True, pack_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*_train_*.u8"))) == len(list(tmp_path.glob("*_val_*.u8"))) == 1
    one = ImageFolder(forest, "val", folds=3, fold=1, image_size=32, pack=True, pack_dir=str(tmp_path))
    for index in (0, len(one) - 1):
        direct = ImageFolder(forest, "val", folds=3, fold=1, image_size=32)
        assert one.paths[index] == direct.paths[index] and (one[index][0] == direct[index][0]).all()


def test_groups_of_several_sizes_and_classes_stay_together_and_folds_equal():
    groups = [f"patient {number}" for number in range(40) for _ in range(1 + number % 4)]
    labels = [int(name[8:]) % 3 == 0 or number % 5 == 0 for number, name in enumerate(groups)]  # some have both
    found = fold_numbers(labels, groups, 5)
    places = {}
    for fold, group in zip(found, groups, strict=True):
        assert places.setdefault(group, fold) == fold
    sizes = Counter(zip(labels, found, strict=True))
    for label in (False, True):
        some = [sizes[label, fold] for fold in range(5)]
        assert max(some) - min(some) <= 3, some
    more = fold_numbers(
        [0] * 30 + [1] * 9 + [1] * 4, [f"cat {n}" for n in range(30)] + [f"dog {n}" for n in range(13)], 5
    )
    assert (
        more[:30]
        == fold_numbers([0] * 30 + [1] * 9, [f"cat {n}" for n in range(30)] + [f"dog {n}" for n in range(9)], 5)[:30]
    )
    order = [*reversed(range(len(groups)))]  # the order in which they are found changes nothing
    again = fold_numbers([labels[number] for number in order], [groups[number] for number in order], 5)
    assert [again[order.index(number)] for number in range(len(groups))] == found


def test_near_duplicates_stay_together_by_a_pattern_of_names(tmp_path):
    trees(tmp_path, oak=9, fir=9)
    for path in tmp_path.glob("*/*.png"):  # three shots of each of three trees
        path.rename(path.with_name(f"tree{int(path.stem) // 3}_shot{int(path.stem) % 3}.png"))
    for group in (r"\w+/tree\d+_", r"(\w+)/(tree\d+)_"):
        found = parts(ImageFolder, tmp_path, 3, group=group)
        for train, val in found:
            assert len(val) == 6 and not {path.split("_shot")[0] for path in train} & {p.split("_shot")[0] for p in val}
    mixed = parts(ImageFolder, tmp_path, 3)
    assert any({p.split("_shot")[0] for p in train} & {p.split("_shot")[0] for p in val} for train, val in mixed)


@pytest.mark.parametrize("by", ["patient", "3"])
def test_near_duplicates_stay_together_by_a_column(by, tmp_path):
    rows = [f"{kind}/{n}.png;{kind};{kind} {n % 3}" for kind in ("oak", "ash") for n in range(6)]
    path = write_list(trees(tmp_path, oak=6, ash=6), ["id;label;patient", *rows], "train.csv")
    options = {"columns": ["id", "label"], "group": by}
    patient = {str(tmp_path / row.split(";")[0]): row.split(";")[2] for row in rows}
    for train, val in parts(ListFile, path, 3, **options):
        assert len(val) == 4 and not {patient[one] for one in train} & {patient[one] for one in val}
    write_list(tmp_path, ["id;label;patient", *rows, "oak/0.png;oak;"], "train.csv")
    with pytest.raises(UserError, match=f"--group={by}: the line of oak/0.png has nothing in this column"):
        ListFile(path, "train", folds=3, fold=0, image_size=32, **options)


def test_masks_are_divided_and_packed_together_too(tmp_path):
    shapes = draw_shapes(tmp_path / "set", 7, ["ground", "disc", "bar"])
    options = {"pack": True, "pack_dir": str(tmp_path / "packs")}
    found = parts(MaskFolder, shapes, 3, lambda data: {sample.name for sample in data.samples}, **options)
    assert sorted(name for _, val in found for name in val) == [f"{number}.jpg" for number in range(7)]
    assert all(len(train | val) == 7 and not train & val for train, val in found)
    assert len(list((tmp_path / "packs").glob("*.u8"))) == 2
    one = MaskFolder(shapes, "val", image_size=32, folds=3, fold=1, **options)
    whole = MaskFolder(shapes, "val", image_size=32, val_data_root=[shapes])
    names = [sample.name for sample in whole.samples]
    assert all((one[i][1] == whole[names.index(sample.name)][1]).all() for i, sample in enumerate(one.samples))
    with pytest.raises(
        UserError, match="there are 7 pictures with a mask: --folds=8 needs 8 or more: take fewer folds"
    ):
        MaskFolder(shapes, "val", image_size=32, folds=8, fold=1)


def test_folds_of_unequal_size_are_named(tmp_path, capsys):
    for kind in ("oak", "ash"):
        for number, group in enumerate([0] * 5 + [1, 2]):
            paint(tmp_path / kind / f"g{group}_{number}.png", kind, number)
    assert len(ImageFolder(tmp_path, "val", image_size=32, folds=3, fold=0, group=r"g\d")) == 10
    said = "note: the folds have 10, 2, 2 samples: the largest group by --group=g\\d has 10; make smaller groups, or "
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 4}, "there are 3 pictures of fir: --folds=4 needs 4 or more of every class: take fewer folds"),
        (
            {"folds": 2, "group": r"^\w+"},
            "there are 9 pictures of ash in 1 group by --group=^\\w+: --folds=2 needs 2 or more of every class: make "
            "smaller groups",
        ),
        (
            {"folds": 2, "group": "patient"},
            "--group=patient is no column of the data, and as a pattern it finds nothing in 42 of",
        ),
        ({"folds": 2, "group": "(oak)|(ash)"}, "finds nothing in 3 of 42 names, the first is fir/"),
        ({"folds": 2, "group": r"\d*$"}, "finds nothing in 42 of 42 names"),
        ({"folds": 2, "group": "("}, "--group=( is no column of the data and no pattern: missing ), unterminated"),
        ({"folds": 2, "fold": "all"}, "in a program call train(fold=0), train(fold=1), ..."),
    ],
)
def test_what_cannot_be_divided_is_one_line(options, message, forest):
    with pytest.raises(UserError) as error:
        ImageFolder(forest, "train", image_size=32, **{"fold": 0, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
