"""ListFile: pictures named in text files, with their labels."""

import csv
import os

import pytest
import torch
from conftest import draw
from drawn import fill, forest_of_42, paint, write_list

from data import ListFile
from data.broken import refuse_broken
from utils import UserError


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return forest_of_42(tmp_path_factory.mktemp("forest"))


def test_lines_of_path_and_label_with_spaces_comments_and_blank_lines(tmp_path, forest):
    fill(tmp_path, "in/a b.png", "in/c.png", "in/d.png", "in/#e.png")
    lines = ["# path label", "", "in/a b.png 0", f"  {forest}/fir/1.png\t0", "in/c.png   1", "in/d.png 1"]
    train, val = (ListFile(write_list(tmp_path, lines), mode, image_size=32) for mode in ("train", "val"))
    found = {path.name: target for data in (train, val) for path, target in zip(data.paths, data.targets, strict=True)}
    assert train.classes == ["0", "1"] and found == {"a b.png": 0, "1.png": 0, "c.png": 1, "d.png": 1}
    assert train[0][0].shape == (3, 37, 37)


def test_labels_may_be_names_and_class_name_txt_gives_their_order(tmp_path, forest):
    lines = [f"{forest}/{kind}/{number}.png {kind}" for number in range(2) for kind in ("oak", "ash", "fir")]
    path = write_list(tmp_path, lines)
    data = ListFile([str(path)], "train", image_size=32)
    assert data.classes == ["ash", "fir", "oak"] and [p.parent.name for p in data.paths] == data.classes
    fill(tmp_path, class_name="oak\nfir\nash\n")
    assert [p.parent.name for p in ListFile(path, "train", image_size=32).paths] == ["oak", "fir", "ash"]
    numbers = write_list(tmp_path, [line[:-3] + str(["oak", "fir", "ash"].index(line[-3:])) for line in lines], "n.txt")
    data = ListFile(numbers, "val", image_size=32)
    assert data.classes == ["oak", "fir", "ash"] and [p.parent.name for p in data.paths] == data.classes


def test_several_lists_each_seen_from_its_own_folder_and_a_list_for_val(tmp_path):
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    first = write_list(tmp_path / "a", ["1.png 0", "2.png 1"])
    second = write_list(tmp_path / "b", ["1.png 0", "2.png 1"])
    assert {p.parent.name for p in ListFile([first, second], "train", image_size=32).paths} <= {"a", "b"}
    assert sum(len(ListFile([first, second], mode, image_size=32)) for mode in ("train", "val")) == 4
    val = ListFile(first, "val", val_data_root=[second], image_size=32)
    assert [p.relative_to(tmp_path).as_posix() for p in val.paths] == ["b/1.png", "b/2.png"]
    write_list(tmp_path / "b", ["1.png 0", "2.png 2"])
    with pytest.raises(UserError, match="b/list.txt:2: the label 2 is none of the 2 classes of .*a/list.txt"):
        ListFile(first, "val", val_data_root=[second])


def test_missing_files_are_left_out_and_named_up_to_5_percent(tmp_path, forest):
    lines = [f"{forest}/{kind}/{number}.png {kind}" for kind in ("oak", "ash") for number in range(9)]
    data = [ListFile(write_list(tmp_path, [*lines, "gone.png oak"]), mode, image_size=32) for mode in ("train", "val")]
    (broken,) = [line for one in data for line in one.broken]
    assert broken == f"{tmp_path / 'gone.png'} (No such file or directory)" and sum(map(len, data)) == 18
    with pytest.raises(UserError, match="1 of 19 samples cannot be used"):
        refuse_broken(*data)


@pytest.mark.parametrize(
    ("lines", "listed", "message"),
    [
        (["a.png 0", "b.png"], None, "list.txt:2: there is no label"),
        (["# x", "a.png 0", "my b.png"], None, "list.txt:3: there is no label"),
        (["a.png,0", "b.png"], None, "list.txt:1: there is no label"),
        (["a.png,0", "b.png,"], None, "list.txt:2: there is no label"),
        (["a.png 0", "b.png -1"], None, "list.txt:2: the label -1 is negative"),
        (["a.png 0", "b.png 1.5"], None, "list.txt:2: the label 1.5 is a name, and that in {}/list.txt:1, 0, is not"),
        (["a.png oak", "b.png 1"], None, "list.txt:2: the label 1 is a number, and that in"),
        (["a.png 0", "b.png 1", "c.png 3"], None, "list.txt:3: there is a label 3, but no line has 2"),
        (["a.png 1", "b.png 2"], None, "list.txt:1: there is a label 1, but no line has 0"),
        (["a.png 0", "b.png 0"], None, "has only one class, 0"),
        (["a.png 0", "b.png 2"], "oak\nash\n", "list.txt:2: the label 2 is none of the 2 classes of {}/class_name.txt"),
        (["a.png oak", "b.png elm"], "oak\nash\n", "list.txt:2: the label elm is none of the 2 classes"),
        (["a.png 0", "b.png 1"], "oak\nash\noak", "class_name.txt lists oak twice"),
        (["# only this"], None, "list.txt names no picture: lines"),
    ],
)
def test_bad_lines_are_named_by_file_and_number(tmp_path, lines, listed, message):
    fill(tmp_path, "a.png", "b.png", "c.png", **({"class_name": listed} if listed else {}))
    with pytest.raises(UserError) as error:
        ListFile(write_list(tmp_path, lines), "train", image_size=32)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)


def test_a_list_that_is_missing_a_folder_or_no_text_is_one_line(tmp_path):
    with pytest.raises(UserError, match="^there is no file .*nowhere.txt: give a text file with lines `path label`$"):
        ListFile(tmp_path / "nowhere.txt", "train")
    with pytest.raises(UserError, match="is a folder: ListFile takes text files, --dataset=ImageFolder"):
        ListFile(tmp_path, "train")
    with pytest.raises(UserError, match="picture.png is no text: it has a zero at"):
        ListFile(paint(tmp_path / "picture.png"), "train")


def test_two_pictures_of_one_id_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "a.jpg", "cat", 1)
        write_list(tmp_path / name, ["a.jpg"])
    with pytest.raises(UserError, match="have the same id, a.jpg"):
        ListFile([tmp_path / "one" / "list.txt", tmp_path / "two" / "list.txt"], "test")


def test_a_pipe_is_a_broken_picture_and_not_waited_for(tmp_path, forest):
    names = [str(path) for path in sorted(forest.rglob("*.png"))]
    os.mkfifo(tmp_path / "pipe.jpg")
    lines = [f"{name} {number % 2}" for number, name in enumerate(names)] + ["pipe.jpg 0"]
    data = ListFile(write_list(tmp_path, lines), "train"), ListFile(write_list(tmp_path, lines), "val")
    assert [line for one in data for line in one.broken] == [f"{tmp_path / 'pipe.jpg'} (No such file or directory)"]


def test_in_test_mode_the_id_is_the_path_as_written_in_the_lists_order(tmp_path):
    fill(tmp_path, "in/my z.png", "in/a.png")
    path = write_list(tmp_path, ["in/my z.png", "gone.png 1", "in/a.png  0"])
    data = ListFile(path, "test", image_size=32)
    data.classes = ["oak", "ash"]
    assert data.ids == ["in/my z.png", "gone.png", "in/a.png"] and data.targets == ["in/my z.png", "in/a.png"]
    data.write_results(tmp_path / "result.csv", iter([(data.targets, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))]))
    with open(tmp_path / "result.csv", newline="") as file:
        assert [(row["id"], float(row["oak"])) for row in csv.DictReader(file)] == [
            *(("in/my z.png", 0.9), ("gone.png", 0.5), ("in/a.png", 0.2))
        ]
