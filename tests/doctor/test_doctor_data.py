"""`doctor` on data that are broken in one way each: the right line, and no other."""

import pytest
import torch
from patients import Net, Pictures, assert_only, case, unsound

import models
from data.broken import refuse_broken
from utils.doctor import data as data_checks


def leaked(train, val):
    val.pixels[3] = train.pixels[3]


def reencoded(train, val):
    val.pixels[3] = train.pixels[3] + torch.randint(0, 3, (3, 16, 16), dtype=torch.uint8)


def doubled(train, val):
    train.pixels[3] = train.pixels[5]


def contradictory(train, val):
    train.pixels[4] = train.pixels[5]


def constant(train, val):
    train.pixels[4] = 7


def small(train, val):
    train.smaller[4] = 3


def lost(train, val):
    train.targets = [0] * len(train)


def unequal(train, val):
    train.pixels, train.targets = torch.cat([train.pixels, Pictures(40, 5).pixels]), [*train.targets, *[0] * 40]
    train.targets[:24] = [0] * 22 + [1] * 2


def unreadable(train, val):
    train.broken = ["a.jpg (truncated)"]


def many_unreadable(train, val):
    train.broken = ["a.jpg (truncated)"] * 9


@pytest.mark.parametrize(
    ("change", "name", "verdict", "found"),
    [
        (leaked, "train and val", "wrong", "1 sample in both parts, 1 of them the same file: sample 3 of train = "),
        (reencoded, "train and val", "look", "1 sample in both parts, 0 of them the same file: sample 3 of train ~ "),
        (doubled, "duplicates", "look", "twice in a part: sample 3 of train = sample 5 of train"),
        (
            contradictory,
            "labels of the same",
            "wrong",
            "the same with two labels: sample 4 of train = sample 5",
        ),
        (constant, "constant pictures", "look", "one color: sample 4 of train"),
        (small, "tiny pictures", "look", "far below the usual 16 pixels: sample 4 of train (3 pixels)"),
        (lost, "classes", "look", "never seen: blue"),
        (unequal, "class balance", "look", "62 of class 0, 2 of class 1"),
        (unreadable, "readable", "look", "1 sample left out: a.jpg (truncated)"),
        (many_unreadable, "readable", "wrong", "9 of 45 samples cannot be used, which is more than 5 %"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_data_get_their_line_and_no_other(change, name, verdict, found):
    broken = case()
    change(broken.train_data, broken.val_data)
    lines = unsound(data_checks.check(broken, refuse_broken))
    assert [(one.name, one.verdict) for one in lines] == [(name, verdict)], lines
    assert lines[0].found.startswith(found), lines


class Masks(Pictures):
    task = "segmentation"
    classes = ("ground", "edge", "thing")
    hard = True

    def __init__(self, count, seed):
        super().__init__(count, seed)
        self.targets = None

    def __getitem__(self, index):
        mask = torch.zeros(16, 16, dtype=torch.uint8)
        mask[4:10, 5:12] = 2
        mask[12:15, 2:6] = 1 if self.hard else 0
        if not self.hard:
            mask[4:10, 4] = mask[4:10, 12] = mask[3, 5:12] = mask[10, 5:12] = 1
        return self.pixels[index], mask


def test_a_class_of_masks_that_is_only_an_edge_or_never_occurs_is_named():
    masks = case()
    masks.train_data, masks.val_data = Masks(6, 1), Masks(4, 2)
    assert unsound(data_checks.check(masks, refuse_broken)) == []
    masks.train_data.hard = masks.val_data.hard = False
    lines = list(data_checks.check(masks, refuse_broken))
    assert_only(lines, "values of masks", "look", "mostly on edges, between two other classes: class 1")
    masks.train_data.hard = masks.val_data.hard = True
    masks.train_data.classes = (*Masks.classes, "sky")
    assert_only(data_checks.check(masks, refuse_broken), "classes", "look", "never seen: sky")


class Sure(Net):
    """Knows red from blue, with certainty."""

    def forward(self, x):
        return (x[:, [0, 2]].mean(dim=(2, 3)) * 40) + 0 * self.classifier(self.body(x))


def test_a_label_that_a_good_model_contradicts_is_named():
    swapped = case(Sure(), start={"weights": {}})
    assert unsound(data_checks.check(swapped, refuse_broken)) == []
    swapped.val_data.targets[5] = 0
    found = "contradicted by the model: sample 5 of val (red, not blue?)"
    assert_only(data_checks.check(swapped, refuse_broken), "labels", "look", found)
    swapped.val_data.targets = swapped.val_data.targets[::-1]  # then it is the model that may be wrong
    assert unsound(data_checks.check(swapped, refuse_broken)) == []


def test_a_large_set_is_sampled_the_same_way_every_time(monkeypatch):
    monkeypatch.setattr(data_checks, "MOST", 5)
    line = list(data_checks.check(case(), refuse_broken))[1]
    assert line.found == "5 of 24 train samples, 5 of 12 val samples, drawn with --seed=0"
    assert data_checks.chosen(24, 0) == data_checks.chosen(24, 0) != data_checks.chosen(24, 1)


def test_the_labels_are_looked_at_through_a_frozen_body_that_keeps_what_it_has_seen():
    """Its features are found by the versions of its weights, which a copy made for inference alone would not have."""
    model = models.resnet18(num_classes=2, augment=False)
    model.freeze_body()
    found = data_checks.check(case(model, start={"weights": {}}), refuse_broken)
    assert [one.found for one in found if one.name == "labels"][0].startswith("not looked at: the model is right about")
