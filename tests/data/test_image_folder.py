"""ImageFolder: a subfolder per class."""

from collections import Counter

import pytest
import torch
from conftest import FAST, NO_SERVER, draw, main
from drawn import fill, forest_of_42, paint, trees

from data import ImageFolder
from utils import UserError
from utils.train.loader import make_loader


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return forest_of_42(tmp_path_factory.mktemp("forest"))


def test_any_suffix_any_case_any_depth_and_the_rest_is_counted(tmp_path, capsys):
    trees(tmp_path, ash=1, oak=1)
    for name in ("ash/a.JPG", "ash/b.jpeg", "ash/deep/er/c.Png", "ash/d.bmp", "oak/e.gif", "oak/f.webp", "oak/g.tif"):
        paint(tmp_path / name)
    paint(tmp_path / "oak" / "h.TIFF")
    for name in (".DS_Store", "ash/._a.jpg", "oak/notes.txt", "oak/.hidden/x.png", ".ipynb_checkpoints/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"stray")
    paint(tmp_path / "loose.png")
    train, val = ImageFolder(tmp_path, "train", image_size=32), ImageFolder(tmp_path, "val", image_size=32)
    assert train.classes == ["ash", "oak"] and len(train) + len(val) == 10 and not train.broken + val.broken
    printed = capsys.readouterr().out
    assert printed.count("ignoring") == 1  # val does not say it again
    assert f"note: ignoring 6 files in {tmp_path}, hidden, without a picture's suffix or in no class's" in printed


def test_several_roots_count_as_one_and_links_are_followed(tmp_path):
    first, second = trees(tmp_path / "a", oak=4, ash=4), trees(tmp_path / "b", oak=4, fir=4)
    (second / "ash").symlink_to(trees(tmp_path / "c", ash=3) / "ash")
    (second / "oak" / "up").symlink_to(second)
    data = [ImageFolder([str(first), str(second)], mode, image_size=32) for mode in ("train", "val")]
    assert data[0].classes == ["ash", "fir", "oak"]
    assert Counter(data[0].targets) + Counter(data[1].targets) == {0: 7, 1: 4, 2: 8}


def test_classes_are_in_alphabetical_order_whatever_their_case(tmp_path):
    trees(tmp_path, beech=2, Ash=2, oak=2, Yew=2)
    assert ImageFolder(tmp_path, "train", image_size=32).classes == ["Ash", "beech", "oak", "Yew"]


def test_class_name_txt_fixes_the_classes_and_their_order(tmp_path, capsys):
    first, second = trees(tmp_path / "a", ash=2), trees(tmp_path / "b", oak=2, fir=2, elm=2)
    (second / "yew").mkdir()
    (second / "class_name.txt").write_text("\ufeffoak\r\n\r\nash\r\nfir\r\n", encoding="utf-8")
    data = ImageFolder([first, second], "train", image_size=32)
    assert data.classes == ["oak", "ash", "fir"] and data.targets == [0, 1, 2]
    assert [path.parent.name for path in data.paths] == data.classes
    printed = capsys.readouterr().out
    assert "does not list: elm\n" in printed and "without pictures: yew\n" in printed


def test_an_empty_folder_that_nothing_lists_is_no_class(tmp_path, capsys):
    trees(tmp_path, ash=2, oak=2)
    (tmp_path / "empty").mkdir()
    assert ImageFolder(tmp_path, "train", image_size=32).classes == ["ash", "oak"]
    assert f"note: ignoring folders in {tmp_path} without pictures: empty" in capsys.readouterr().out


PAIR = ["ash/1.png", "ash/2.png", "oak/1.png", "oak/2.png"]


@pytest.mark.parametrize(
    ("names", "listed", "message"),
    [
        ([], None, "has no subfolders: one with pictures for each class"),
        (["1.png", "2.png"], None, "has 2 pictures but no subfolders: make one for each class"),
        (PAIR[:2], None, "has 1 class (ash): two are needed"),
        (["ash/", "oak/"], None, "has 0 classes (no picture)"),
        (["1.png"], None, "has 1 picture but no subfolders: make one for each class"),
        (PAIR[:3], None, "has 1 picture of oak: every class needs 2"),
        (["Train/ash/1.png", "val/ash/1.png", "test/1.png"], None, "--train-data-root={}/Train --val-data-root={}/val"),
        (PAIR, "ash\noak\nash\n", "class_name.txt lists ash twice"),
        (PAIR, "ash\nelm\n", "lists elm, but {} has no folder elm"),
        ([*PAIR, "elm/"], "ash\nelm\n", "lists elm, but its folder in {} has no pictures"),
        (PAIR, "\n", "class_name.txt is empty"),
        (PAIR, b"\xff\xfea\n", "class_name.txt is no UTF-8 text"),
    ],
)
def test_a_folder_that_is_none_of_classes_is_one_line(tmp_path, names, listed, message):
    fill(tmp_path, *names, **({"class_name": listed} if listed else {}))
    with pytest.raises(UserError) as error:
        ImageFolder(tmp_path, "train", image_size=32)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_folder_and_a_val_folder_of_other_classes_are_one_line(tmp_path):
    trees(tmp_path / "train", ash=2, oak=2)
    trees(tmp_path / "val", Ash=2, oak=2)
    with pytest.raises(UserError, match="/val has a folder Ash, and .*/train has no such class: rename"):
        ImageFolder(tmp_path / "train", "val", val_data_root=[tmp_path / "val"])
    for mode in ("train", "test"):
        with pytest.raises(UserError, match="^there is no folder nowhere: give a folder of pictures$"):
            ImageFolder("nowhere", mode)


def test_results_have_the_path_as_id_and_a_column_per_class(tmp_path):
    fill(tmp_path, "new/b.png", "new/sub/a.JPG", "new/C.png")
    (tmp_path / "new" / "d.png").write_bytes(b"broken")
    data = ImageFolder([tmp_path / "new"], "test", image_size=32)
    data.classes = ["ash", "oak"]  # as the checkpoint says
    loader = make_loader(data, 2, num_workers=0)
    data.write_results(
        tmp_path / "result.csv", ((list(ids), torch.tensor([[0.25, 0.75]] * len(ids))) for _, ids in loader)
    )
    rows = ["b.png,0.250000,0.750000", "C.png,0.250000,0.750000", "d.png,0.500000,0.500000"]
    assert (tmp_path / "result.csv").read_text().split() == ["id,ash,oak", *rows, "sub/a.JPG,0.250000,0.750000"]
    with pytest.raises(UserError, match="have the same id, b.png"):
        ImageFolder([tmp_path / "new", tmp_path / "new"], "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no picture in .*empty \(0 other files\): give a folder of"):
        ImageFolder(tmp_path / "empty", "test")


def test_a_folder_of_ones_own_trains_with_one_command(tmp_path, forest):
    options = ["--model=SqueezeNet", "--image-size=32", "--batch-size=8", "--num-workers=2", "--max-epoch=1", NO_SERVER]
    options += ["--resample=mean", "--class-weights", "--cache=device", "--draw-freq=1"]
    done = main("train", "--dataset=ImageFolder", f"--train-data-root={forest}", *options, cwd=tmp_path, check=0)
    assert "packed 29 pictures into packs/ImageFolder_train_37_" in done.stdout
    assert "kept in the memory of cpu: 29 pictures of 37 x 37, 0.1 MB" in done.stdout
    (matrix,) = tmp_path.glob("checkpoints/*/confusion.csv")
    assert matrix.read_text().splitlines()[0].endswith("ash,fir,oak")
    bad = main("train", "--dataset=ListFile", f"--train-data-root={forest}", NO_SERVER, cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1 and "is a folder: ListFile" in bad.stderr


def test_class_names_in_any_script(tmp_path):
    for name in ("玫瑰", "ромашка", "$ tulip_1 $"):
        for number in range(3):
            (tmp_path / "flowers" / name).mkdir(parents=True, exist_ok=True)
            draw(tmp_path / "flowers" / name / f"{number}.jpg", "cat", number)
    options = ["--dataset=ImageFolder", f"--train-data-root={tmp_path / 'flowers'}", "--max-epoch=1", "--draw-freq=1"]
    done = main("train", *options, *FAST, cwd=tmp_path, check=0)
    assert "Glyph" not in done.stderr
    (table,) = tmp_path.glob("checkpoints/*/report.csv")
    assert "玫瑰," in table.read_text(encoding="utf-8")
