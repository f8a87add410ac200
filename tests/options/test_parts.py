"""A model or a data set of one's own that breaks its contract is one line, before anything is read."""

import pytest
from conftest import draw_folder
from torch import nn
from torch.utils.data import Dataset

import data
import main
import models
from data.base import BaseData
from models.basic_module import BasicModule
from utils import UserError


class Plain(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()


class Classless(BasicModule):
    def __init__(self):
        super().__init__()


class Deep(BasicModule):
    def __init__(self, depth, num_classes=2, image_size=224):
        super().__init__()


class Any(BasicModule):
    def __init__(self, **options):
        super().__init__()
        raise ValueError(f"its own error, with {options['num_classes']} classes")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (Plain, "--model=Plain is no BasicModule: make it a class derived from the one of models/basic_module.py"),
        (lambda: Plain(), "--model=<lambda> is no BasicModule: make it a class derived from .*"),
        (
            Classless,
            "--model=Classless: its constructor .* keyword argument 'num_classes': it has to take num_classes; .*",
        ),
        (
            Deep,
            "--model=Deep: its constructor .* a required argument: 'depth': .*a default value, or to be an option .*",
        ),
    ],
)
def test_a_model_that_cannot_be_made_is_one_line_before_any_picture_is_read(monkeypatch, model, line):
    monkeypatch.setattr(models, model.__name__, model, raising=False)
    monkeypatch.setattr(data, "DogCat", None)  # reading it would fail
    options = main.config.load({})
    options.assign(model=model.__name__, dataset="Heart")
    with pytest.raises(UserError, match=f"^{line}$"):
        main.train(options)


def test_an_error_of_the_models_own_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "Any", Any, raising=False)
    draw_folder(tmp_path / "train", per_class=4)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^its own error, with 2 classes$"):
        main.train(model="Any", train_data_root="train", pack=False)


class Alien(Dataset):
    def __init__(self, root, mode, **_):
        raise AssertionError("it is not made")


class Strict(BaseData):
    def __init__(self, root, mode, image_size=224):
        raise AssertionError("it is not made")


class Bare(BaseData):
    """As little as a data set can have."""

    classes = ("left", "right")

    def __init__(self, root, mode, image_size=224, **_):
        self.squares = main.torch.rand(8, 3, image_size, image_size)

    def __len__(self):
        return len(self.squares)

    def __getitem__(self, index):
        return self.squares[index], index % 2


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (Alien, "--dataset=Alien is no BaseData: make it a class derived from the one of data/base.py"),
        (
            Strict,
            r"--dataset=Strict: its constructor cannot be called, .*: it has to take \(root, mode, \*\*_\), because .*",
        ),
        (Bare, "Bare has no method meter: data/base.py says what it has to do"),
    ],
)
def test_a_data_set_that_lacks_something_is_one_line_and_leaves_no_run(tmp_path, monkeypatch, dataset, line):
    monkeypatch.setattr(data, dataset.__name__, dataset, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{line}$"):
        main.train(dataset=dataset.__name__, image_size=32, num_workers=0)
    assert not [*tmp_path.rglob("*.pth"), *tmp_path.glob("checkpoints/*")]


def test_a_data_set_without_write_results_is_one_line_in_test(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "Bare", Bare, raising=False)
    monkeypatch.chdir(tmp_path)
    model = models.SqueezeNet()
    model.info = {"classes": ["left", "right"]}
    path = model.save("squeeze.pth")
    with pytest.raises(UserError, match="^Bare has no method write_results: data/base.py says what it has to do$"):
        main.test(dataset="Bare", load_model_path=path, image_size=32, num_workers=0)
