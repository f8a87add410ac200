"""ImageFolder, ListFile and CIFAR10, and what they share: val's share, classes evened out, pictures held in memory."""

import csv
import hashlib
import os
import pickle
import shutil
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import pytest
import torch
from conftest import FAST, NO_SERVER, draw, main
from PIL import Image

from data import CIFAR10, DogCat, ImageFolder, ListFile, cifar10
from data.base import refuse_broken
from utils import UserError
from utils.loader import generator, make_loader
from utils.meters import ConfusionMeter

COLOURS = {"oak": (60, 160, 60), "ash": (160, 60, 60), "fir": (60, 60, 160)}


def paint(path, kind="oak", number=0, size=(40, 36)):
    """A noisy picture in the colour of its kind, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 80, (size[1], size[0], 3)) + COLOURS.get(kind, (99, 99, 99))
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def trees(folder, **counts):
    """A folder per kind with so many PNGs; returns it."""
    for kind, count in counts.items():
        for number in range(count):
            paint(folder / kind / f"{number}.png", kind, number)
    return folder


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return trees(tmp_path_factory.mktemp("forest"), oak=30, ash=9, fir=3)


def per_class(data, order):
    return [Counter(data.targets[index] for index in order.tolist())[label] for label in range(len(data.classes))]


def seed(number):
    return torch.Generator().manual_seed(number)


# --- classes evened out


@pytest.mark.parametrize(
    ("how", "expected"),
    [  # of 6 ash, 2 fir and 21 oak that train has of them: N/3 each; by log(n+1) and sqrt(n+1), rounded up
        ("none", [6, 2, 21]),
        ("mean", [10, 10, 10]),
        ("log", [10, 6, 15]),
        ("sqrt", [9, 6, 15]),
    ],
)
def test_classes_of_10_to_3_to_1_are_evened_out_anew_in_every_epoch(forest, how, expected):
    data = ImageFolder(forest, "train", resample=how, image_size=32)
    epochs = [data.order(seed(number)) for number in range(20)]
    assert all(per_class(data, order) == expected for order in epochs)
    assert torch.equal(data.order(seed(3)), epochs[3])  # a function of the generator alone
    assert len({tuple(order.tolist()) for order in epochs}) == 20  # shuffled anew
    for order in epochs:
        labels = [data.targets[index] for index in order.tolist()]
        assert labels not in (sorted(labels), sorted(labels, reverse=True))
        times = Counter(order.tolist())
        for label in range(3):
            often = [times[index] for index, target in enumerate(data.targets) if target == label]
            assert max(often) - min(often) <= 1
    if how != "none":  # the large class's share is chosen anew, until every sample was seen
        assert len({frozenset(order.tolist()) for order in epochs}) > 10
        assert {index for order in epochs for index in order.tolist()} == set(range(len(data)))


def test_the_loader_draws_that_order_and_val_stays_in_its_own(forest):
    train, val = (ImageFolder(forest, mode, resample="mean", image_size=32) for mode in ("train", "val"))
    loader = make_loader(train, 5, num_workers=0, seed=1)
    epochs = []
    for epoch in (0, 1):
        loader.batch_sampler.start(epoch, 0)
        epochs.append(torch.cat([target for _, target in loader]).bincount().tolist())
    assert epochs == [[10, 10, 10]] * 2 and len(loader) == 6
    assert torch.equal(val.order(seed(0)).sort().values, torch.arange(len(val)))


def test_class_weights_are_n_over_n_c_of_train_alone(forest):
    data = ImageFolder(forest, "train", class_weights=True, image_size=32)
    assert data.weights == pytest.approx([29 / 6, 29 / 2, 29 / 21])
    assert ImageFolder(forest, "val", class_weights=True).weights is None
    assert ImageFolder(forest, "train").weights is None


@pytest.mark.parametrize("options", [{"resample": "sqrt"}, {"class_weights": True}])
def test_a_class_whose_pictures_are_all_broken_cannot_be_resampled_or_weighed(tmp_path, options):
    trees(tmp_path, ash=3, oak=3)
    (tmp_path / "fir").mkdir()
    for name in "ab":
        (tmp_path / "fir" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="^there is no picture of fir, which --resample and --class-weights need$"):
        ImageFolder(tmp_path, "train", image_size=32, **options)


# --- in memory


def test_pictures_in_memory_are_the_same_and_outlive_their_files(tmp_path, capsys):
    trees(tmp_path, oak=20, ash=20)
    (tmp_path / "oak" / "7.png").write_bytes(b"broken")  # leaves a gap in the tensor
    for mode in ("train", "val"):
        read, kept = (ImageFolder(tmp_path, mode, image_size=32) for _ in range(2))
        for cache in ("none", "auto"):  # auto is for GPUs
            kept.hold(torch.device("cpu"), cache)
            assert not kept.held and not kept.cheap
        kept.hold(torch.device("cpu"), "device")
        assert kept.held and kept.cheap
        assert kept.paths == read.paths and kept.broken == read.broken and kept.targets == read.targets
        assert all(torch.equal(a, b) and m == n for (a, m), (b, n) in zip(read, kept, strict=True))
    printed = capsys.readouterr().out
    assert "note: 28 pictures of 37 x 37, 0.1 MB, are held in the memory of cpu" in printed and "11 pictures" in printed
    shutil.rmtree(tmp_path / "oak")
    assert [kept[index][1] for index in range(len(kept))] == kept.targets
    batches = list(make_loader(kept, 4, num_workers=2))
    assert torch.cat([target for _, target in batches]).tolist() == kept.targets
    assert torch.equal(torch.cat([input for input, _ in batches]), torch.stack([picture for picture, _ in kept]))


# --- train's and val's share


def test_the_share_follows_from_names_and_keeps_70_to_30_in_each_class(forest, tmp_path):
    train, val = ImageFolder(forest, "train", image_size=32), ImageFolder(forest, "val", image_size=32)
    assert per_class(train, train.order(seed(0))) == [6, 2, 21] and Counter(val.targets) == {0: 3, 1: 1, 2: 9}
    assert not set(train.paths) & set(val.paths)
    last = sorted(path.name for path in (forest / "oak").iterdir())[-9:]
    assert (
        sorted(path.name for path in val.paths if path.parent.name == "oak") != last
    )  # a hash's order, not the names'
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


def test_what_val_measures_with_can_show_its_pictures(forest):
    train, val = ImageFolder(forest, "train", image_size=32), ImageFolder(forest, "val", image_size=32)
    assert type(train.meter()) is ConfusionMeter
    meter = val.meter()
    assert type(meter).__name__ == "ClassMeter" and meter.classes == ["ash", "fir", "oak"]
    picture, caption = meter.picture(0)
    assert torch.equal(picture, val[0][0]) and caption == f"ash/{val.paths[0].name}"


def test_a_drawn_batch_shows_the_pictures_with_prediction_and_truth(forest):
    val = ImageFolder(forest, "val", image_size=64)
    raw = torch.stack([val[index][0] for index in range(5)])
    input, target = val.prepare(raw, torch.tensor(val.targets[:5]), None)
    (sheet,) = val.draw(input, target, torch.tensor([[0.1, 0.2, 0.7]] * 5))
    assert sheet.dtype == torch.uint8 and sheet.shape == (3, 2 * (192 + 24), 4 * (192 + 8))
    assert torch.equal(sheet[:, :192:3, 4:196:3], raw[0])  # enlarged three times, and nothing else
    caption = sheet[:, 192:216, 4:196].float()
    assert caption.std() > 10 and caption[0].mean() > caption[1].mean()  # red: oak was predicted, ash is true


# --- ImageFolder


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
    assert printed.count("passed over") == 1  # val does not say it again
    assert f"note: 6 files in {tmp_path} are hidden, no pictures or in no class's folder" in printed


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
    assert "does not list are passed over: elm" in printed and "without pictures are passed over: yew" in printed


def test_an_empty_folder_that_nothing_lists_is_no_class(tmp_path, capsys):
    trees(tmp_path, ash=2, oak=2)
    (tmp_path / "empty").mkdir()
    assert ImageFolder(tmp_path, "train", image_size=32).classes == ["ash", "oak"]
    assert f"note: folders in {tmp_path} without pictures are passed over: empty" in capsys.readouterr().out


def files(folder, *names, **texts):
    """Pictures with these names, folders for those that end with a slash, and texts as <name>.txt."""
    for name in names:
        (folder / name).mkdir(parents=True) if name.endswith("/") else paint(folder / name)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


PAIR = ["ash/1.png", "ash/2.png", "oak/1.png", "oak/2.png"]


@pytest.mark.parametrize(
    ("names", "listed", "message"),
    [
        ([], None, "has no subfolders: one with pictures for each class"),
        (["1.png", "2.png"], None, "has 2 pictures but no subfolders: make one for each class"),
        (PAIR[:2], None, "has 1 classes (ash): two are needed"),
        (["ash/", "oak/"], None, "has 0 classes (no pictures)"),
        (PAIR[:3], None, "has 1 pictures of oak: 2 of each class are needed"),
        (["Train/ash/1.png", "val/ash/1.png", "test/1.png"], None, "--train-data-root={}/Train --val-data-root={}/val"),
        (PAIR, "ash\noak\nash\n", "class_name.txt lists ash twice"),
        (PAIR, "ash\nelm\n", "lists elm, but {} has no folder elm"),
        ([*PAIR, "elm/"], "ash\nelm\n", "lists elm, but its folder in {} has no pictures"),
        (PAIR, "\n", "class_name.txt is empty"),
        (PAIR, b"\xff\xfea\n", "class_name.txt is no UTF-8 text"),
    ],
)
def test_a_folder_that_is_none_of_classes_is_one_line(tmp_path, names, listed, message):
    files(tmp_path, *names, **({"class_name": listed} if listed else {}))
    with pytest.raises(UserError) as error:
        ImageFolder(tmp_path, "train", image_size=32)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_folder_and_a_val_folder_of_other_classes_are_one_line(tmp_path):
    trees(tmp_path / "train", ash=2, oak=2)
    trees(tmp_path / "val", Ash=2, oak=2)
    with pytest.raises(UserError, match="/val has a folder Ash, and .*/train has none"):
        ImageFolder(tmp_path / "train", "val", val_data_root=[tmp_path / "val"])
    for mode in ("train", "test"):
        with pytest.raises(UserError, match="nowhere does not exist: give a folder"):
            ImageFolder("nowhere", mode)


def test_results_have_the_path_as_id_and_a_column_per_class(tmp_path):
    files(tmp_path, "new/b.png", "new/sub/a.JPG", "new/C.png")
    (tmp_path / "new" / "d.png").write_bytes(b"broken")
    data = ImageFolder([tmp_path / "new"], "test", image_size=32)
    data.classes = ["ash", "oak"]  # as the checkpoint says
    loader = make_loader(data, 2, num_workers=0)
    data.write_results(
        tmp_path / "result.csv", ((list(ids), torch.tensor([[0.25, 0.75]] * len(ids))) for _, ids in loader)
    )
    rows = ["b.png,0.250000,0.750000", "C.png,0.250000,0.750000", "d.png,0.500000,0.500000"]
    assert (tmp_path / "result.csv").read_text().split() == ["id,ash,oak", *rows, "sub/a.JPG,0.250000,0.750000"]
    with pytest.raises(UserError, match="the id b.png is there twice"):
        ImageFolder([tmp_path / "new", tmp_path / "new"], "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in .*empty"):
        ImageFolder(tmp_path / "empty", "test")


# --- ListFile


def write_list(folder, lines, name="list.txt"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_lines_of_path_and_label_with_spaces_comments_and_blank_lines(tmp_path, forest):
    files(tmp_path, "in/a b.png", "in/c.png", "in/d.png", "in/#e.png")
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
    files(tmp_path, class_name="oak\nfir\nash\n")
    assert [p.parent.name for p in ListFile(path, "train", image_size=32).paths] == ["oak", "fir", "ash"]
    numbers = write_list(tmp_path, [line[:-3] + str(["oak", "fir", "ash"].index(line[-3:])) for line in lines], "n.txt")
    data = ListFile(numbers, "val", image_size=32)
    assert data.classes == ["oak", "fir", "ash"] and [p.parent.name for p in data.paths] == data.classes


def test_several_lists_each_seen_from_its_own_folder_and_a_list_for_val(tmp_path):
    files(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
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
    assert [path.name for one in data for path in one.broken] == ["gone.png"] and sum(map(len, data)) == 18
    with pytest.raises(UserError, match="1 of 19 samples cannot be used"):
        refuse_broken(*data)


@pytest.mark.parametrize(
    ("lines", "listed", "message"),
    [
        (["a.png 0", "b.png"], None, "list.txt:2: there is no label"),
        (["# x", "a.png 0", "my b.png"], None, "list.txt:3: there is no label"),
        (["a.png,0", "b.png,1"], None, "list.txt:1: there is no label"),
        (["a.png 0", "b.png -1"], None, "list.txt:2: the label -1 is negative"),
        (["a.png 0", "b.png 1.5"], None, "list.txt:2: the label 1.5 is a name, and that in {}/list.txt:1, 0, is not"),
        (["a.png oak", "b.png 1"], None, "list.txt:2: the label 1 is a number, and that in"),
        (["a.png 0", "b.png 1", "c.png 3"], None, "list.txt:3: there is a label 3, but no line has 2"),
        (["a.png 1", "b.png 2"], None, "list.txt:1: there is a label 1, but no line has 0"),
        (["a.png 0", "b.png 0"], None, "has only one class, 0"),
        (["a.png 0", "b.png 2"], "oak\nash\n", "list.txt:2: the label 2 is none of the 2 classes of {}/class_name.txt"),
        (["a.png oak", "b.png elm"], "oak\nash\n", "list.txt:2: the label elm is none of the 2 classes"),
        (["a.png 0", "b.png 1"], "oak\nash\noak", "class_name.txt lists oak twice"),
        (["# only this"], None, "list.txt names no pictures"),
    ],
)
def test_bad_lines_are_named_by_file_and_number(tmp_path, lines, listed, message):
    files(tmp_path, "a.png", "b.png", "c.png", **({"class_name": listed} if listed else {}))
    with pytest.raises(UserError) as error:
        ListFile(write_list(tmp_path, lines), "train", image_size=32)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and "\n" not in str(error.value)


def test_a_list_that_is_missing_a_folder_or_no_text_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere.txt cannot be read: No such file"):
        ListFile(tmp_path / "nowhere.txt", "train")
    with pytest.raises(UserError, match="is a folder: ListFile takes text files, --dataset=ImageFolder"):
        ListFile(tmp_path, "train")
    with pytest.raises(UserError, match="picture.png is no UTF-8 text"):
        ListFile(paint(tmp_path / "picture.png"), "train")


def test_two_pictures_of_one_id_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "a.jpg", "cat", 1)
        write_list(tmp_path / name, ["a.jpg"])
    with pytest.raises(UserError, match="the id a.jpg is there twice"):
        ListFile([tmp_path / "one" / "list.txt", tmp_path / "two" / "list.txt"], "test")


def test_a_pipe_is_a_broken_picture_and_not_waited_for(tmp_path, forest):
    names = [str(path) for path in sorted(forest.rglob("*.png"))]
    os.mkfifo(tmp_path / "pipe.jpg")
    lines = [f"{name} {number % 2}" for number, name in enumerate(names)] + ["pipe.jpg 0"]
    data = ListFile(write_list(tmp_path, lines), "train"), ListFile(write_list(tmp_path, lines), "val")
    assert [path.name for one in data for path in one.broken] == ["pipe.jpg"]


def test_in_test_mode_the_id_is_the_path_as_written_in_the_lists_order(tmp_path):
    files(tmp_path, "in/my z.png", "in/a.png")
    path = write_list(tmp_path, ["in/my z.png", "gone.png 1", "in/a.png  0"])
    data = ListFile(path, "test", image_size=32)
    data.classes = ["oak", "ash"]
    assert data.ids == ["in/my z.png", "gone.png", "in/a.png"] and data.targets == ["in/my z.png", "in/a.png"]
    data.write_results(tmp_path / "result.csv", iter([(data.targets, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))]))
    with open(tmp_path / "result.csv", newline="") as file:
        assert [(row["id"], float(row["oak"])) for row in csv.DictReader(file)] == [
            *(("in/my z.png", 0.9), ("gone.png", 0.5), ("in/a.png", 0.2))
        ]


# --- CIFAR10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_batches(folder, n=20, key=lambda name: name, module=None):
    """The real files with n pictures each: protocol 2, arrays of bytes [n, 3072], labels as a list."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"batches.meta": {"num_cases_per_batch": n, "label_names": NAMES, "num_vis": 3072}}
    for number, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        pixels = np.random.default_rng(number).integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = [(row + number) % 10 for row in range(n)]
        contents[name] = {"batch_label": name, "labels": labels, "data": pixels, "filenames": ["x.png"] * n}
    for name, content in contents.items():
        pickled = pickle.dumps({key(field): value for field, value in content.items()}, protocol=2)
        if module:
            pickled = pickled.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
        (folder / name).write_bytes(pickled)
    return folder


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    write_batches(root / "cifar-10-batches-py")
    return root


def test_cifar10_has_five_batches_to_train_on_and_one_for_val_and_test(batches):
    train, val, test = (CIFAR10([str(batches)], mode, image_size=32) for mode in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (100, 20, 20) and train.classes == NAMES
    raw = np.random.default_rng(1).integers(0, 256, (20, 3072), dtype=np.uint8)[3].reshape(3, 32, 32)
    picture, label = train[23]  # the fourth of data_batch_2
    assert np.array_equal(picture, raw) and picture.dtype == torch.uint8 and label == (3 + 1) % 10
    assert [test[index][1] for index in range(20)] == list(range(1, 21))
    assert len(CIFAR10(batches / "cifar-10-batches-py", "val")) == 20  # the folder itself
    assert val.picture(5)[1] == "test_batch 5"


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_batches_by_any_numpy_and_with_keys_of_bytes_are_read(tmp_path, batches, module):
    write_batches(tmp_path, key=str.encode, module=module)
    first, second = CIFAR10(tmp_path, "train"), CIFAR10(batches, "train")
    assert (
        torch.equal(first.rows.pixels, second.rows.pixels)
        and first.targets == second.targets
        and first.classes == NAMES
    )


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path, batches):
    """Python 2's text is bytes, and so are its arrays' contents: the opcodes that Python 3 does not write any more."""
    write_batches(tmp_path)
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    contents = b"T" + (2 * 3072).to_bytes(4, "little") + bytes(range(256)) * 24
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89" + contents + b"tb"
    pickled = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x07eu."
    (tmp_path / "test_batch").write_bytes(pickled)
    data = CIFAR10(tmp_path, "val")
    assert data.targets == [3, 7]
    assert torch.cat([data[0][0], data[1][0]]).flatten().tolist() == list(range(256)) * 24


@pytest.mark.parametrize("size", [32, 224])
def test_the_device_makes_cifar10_as_large_as_the_model_wants_it(batches, size):
    train, val = (CIFAR10(batches, mode, image_size=size, noise=0.0) for mode in ("train", "val"))
    for data, random in ((train, generator(0, 0, "cpu")), (val, None)):
        input, target = data.prepare(*next(iter(make_loader(data, 8, num_workers=0))), random)
        assert input.shape == (8, 3, size, size) and input.dtype == torch.float32 and len(target) == 8
    (sheet,) = val.draw(input, target, torch.eye(10)[target])
    assert sheet.shape[0] == 3 and sheet.shape[2] == 4 * ((160 if size == 32 else 224) + 8)


def test_cifar10_takes_val_size_and_resampling_too(batches):
    val = CIFAR10(batches, "val", val_size=13)
    assert len(val) == val.rows.shape[0] == 13 and set(val.targets) == set(range(10))
    whole = CIFAR10(batches, "val")
    assert all(torch.equal(val[index][0], whole[int(path.split()[1])][0]) for index, path in enumerate(val.paths))
    assert CIFAR10(batches, "train", class_weights=True).weights == [10.0] * 10
    assert per_class(whole, CIFAR10(batches, "train", resample="mean").order(seed(0)) % 10) == [10] * 10


def test_cifar10_results_name_the_class(batches, tmp_path):
    test = CIFAR10(batches, "test")
    test.write_results(tmp_path / "result.csv", iter([([1, 2], torch.eye(10)[[3, 9]]), ([3], torch.eye(10)[[0]])]))
    assert (tmp_path / "result.csv").read_bytes() == b"id,label\r\n1,cat\r\n2,truck\r\n3,airplane\r\n"


class Harm:
    def __init__(self, function, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not(tmp_path, name):
    write_batches(tmp_path)
    for protocol in (0, 2, 4):
        harm = {"data": Harm(os.system, f"touch {tmp_path}/harm"), "label_names": Harm(eval, "1")}
        (tmp_path / name).write_bytes(pickle.dumps(harm, protocol=protocol))
        with pytest.raises(UserError, match=rf"{name} is refused: it asks for \w+\.system, .* may do harm"):
            CIFAR10(tmp_path, "train")
    assert not (tmp_path / "harm").exists()
    with pytest.raises(UserError, match=f"{name} is refused: it asks for (__builtin__|builtins).eval"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(eval, "1/0"), protocol=2))
        CIFAR10(tmp_path, "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not a batch</html>",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.float32), "labels": [1]}, protocol=2),
        pickle.dumps({"data": Harm(np.ndarray, (1, 3072), "f4"), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1], "x": np.array([None])}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3000), np.uint8), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, protocol=2)[:2000],
    ],
)
def test_damaged_batches_are_one_line(tmp_path, content):
    write_batches(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(content)
    with pytest.raises(UserError, match="^.*/data_batch_4 is damaged or no CIFAR-10 batch: .* --download$"):
        CIFAR10(tmp_path, "train")


def test_what_is_missing_is_named_with_the_option_that_fetches_it(tmp_path):
    with pytest.raises(UserError, match="nowhere has no cifar-10-batches-py .*--download"):
        CIFAR10([tmp_path / "nowhere"], "train")
    assert not (tmp_path / "nowhere").exists()
    write_batches(tmp_path)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(UserError, match="data_batch_5 is missing"):
        CIFAR10(tmp_path, "train")
    with pytest.raises(UserError, match="CIFAR10 takes one folder, not a, b"):
        CIFAR10(["a", "b"], "train")


def test_download_unpacks_what_has_the_published_sum_and_nothing_else(tmp_path, monkeypatch):
    write_batches(tmp_path / "cifar-10-batches-py", n=2)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    server = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    with pytest.raises(UserError, match="cannot be fetched into .*unpack it there by hand$"):
        CIFAR10([tmp_path / "wrong"], "train", download=True)
    assert not (tmp_path / "wrong" / "cifar-10-batches-py").exists()
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(CIFAR10([tmp_path / "new"], "train", download=True)) == 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cifar-10-batches-py"]
    server.shutdown()
    server.server_close()
    assert len(CIFAR10([tmp_path / "new"], "train", download=True)) == 10  # there already: nothing is fetched
    with pytest.raises(UserError, match="127.0.0.1.* cannot be fetched into .*refused"):
        CIFAR10([tmp_path / "offline"], "train", download=True)


# --- the command line


@pytest.mark.parametrize("size, model", [(32, "ResNet34"), (224, "SqueezeNet")])
def test_cifar10_trains_and_tests_by_its_preset(tmp_path, batches, size, model):
    options = [
        f"--image-size={size}",
        f"--model={model}",
        "--max-epoch=2",
        "--warmup-epochs=0.5",
        "--batch-size=20",
        "--num-workers=0",
    ]
    main("train", "--config=CIFAR10", f"--train-data-root={batches}", *options, NO_SERVER, cwd=tmp_path, check=0)
    (run,) = (tmp_path / "checkpoints").iterdir()
    with open(run / "confusion.csv", newline="") as file:
        assert next(csv.reader(file))[1:] == NAMES
    main("test", f"--test-data-root={batches}", cwd=tmp_path, check=0)
    with open(tmp_path / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(number) for number in range(1, 21)]
    assert {row["label"] for row in rows} <= set(NAMES)


def test_a_folder_of_ones_own_trains_with_one_command(tmp_path, forest):
    options = ["--model=SqueezeNet", "--image-size=32", "--batch-size=8", "--num-workers=2", "--max-epoch=1", NO_SERVER]
    options += ["--resample=mean", "--class-weights", "--cache=device", "--draw-freq=1"]
    done = main("train", "--dataset=ImageFolder", f"--train-data-root={forest}", *options, cwd=tmp_path, check=0)
    assert "packed 29 pictures into packs/ImageFolder_train_37_" in done.stdout
    assert "29 pictures of 37 x 37, 0.1 MB, are held in the memory of cpu" in done.stdout
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
