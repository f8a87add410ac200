"""ImageFolder: a subfolder per class."""

import os
from collections import Counter

import pytest
import torch
from conftest import FAST, NO_SERVER, draw, main
from drawn import fill, forest_of_42, paint, trees
from PIL import Image

from data import ImageFolder
from data.broken import refuse_broken
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
    hidden = [".DS_Store", "ash/._a.jpg", "oak/.hidden/x.png", ".ipynb_checkpoints/y.png", "oak/Thumbs.db"]
    for name in [*hidden, "@eaDir/z.jpg", "__MACOSX/oak/z.jpg", "oak/@eaDir/z.jpg", "ash/desktop.ini", "oak/notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"stray")
    paint(tmp_path / "loose.png")
    train, val = ImageFolder(tmp_path, "train", image_size=32), ImageFolder(tmp_path, "val", image_size=32)
    assert train.classes == ["ash", "oak"] and len(train) + len(val) == 10 and not train.broken + val.broken
    printed = capsys.readouterr().out
    assert printed.count("ignoring") == 1  # val does not say it again
    assert f"note: ignoring 2 files in {tmp_path}, without a picture's suffix or in no class's" in printed


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
        (PAIR, b"\xff\xfea\n\0", "class_name.txt is no UTF-16 text"),
        (PAIR, b"oak\0", "class_name.txt is no text: it has a zero at character 3"),
        (
            ["seg_TRAIN/a/1.png", "testing/1.png"],
            None,
            "--train-data-root={}/seg_TRAIN --test-data-root={}/testing (if",
        ),
        (
            ["Training/a/1.png", "eval/a/1.png"],
            None,
            "{} has folders for parts of the data (Training, eval), not for classes",
        ),
        (["Training/a/1.png", "eval/a/1.png"], None, "--train-data-root={}/Training --val-data-root={}/eval (if"),
        (["train/a/1.png", "valid/1.png"], "a\nb\n", "--train-data-root={}/train --val-data-root={}/valid (if"),
        (["train/a/1.png", "train/b/1.png", "unsup/1.png"], None, "give --train-data-root={}/train (if"),
        (["train/1.png", "x.png"], None, "data (train), not for classes: give --train-data-root={}/train (if"),
        (["in/a/1.png", "in/b/1.png"], None, "has 1 class (in): two are needed, or give --train-data-root={}/in"),
        (["in/train/a/1.png", "in/test/1.png"], None, "give --train-data-root={}/in/train --test-data-root={}/in/test"),
    ],
)
def test_a_folder_that_is_none_of_classes_is_one_line(tmp_path, names, listed, message):
    fill(tmp_path, *names, **({"class_name": listed} if listed else {}))
    with pytest.raises(UserError) as error:
        ImageFolder(tmp_path, "train", image_size=32)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_train_is_a_class_beside_others_and_where_class_name_txt_lists_it(tmp_path):
    assert ImageFolder(trees(tmp_path / "a", bus=2, train=2, tram=2), "train", image_size=32).classes[1] == "train"
    trees(tmp_path / "b", train=2, test=2)
    fill(tmp_path / "b", class_name="test\ntrain\n")
    assert ImageFolder(tmp_path / "b", "train", image_size=32).classes == ["test", "train"]


def test_a_folder_whose_pictures_have_no_pictures_suffix_is_no_class_without_a_word(tmp_path, capsys):
    trees(tmp_path, ash=2, oak=2, fir=1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 0.5")
    (tmp_path / "fir" / "0.png").rename(tmp_path / "fir" / "0.jpg_large")
    with pytest.raises(UserError, match="/fir has no file with a picture's suffix, but 0.jpg_large seems to be a pict"):
        ImageFolder(tmp_path, "train")
    (tmp_path / "fir" / "0.jpg_large").rename(tmp_path / "fir" / "0.svg")
    with pytest.raises(UserError, match="but 0.svg seems to be a picture: convert or rename such files, or move"):
        ImageFolder(tmp_path, "train")
    (tmp_path / "fir" / "0.svg").unlink()
    assert ImageFolder(tmp_path, "train", image_size=32).classes == ["ash", "oak"]
    assert "without pictures: fir, labels" in capsys.readouterr().out


def test_a_class_without_a_picture_that_can_be_read_is_an_error_that_names_it(tmp_path):
    trees(tmp_path, ash=40, oak=40, fir=2)
    for path in (tmp_path / "fir").iterdir():
        path.write_bytes(b"\0\0\0\x24ftypheic" + bytes(50))
    (tmp_path / "oak" / "7.png").write_bytes(b"")
    data = [ImageFolder(tmp_path, mode, image_size=32) for mode in ("train", "val")]
    with pytest.raises(
        UserError, match=r"^no picture of fir can be read, of 2 to train and validate on; the first is .*HEIC"
    ):
        refuse_broken(*data)
    trees(tmp_path, fir=9)
    (tmp_path / "fir" / "0.png").write_bytes(b"")
    refuse_broken(*(ImageFolder(tmp_path, mode, image_size=32) for mode in ("train", "val")))


def test_every_suffix_that_pillow_decodes_is_a_pictures(tmp_path):
    for name, kind in {"a/1.ppm": "PPM", "a/2.JFIF": "JPEG", "b/1.tga": "TGA", "b/2.jp2": "JPEG2000"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, kind)
    data = [ImageFolder(tmp_path, mode, image_size=32) for mode in ("train", "val")]
    assert sum(map(len, data)) == 4 and not data[0].broken + data[1].broken


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
    gbk = os.fsdecode("菊花".encode("gbk"))  # a folder of an archive that was made on another system
    for name in ("玫瑰", "ромашка", "$ tulip_1 $", gbk):
        for number in range(3):
            (tmp_path / "flowers" / name).mkdir(parents=True, exist_ok=True)
            draw(tmp_path / "flowers" / name / f"{number}.jpg", "cat", number)
    options = ["--dataset=ImageFolder", f"--train-data-root={tmp_path / 'flowers'}", "--max-epoch=1", "--draw-freq=1"]
    done = main("train", *options, *FAST, cwd=tmp_path, check=0)
    assert "Glyph" not in done.stderr
    assert repr(gbk)[1:-1] in done.stdout
    (table,) = tmp_path.glob("checkpoints/*/report.csv")
    assert "玫瑰," in table.read_text(encoding="utf-8", errors="surrogateescape")
    assert f"{gbk}," in table.read_text(encoding="utf-8", errors="surrogateescape")
    measured = main("val", "--cam=2", "--draw-freq=1", cwd=tmp_path, check=0)
    main("test", f"--test-data-root={tmp_path / 'flowers' / gbk}", cwd=tmp_path, check=0)
    with open(tmp_path / "result.csv", encoding="utf-8", errors="surrogateescape") as file:
        assert gbk in file.readline() and len(file.readlines()) == 3
    assert "val_accuracy" in measured.stdout


def test_folders_that_all_have_the_same_folders_may_be_parts_which_a_note_says(tmp_path, capsys):
    for part in ("fold_1", "fold_2"):
        trees(tmp_path / "folds" / part, oak=2, ash=2)
    assert ImageFolder(tmp_path / "folds", "train").classes == ["fold_1", "fold_2"]
    folds = tmp_path / "folds"
    said = "the classes are the folders fold_1, fold_2, and each has ash, oak: if those are the classes, give "
    assert f"{said}--train-data-root={folds}/fold_1 --val-data-root={folds}/fold_2;" in capsys.readouterr().out
    (folds / "class_name.txt").write_text("fold_1\nfold_2\n")
    ImageFolder(folds, "train")
    trees(tmp_path / "deep" / "a", oak=2, ash=2)
    trees(tmp_path / "deep" / "b", oak=2, fir=2)
    ImageFolder(tmp_path / "deep", "train")
    assert "the classes are" not in capsys.readouterr().out
    for one, other in (("trn", "tst"), ("train", "holdout")):
        for part in (one, other):
            trees(tmp_path / one / part, oak=2, ash=2)
        with pytest.raises(UserError, match=f"has folders for parts of the data \\({one}, {other}\\)"):
            ImageFolder(tmp_path / one, "train")
