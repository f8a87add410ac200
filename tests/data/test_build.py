"""What is wrong with a data set's folder is said by the option that names it, and then what is needed."""

import shutil

import pytest
from conftest import FAST, draw_folder, main
from drawn import trees, write_list

import data
from config import DefaultConfig
from data.build import build
from utils import UserError

KAGGLE = "give another, get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, or try .*Demo.*"


def made(dataset, root, mode, **options):
    return build(getattr(data, dataset), root, mode, {**DefaultConfig().values(), "image_size": 32, **options})


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        ("DogCat", f"there is no folder gone: {KAGGLE}"),
        ("Demo", "there is no folder gone: `python main.py train --config=Demo` draws its pictures, if .*"),
        ("ImageFolder", "there is no folder gone: give a folder of pictures"),
        ("ListFile", "there is no file gone: give a text file with lines `path label`"),
        ("MaskFolder", "there is no folder gone: give .*"),
        ("CocoMask", "there is no (file|folder) gone: give a COCO file .*"),
        ("CIFAR10", "gone has no cifar-10-batches-py with batches.meta in it: --download fetches them .*"),
    ],
)
def test_a_missing_root_is_named_by_its_option_and_kaggle_by_dogcat_alone(tmp_path, monkeypatch, dataset, wanted):
    monkeypatch.chdir(tmp_path)
    for mode, options in (("val", {}), ("val", {"val_data_root": ["gone"]}), ("test", {})):
        if options and dataset in ("ImageFolder", "ListFile", "MaskFolder"):  # their classes are those of train
            continue
        option = "test" if mode == "test" else "val" if options else "train"
        root = "there" if options else "gone"
        with pytest.raises(UserError, match=f"^--{option}-data-root: {wanted}$"):
            made(dataset, [root], mode, **options)


def test_a_val_folder_that_is_missing_is_not_mistaken_for_the_training_folder(tmp_path):
    trees(tmp_path / "train", oak=2, ash=2)
    listed = write_list(tmp_path, [f"train/{kind}/{number}.png {kind}" for kind in ("oak", "ash") for number in (0, 1)])
    gone = [tmp_path / "gone"]
    for dataset, root in (("ImageFolder", tmp_path / "train"), ("ListFile", listed)):
        with pytest.raises(UserError, match="^--val-data-root: there is no"):
            made(dataset, [root], "val", val_data_root=gone)
        with pytest.raises(UserError, match="^--train-data-root: there is no"):
            made(dataset, gone, "train", val_data_root=gone)
        with pytest.raises(UserError, match="^--val-data-root: there is no"):
            made(dataset, gone, "val", val_data_root=gone)  # main.py: the training folder is not needed


def test_a_file_in_the_place_of_a_folder_is_said_to_be_one(tmp_path):
    draw_folder(tmp_path, per_class=1)
    write_list(tmp_path, ["cat.0.jpg cat"])
    for dataset in ("DogCat", "ImageFolder", "MaskFolder"):
        with pytest.raises(UserError) as error:
            made(dataset, [tmp_path / "cat.0.jpg"], "test")
        file = f"--test-data-root: {tmp_path / 'cat.0.jpg'} is a file, and a folder is needed: give {tmp_path}"
        assert str(error.value) == file
        with pytest.raises(
            UserError, match=r"list.txt is a file, .* give one; --dataset=ListFile takes lists of pictures"
        ):
            made(dataset, [tmp_path / "list.txt"], "train")


def test_a_folder_without_pictures_is_named_by_its_option(tmp_path):
    (tmp_path / "readme.txt").touch()
    for dataset in ("DogCat", "ImageFolder", "MaskFolder", "CocoMask"):
        with pytest.raises(UserError, match=r"^--test-data-root: no picture .*\(1 other file.*\): give "):
            made(dataset, [tmp_path], "test")


def test_moved_training_data_is_one_line_of_val(trained, tmp_path):
    cwd, run, _ = trained
    shutil.copytree(run, tmp_path / "checkpoints" / run.name)
    model = f"--load-model-path={tmp_path / 'checkpoints' / run.name / 'best.pth'}"
    done = main("val", model, "--train-data-root=moved", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(
        "main.py: --train-data-root: there is no folder moved: give "
    )
    done = main("train", *FAST, f"--config={run / 'config.yaml'}", "--val-data-root=moved", cwd=tmp_path)
    assert done.returncode == 2 and "main.py: --val-data-root: there is no folder moved: give " in done.stderr
