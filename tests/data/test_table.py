"""Lists of pictures as people have them: tables, ids, paths of other systems."""

import os

import pytest
from drawn import fill, paint, write_list

from data import ListFile
from utils import UserError

PICTURES = ["train/001.png", "train/002.png", "train/003.png", "train/004.png"]


def found(root, **options):
    """{name of the picture's file: its class} of a list, of train and val."""
    both = [ListFile(root, mode, image_size=32, **options) for mode in ("train", "val")]
    assert not both[0].broken + both[1].broken
    return {
        path.relative_to(root.parent).as_posix(): data.classes[target]
        for data in both
        for path, target in zip(data.paths, data.targets, strict=True)
    }


CLASSES = dict(zip(PICTURES, ["cat", "dog", "cat", "dog"], strict=True))
ROWS = [("001", "cat"), ("002", "dog"), ("003", "cat"), ("004", "dog")]


@pytest.mark.parametrize("mark", [",", ";", "\t", ", "])
@pytest.mark.parametrize("head", [["id,label"], ["image name,the class"], []])
@pytest.mark.parametrize("form", ["{id}{m}{label}", "{id}.png{m}{label}", "train/{id}.png{m}{label}", "{label}{m}{id}"])
def test_a_table_of_names_and_labels_is_read_with_and_without_a_header(tmp_path, capsys, mark, head, form):
    fill(tmp_path, *PICTURES)
    lines = [line.replace(",", mark) for line in head] + [form.format(id=id, label=label, m=mark) for id, label in ROWS]
    path = tmp_path / "train.csv"
    path.write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], ""]).encode())
    assert found(path) == CLASSES
    assert ("train.csv:1 is the header, " in capsys.readouterr().out) == bool(head)


@pytest.mark.parametrize(
    ("head", "row", "options"),
    [
        ('"id","label"', '"{id}","{label}"', {}),
        (",id,label", "7,{id},{label}", {}),  # the numbers of the rows, as pandas writes them
        ("id,label,", "{id},{label},", {}),
        ("id,age,label", "{id},7,{label}", {"columns": ["id", "label"]}),
        ("id,age,label", "{id},7,{label}", {"columns": ["1", "3"]}),
        ("age,id,label", "7,{id},{label}", {"columns": ["id", "label"]}),
    ],
)
def test_quotes_and_columns_that_are_neither_names_nor_labels(tmp_path, head, row, options):
    fill(tmp_path, *PICTURES)
    path = write_list(tmp_path, [head, *(row.format(id=id, label=label) for id, label in ROWS)], "train.csv")
    assert found(path, **options) == CLASSES


def test_numbers_of_columns_are_not_looked_for_in_the_first_line(tmp_path):
    fill(tmp_path, *PICTURES)
    path = write_list(tmp_path, [f"2,{id},{label}" for id, label in ROWS], "train.csv")
    assert found(path, columns=["2", "3"]) == CLASSES


def test_quoted_cells_may_hold_spaces_and_the_mark(tmp_path):
    fill(tmp_path, "in a/1, 2.png", "in a/3.png", "in a/4.png", "in a/5.png")
    lines = [f'"in a/{name}.png","big, {label}"' for name, label in (("1, 2", "x"), ("3", "x"), ("4", "y"), ("5", "y"))]
    assert set(found(write_list(tmp_path, lines)).values()) == {"big, x", "big, y"}


def test_labels_that_are_names_of_pictures_too_are_told_from_them(tmp_path):
    """Kaggle's numbers: 1.png to 4.png, labels 1 and 2."""
    fill(tmp_path, *(f"train/{number}.png" for number in range(5)))
    path = write_list(tmp_path, ["id,label", "1,0", "2,1", "3,0", "4,1"], "train.csv")
    assert found(path) == {f"train/{number}.png": str((number + 1) % 2) for number in range(1, 5)}
    write_list(tmp_path, ["id,label", "1,0", "2,1"], "train.csv")
    with pytest.raises(UserError, match="the columns are id, label; which has the pictures is not clear: give --col"):
        ListFile(path, "train")
    assert len(ListFile(path, "val", val_data_root=[path], columns=["id", "label"], image_size=32)) == 2


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            ["id,age,label", "001,7,cat"],
            {},
            "train.csv: the columns are id, age, label; id has the pictures: give --col",
        ),
        (["id,label", "901,cat", "902,dog"], {}, "none of the columns id, label names pictures: there is no file 901"),
        (
            ["id,label", "001,cat"],
            {"columns": ["id", "breed"]},
            "--columns=id,breed has to name .* are id, label, or 1",
        ),
        (["id,label", "001,cat"], {"columns": ["id"]}, "--columns=id has to name the pictures and the labels"),
        (["id,label", "001,cat"], {"columns": ["1", "3"]}, "--columns=1,3 has to name .*: the columns are id, label"),
        (
            ["id,label", "001,cat", "002,dog"],
            {"columns": ["label", "id"]},
            "the column label names no pictures: there is no file dog, .* the pictures come first",
        ),
        (["train/001.png cat"], {"columns": ["1", "2"]}, "--columns needs a table"),
        (
            ["id,label", "001,a cat", "002,a cat, black"],
            {},
            "csv:3: 2 commas divide this line, 1 line 1: put cells",
        ),
        (
            ["a b,c", "001,my cat", "002,my dog"],
            {},
            r"csv:2: `001,my cat` may be the path `001,my` and the label `cat`",
        ),
        (["a b,c", "001,my cat", "002,my dog"], {}, r"give --columns=a b,c; a tab divides safely"),
        (["001,my cat", "002,my dog"], {}, r"csv:1: .* or divided by commas: for these give --columns=1,2; a tab"),
    ],
)
def test_what_can_be_read_in_two_ways_is_one_line_that_says_what_decides(tmp_path, lines, options, message):
    fill(tmp_path, *PICTURES)
    with pytest.raises(UserError, match=message) as error:
        ListFile(write_list(tmp_path, lines, "train.csv"), "train", image_size=32, **options)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_pictures_of_two_folders_or_two_suffixes_are_not_chosen_from(tmp_path):
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    path = write_list(tmp_path, ["1,x", "2,y"], "labels.csv")
    with pytest.raises(
        UserError, match="labels.csv: its pictures may be those in .*/a or in .*/b: move it into one of"
    ):
        ListFile(path, "train")
    paint(tmp_path / "a" / "1.jpg")
    with pytest.raises(UserError, match="a/labels.csv: 1 may be .*/a/1.jpg or .*/a/1.png: write it with its suffix"):
        ListFile(path.rename(tmp_path / "a" / "labels.csv"), "train")


def test_tabs_divide_where_paths_and_labels_hold_spaces(tmp_path):
    fill(tmp_path, "my in/foot 1.png", "my in/foot 2.png", "my in/foot 3.png", "my in/foot 4.png")
    lines = [f"my in/foot {number}.png\tGrade {number % 2}\r" for number in range(1, 5)]
    assert found(write_list(tmp_path, lines)) == {f"my in/foot {n}.png": f"Grade {n % 2}" for n in range(1, 5)}


def test_back_slashes_and_paths_with_commas(tmp_path):
    fill(tmp_path, "in/a, b.png", "in/a, c.png", "in/a, d.png", "in/a, e.png")
    lines = [f"in/a, {name}.png {label}" for name, label in zip("bcde", "xxyy", strict=True)]
    right = found(write_list(tmp_path, lines))
    assert set(right) == {f"in/a, {name}.png" for name in "bcde"} and set(right.values()) == {"x", "y"}
    fill(tmp_path, *(f"on/{name}.png" for name in "bcde"))
    for text in ("on\\{} {}", "on\\{}\t{}", "on\\{};{}", ".\\on\\{}.png,{}"):
        lines = [text.format(name, label) for name, label in zip("bcde", "xxyy", strict=True)]
        assert set(found(write_list(tmp_path, lines))) == {f"on/{name}.png" for name in "bcde"}


def test_in_test_mode_the_ids_are_as_written_and_a_header_is_none(tmp_path):
    fill(tmp_path, *(f"test/{name}.png" for name in ("a1", "a2", "a10")))
    for lines in (
        ["id", "a2", "a10", "a1"],
        ["id,label", "a2,0.5", "a10,0.5", "a1,0.5"],
        ["a,b,c"] + ["a2,0,1", "a10,1,0", "a1,1,1"],
    ):
        data = ListFile(write_list(tmp_path, lines, "test.csv"), "test", image_size=32, columns=[])
        assert data.ids == data.targets == ["a2", "a10", "a1"]
        assert [path.name for path in data.paths] == ["a2.png", "a10.png", "a1.png"]
    data = ListFile(tmp_path / "test.csv", "test", image_size=32, columns=["a", "c"])  # those of the training
    assert data.ids == ["a2", "a10", "a1"]


def test_lists_in_utf_16_and_in_the_bytes_of_the_files_names(tmp_path):
    name = os.fsdecode("菊花".encode("gbk"))
    fill(tmp_path, *(f"{name}{number}.png" for number in range(4)))
    lines = [f"{name}{number}.png {'ab'[number % 2]}{name}" for number in range(4)]
    (tmp_path / "gbk.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert set(found(tmp_path / "gbk.txt").values()) == {f"a{name}", f"b{name}"}
    fill(tmp_path, *(f"ü{number}.png" for number in range(4)))
    (tmp_path / "wide.txt").write_text("\r\n".join(f"ü{n}.png\tklasse {n % 2}" for n in range(4)), encoding="utf-16")
    assert set(found(tmp_path / "wide.txt").values()) == {"klasse 0", "klasse 1"}
