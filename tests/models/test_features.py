"""Pictures for weights that expect another mean and deviation, and a frozen body that looks once at each picture."""

import copy
import gc
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import models
from data import DogCat
from data.pictures.augment import MEAN, STD, normalise
from models import features
from models.backbone import IMAGENET
from utils import UserError
from utils.watch.model_summary import summary


def test_pictures_are_prepared_as_the_weights_expect_them():
    assert IMAGENET == MEAN + STD
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model = models.squeezenet1_1(mean_std=[0.5, 0.4, 0.3, 0.5, 0.2, 0.1]).eval()
    mean, std = torch.tensor([0.5, 0.4, 0.3, 0.5, 0.2, 0.1]).view(2, 1, 3, 1, 1)
    right = model.net((pictures / 255 - mean) / std)
    assert torch.allclose(model(normalise(pictures)), right, atol=1e-5)
    plain, same = models.squeezenet1_1().eval(), models.squeezenet1_1(mean_std=IMAGENET).eval()
    same.load_state_dict(plain.state_dict())
    assert torch.equal(plain(right_input := normalise(pictures)), same(right_input))
    for wrong in ([0.5], [0.5] * 3 + [0.0] * 3):
        with pytest.raises(UserError, match="three means and three deviations are needed"):
            models.squeezenet1_1(mean_std=wrong)


def counted_calls(model):
    seen = []
    model.net.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_a_frozen_body_looks_once_at_each_picture_and_in_every_batch_with_the_same_bits():
    torch.manual_seed(0)
    model = models.resnet18(augment=False)
    model.net.avgpool = nn.Sequential(model.net.avgpool, nn.Dropout(0.5))  # which belongs to the frozen body
    model.freeze_body()
    images, right = torch.randn(3, 3, 32, 32), model.eval()
    with torch.no_grad():
        right = torch.cat([model.net(image) for image in images.split(1)])
    seen = counted_calls(model)
    model.train()
    with torch.inference_mode():
        model(images[:1])  # of a validation: it can be trained on all the same
    score, losses = model.objective(images, torch.tensor([0, 1, 0]))
    losses["loss"].backward()
    assert seen == [1, 1, 1] and torch.allclose(score, right, atol=1e-6)
    assert model.net.fc.weight.grad.abs().sum() > 0 and model.net.layer4[1].bn2.weight.grad is None
    assert torch.equal(model(images[[2, 0]]), score[[2, 0]]) and len(seen) == 3
    images[0, 0, 0, 0] += 1e-6
    model(images)
    assert len(seen) == 4
    model.net.layer1.requires_grad_(True)  # no longer frozen
    model(images)
    assert seen[4:] == [3]
    with torch.no_grad():
        model.net.layer1[0].conv1.weight.add_(1)
    model.freeze_body()
    model.eval()
    with torch.no_grad():
        right = torch.cat([model.net(image) for image in images.split(1)])
    assert torch.allclose(model(images), right, atol=1e-6)  # what was kept is of the body as it was
    other = models.resnet18()
    assert summary(model, images[:1])["flops"] == summary(other, images[:1])["flops"]  # though it is known
    other.freeze_body()
    seen = counted_calls(other)
    other(images), other(images)
    assert seen == [3, 3]  # augmented pictures do not come again


def test_models_with_one_body_look_at_a_picture_once_together_and_others_do_not():
    """As folds are: also where weights are loaded in inference mode, which do not say when they change."""
    torch.manual_seed(1)
    with torch.inference_mode():
        first, second, third = (models.resnet18(augment=False) for _ in range(3))
        second.net.load_state_dict(first.net.state_dict() | {"fc.weight": second.net.fc.weight})
        third.net.load_state_dict(first.net.state_dict())
        third.net.layer4[1].bn2.running_mean += 1  # no weight, but it changes the features
        images, calls = torch.randn(2, 3, 32, 32), []
        for model in (first, second, third):
            model.freeze_body()
            model.eval()
            right = torch.cat([model.net(image) for image in images.split(1)])
            seen = counted_calls(model)
            assert torch.allclose(model(images), right, atol=1e-6)
            calls.append(len(seen))
    assert calls == [2, 0, 2]


def test_a_copy_looks_at_pictures_itself_and_what_is_kept_has_room(monkeypatch):
    """--precision=auto times copies; of bodies that are gone but the newest nothing is kept."""
    torch.manual_seed(2)
    model = models.resnet18(augment=False)
    model.freeze_body()
    model.eval()
    images, right = torch.randn(2, 3, 32, 32), []
    with torch.inference_mode():
        right = model(images)
        other = copy.deepcopy(model)
        seen = counted_calls(other)
        assert torch.allclose(other(images), right, atol=1e-6) and torch.equal(other(images), right) and len(seen) == 2
    row = next(iter(model.seen.rows.values()))
    assert model.seen.rows.nbytes == 2 * row.nbytes == 2 * 4 * 512
    monkeypatch.setattr(features, "ROOM", sum(rows.nbytes for rows in features.BODIES.values()) + 1)
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32))
    assert len(model.seen.rows) == 2
    monkeypatch.undo()
    for _ in range(3):
        model = models.resnet18(augment=False)
        model.freeze_body()
        with torch.inference_mode():
            model.eval()(images)
        gc.collect()
    assert len(features.BODIES) <= 2  # this one, and at most one that another test holds


def test_only_a_body_that_was_never_trained_is_frozen_again():
    for values, frozen in [({"finetune": True}, True), ({"finetune": True, "unfreeze_epoch": 2}, False), ({}, False)]:
        model = models.resnet18()
        model.freeze_as_trained(SimpleNamespace(**{"finetune": False, "unfreeze_epoch": None, **values}))
        assert model.net.conv1.weight.requires_grad is not frozen and model.net.fc.weight.requires_grad


def test_a_network_that_does_something_behind_its_head_is_run_whole():
    torch.manual_seed(0)
    model = models.squeezenet1_1(augment=False)
    model.freeze_body()
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model.net(images)) and not model.seen.usable


def test_without_augmentation_training_pictures_are_those_of_validation(pictures):
    plain = DogCat(pictures, "train", image_size=32, augment=False)
    augmented = DogCat(pictures, "train", image_size=32)
    assert plain.paths == augmented.paths and plain[0][0].shape == (3, 32, 32) and augmented[0][0].shape[1] > 32
    input, target = plain.__getitems__([0, 1])
    assert torch.equal(plain.prepare(input, target, torch.Generator())[0], normalise(input))
    same = DogCat(pictures, "val", image_size=32, val_data_root=pictures)
    assert torch.equal(plain[0][0], same[same.paths.index(plain.paths[0])][0])


def test_a_deep_copy_has_a_network_of_its_own():
    import copy

    model = models.resnet18(augment=False)
    other = copy.deepcopy(model)
    assert other.seen.net is other.net is not model.net and isinstance(other.net, nn.Module)
