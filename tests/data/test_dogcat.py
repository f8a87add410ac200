"""DogCat: names, split, broken pictures, results, and augmentation drawn on the whole batch."""

import csv
import shutil

import numpy as np
import pytest
import torch
from conftest import draw, draw_folder
from picture_kinds import REASONS, broken_kinds
from PIL import Image
from torchvision.transforms import functional as F

from data import DogCat
from data.broken import refuse_broken
from data.pictures.augment import MEAN, STD
from utils import UserError
from utils.train.seeds import generator


def test_70_to_30_split_with_the_share_of_each_class_and_no_overlap(pictures):
    train, val = DogCat(pictures, "train"), DogCat(pictures, "val")
    assert (len(train), len(val)) == (28, 12)
    assert (sum(train.targets), sum(val.targets)) == (14, 6)
    assert not set(train.paths) & set(val.paths)
    assert all(target == path.name.startswith("dog") for path, target in zip(train.paths, train.targets, strict=True))
    assert train.classes == ("cat", "dog")


def test_uneven_numbering_does_not_leave_the_validation_set_with_one_class(tmp_path):
    for number in range(10):
        draw(tmp_path / f"cat.{number}.jpg", "cat", number)
        draw(tmp_path / f"dog.{1000 + number}.jpg", "dog", number)
    assert sorted(DogCat(tmp_path, "val").targets) == [0, 0, 0, 1, 1, 1]


def test_the_split_depends_on_names_alone_and_new_cats_move_no_dog(tmp_path, pictures):
    moved = tmp_path / "dogs everywhere"  # 'dog' in the folder's name must not label anything
    shutil.copytree(pictures, moved)
    names = lambda data, kind: {path.name for path in data.paths if path.name.startswith(kind)}  # noqa: E731
    before = DogCat(pictures, "val")
    assert names(DogCat(moved, "val"), "") == names(before, "")
    for number in range(100, 110):
        draw(moved / f"cat.{number}.jpg", "cat", number)
    after = DogCat(moved, "val")
    assert names(after, "dog") == names(before, "dog") and len(names(after, "cat")) == 9


def test_several_folders_count_as_one(tmp_path, pictures):
    more = draw_folder(tmp_path / "more", per_class=10)
    assert len(DogCat([str(pictures), str(more)], "train")) + len(DogCat([pictures, more], "val")) == 60


def test_test_mode_gives_ids_in_numerical_order(unlabelled):
    data = DogCat(unlabelled, "test", image_size=32)
    assert [data[index][1] for index in range(len(data))] == list(range(1, 13))


def test_a_val_item_is_the_same_every_time_and_prepared_to_3_224_224(pictures):
    data = DogCat(pictures, "val")
    first, second = data[0][0], data[0][0]
    assert torch.equal(first, second) and first.shape == (3, 224, 224) and first.dtype == torch.uint8
    input, target = data.prepare(first[None], torch.tensor([1]), None)
    assert input.shape == (1, 3, 224, 224) and input.dtype == torch.float32 and target.tolist() == [1]
    expected = F.normalize(first / 255, MEAN, STD)
    torch.testing.assert_close(input[0], expected)


def test_a_val_item_is_torchvisions_resize_and_center_crop(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).resize((600, 400))
    for kind in ("cat", "dog"):
        for number in range(2):
            picture.save(tmp_path / f"{kind}.{number}.png.jpg", format="PNG")  # ignored: not <class>.<num>.jpg
            picture.save(tmp_path / f"{kind}.{number}.jpg", format="PNG")  # the name says jpg, the content is a PNG
    item = DogCat(tmp_path, "val", image_size=112)[0][0]
    expected = F.center_crop(F.pil_to_tensor(F.resize(picture, 112)), 112)
    assert (item.int() - expected.int()).abs().float().mean() < 2.0


def test_a_train_item_is_the_whole_picture_and_prepare_crops_it(pictures):
    data = DogCat(pictures, "train", image_size=112)
    item, _ = data[0]
    assert item.shape == (3, 128, 128)
    input, _ = data.prepare(torch.stack([item] * 4), torch.zeros(4), generator(0, 0, "cpu"))
    assert input.shape == (4, 3, 112, 112)


def test_augmentation_is_a_function_of_its_generator_with_one_draw_per_image(pictures):
    data = DogCat(pictures, "train", image_size=64, noise=0.1)
    batch = torch.stack([data[0][0]] * 8)
    draw = lambda step: data.prepare(batch, torch.zeros(8), generator(1, step, "cpu"))[0]  # noqa: E731
    assert torch.equal(draw(5), draw(5)) and not torch.equal(draw(5), draw(6))
    images = draw(5)
    assert all(not torch.equal(images[0], image) for image in images[1:])


def test_broken_pictures_are_left_out_and_listed_with_the_reason(tmp_path, capsys):
    draw_folder(tmp_path, per_class=50)
    names = ["cat.500.jpg", "cat.501.jpg", "dog.500.jpg", "dog.501.jpg"]
    broken_kinds(tmp_path, names)
    train, val = DogCat(tmp_path, "train", image_size=32), DogCat(tmp_path, "val", image_size=32)
    for line, name, why in zip(sorted(train.broken + val.broken), names, REASONS, strict=True):
        assert line.startswith(f"{tmp_path / name} ({why}") and line.count(name) == 1 and "\n" not in line
    assert len(train) + len(val) == 100
    capsys.readouterr()
    refuse_broken(train, val)  # 4 of 104 are less than 5 %
    assert capsys.readouterr().out == ""
    refuse_broken(train, DogCat(tmp_path, "val", val_data_root=tmp_path, image_size=32))
    assert f"note: {len(train)} samples of 100 to validate on are trained on, too, the first is " in (
        capsys.readouterr().out
    )


def test_more_than_5_percent_broken_is_an_error(tmp_path):
    draw_folder(tmp_path, per_class=30)
    broken_kinds(tmp_path, ["cat.500.jpg", "cat.501.jpg", "dog.500.jpg", "dog.501.jpg"])
    with pytest.raises(UserError, match=r"4 of 64 samples cannot be used, .* the first is .*\.jpg \(.*\): repair or"):
        refuse_broken(DogCat(tmp_path, "train"), DogCat(tmp_path, "val"))


def test_other_files_are_passed_over_and_counted(tmp_path, capsys):
    draw_folder(tmp_path, per_class=4)
    for name in ("Thumbs.db", "cat.x.jpg", "dogs.1.jpg", "bird.1.jpg", "1.jpg", "cat.jpg"):
        (tmp_path / name).write_text("stray")
    (tmp_path / "cat.77.jpg").mkdir()
    assert len(DogCat(tmp_path, "train")) == 6
    said = capsys.readouterr().err
    assert f"warning: ignoring 5 files in {tmp_path}, not named cat.<num>.jpg or dog.<num>.jpg, say: " in said


@pytest.mark.parametrize(
    ("files", "mode", "message"),
    [
        ([], "train", "no picture named cat.<num>.jpg or dog.<num>.jpg"),
        ([], "test", "no picture named <num>.jpg"),
        (["cat.0.jpg", "cat.1.jpg"], "train", "0 pictures of dog"),
        (["cat.0.jpg", "cat.1.jpg", "dog.1.jpg"], "val", "1 picture of dog: every class needs 2, one to train on"),
        (["a.jpg"], "test", "(1 other file: a.jpg)"),
        (["cat.0.jpg"], "test", "cat.0.jpg; `val` measures those with labels, `predict` takes any)"),
        (["7.jpg", "07.jpeg"], "test", "have the same id, 7: rename or remove one"),
        (["test1/7.jpg"], "test", "(0 other files; {}/test1 has some: give that)"),
        (["test1/a.jpg"], "test", "(0 other files; folders per class, as test1, are for --dataset=ImageFolder)"),
        (["in/DOG.1.jpg"], "train", "(0 other files; {}/in has some: give that)"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_named(tmp_path, files, mode, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw(tmp_path / name, name[:3], 0)
    with pytest.raises(UserError) as error:
        DogCat(tmp_path, mode)
    assert message.replace("{}", str(tmp_path)) in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match=rf"there is no folder {tmp_path}x \(did you mean {tmp_path.name}.*\?\): give"):
        DogCat(f"{tmp_path}x", mode)


def test_pictures_of_every_suffix_count_and_what_is_ignored_is_named(tmp_path, capsys):
    for name in ("1.jpg", "43.png", "5.BMP", "x.png", "6.txt"):
        draw(tmp_path / "new.png", "cat", 0)
        (tmp_path / "new.png").rename(tmp_path / name)
    assert DogCat(tmp_path, "test", image_size=32).targets == [1, 5, 43]
    said = capsys.readouterr().err
    assert said == f"warning: ignoring 2 files in {tmp_path}, not named <num>.jpg, say: 6.txt, x.png\n"


def test_results_are_kaggles_csv(tmp_path, unlabelled):
    shutil.copytree(unlabelled, tmp_path / "test1")
    (tmp_path / "test1" / "100.jpg").write_bytes(b"broken")
    (tmp_path / "test1" / "013.jpg").write_bytes(b"")
    data = DogCat(tmp_path / "test1", "test", image_size=32)
    dog = torch.linspace(0, 1, 12)  # 0 and 1 themselves included
    predictions = torch.stack([1 - dog, dog], dim=1)
    batches = [(list(range(1, 9)), predictions[:8]), (list(range(9, 13)), predictions[8:])]
    data.write_results(tmp_path / "result.csv", iter(batches))
    assert (tmp_path / "result.csv").read_bytes().startswith(b"id,label\r\n1,0.000001\r\n")
    with open(tmp_path / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [*range(1, 14), 100]
    assert all(0 < float(row["label"]) < 1 for row in rows)
    assert float(rows[12]["label"]) == float(rows[13]["label"]) == 0.5
