"""Models: shapes, parameter groups, fine-tuning, and the book's save and load."""

import os
import time

import pytest
import torch
from harmful import Harm
from torch import nn

import models
from config import DefaultConfig
from models.basic_module import BasicModule
from models.submodules import Dropout
from utils import UserError
from utils.options.kinds import height_width
from utils.options.names import imported_names
from utils.run.checkpoint_file import read_checkpoint

MODELS = imported_names("models")
CLASSIFIERS = [name for name in MODELS if getattr(models, name).task == "classification"]


class Tiny(BasicModule):
    """Small and with everything that parameter groups tell apart."""

    head = "classifier"

    def __init__(self, num_classes=2):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.classifier(self.body(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_scores_and_probabilities_have_a_column_per_class(name, num_classes):
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=num_classes)
    input, target = torch.randn(2, 3, 96, 96), torch.tensor([0, num_classes - 1])
    score, losses = model.objective(input, target)
    assert score.shape == (2, num_classes) and losses["loss"].isfinite() and losses["loss"].shape == ()
    probability = model.eval().predict(input)
    assert probability.shape == (2, num_classes)
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(2))
    assert model.eval().predict(input[:1]).shape == (1, num_classes)  # a last batch of one


def test_pictures_too_small_for_alexnet_are_one_line():
    with pytest.raises(UserError, match="not 32x32: give --image-size=64"):
        models.AlexNet().eval()(torch.randn(1, 3, 32, 32))


def test_the_books_way_of_making_a_model():
    opt = DefaultConfig()
    model = getattr(models, opt.model)()
    assert isinstance(model, BasicModule) and model.model_name == opt.model


def test_resnet34_has_the_papers_parameters():
    assert sum(p.numel() for p in models.ResNet34(num_classes=1000).parameters()) == 21_797_672


@pytest.mark.parametrize(("size", "stride"), [(32, 16), ("40x24", 16), (64, 32), (128, 32)])
def test_resnet9_keeps_the_resolution_of_small_pictures_and_its_shortcuts_begin_as_the_identity(size, stride):
    torch.manual_seed(0)
    model, seen = models.ResNet9(num_classes=3, image_size=size, width=0.25).eval(), {}
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[-1].register_forward_hook(lambda block, inputs, output: seen.update({block: (inputs[0], output)}))
    height, width = height_width(size)
    assert model(torch.randn(2, 3, height, width)).shape == (2, 3)
    assert all(torch.equal(before, after) for before, after in seen.values()) and len(seen) == 3
    assert after_last(seen).shape == (2, 128, height // stride, width // stride)
    wide = models.ResNet9(num_classes=3, image_size=size, width=0.5)
    counts = [sum(p.numel() for p in one.parameters()) for one in (model, wide)]
    assert counts[0] < 0.3 * counts[1] and counts[1] == 1_943_955


def after_last(seen):
    return [*seen.values()][-1][1]


def test_squeezenet_can_give_negative_scores():
    """The original ends in a ReLU, which can leave a class at 0 with no gradient."""
    torch.manual_seed(0)
    assert (models.SqueezeNet().eval()(torch.randn(4, 3, 64, 64)) < 0).any()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_weights_decay_and_biases_and_norms_do_not(name):
    model = Tiny()
    decayed, plain = model.get_optimizer(name, lr=0.1, weight_decay=0.01, momentum=0.8).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model.body[0].weight), id(model.classifier.weight)}
    assert len(plain["params"]) == 4 and (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert decayed.get("momentum", decayed.get("betas", (None,))[0]) == 0.8


def test_fine_tuning_changes_the_head_only_and_keeps_the_bodys_statistics():
    torch.manual_seed(0)
    model = Tiny()
    model.freeze_body()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = model.get_optimizer("SGD", lr=1.0, weight_decay=0.1, momentum=0.0)
    model.train()
    score, losses = model.objective(torch.randn(8, 3, 8, 8), torch.arange(8) % 2)
    losses["loss"].backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_frozen_model_within_a_model_stays_as_it_is():
    class Pair(BasicModule):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = Tiny().requires_grad_(False), Tiny()

    pair = Pair().train()
    assert pair.student.body.training and not any(module.training for module in pair.teacher.modules())
    assert not pair.requires_grad_(False).train().training


def test_a_checkpoint_that_gives_too_little_of_a_model_is_refused(tmp_path, capsys):
    path = models.resnet18().save(tmp_path / "small.pth")
    large = models.resnet34(num_classes=3)
    with pytest.raises(UserError, match="a resnet18, has only 120 of the 216 weights that resnet34 has besides"):
        large.load(path, partly=True)
    capsys.readouterr()
    large.load(path, partly=True, least=0.0)
    said = capsys.readouterr().out.splitlines()
    assert "120 of 122 weights taken; dropped: net.fc.weight, net.fc.bias; at their initial" in said[0]
    assert said[0].endswith(", ... and 90 more")


def test_a_body_can_be_loaded_without_the_head_of_other_classes(tmp_path, capsys):
    torch.manual_seed(0)
    old, new = Tiny(num_classes=5), Tiny(num_classes=2)
    head = new.classifier.weight.clone()
    path = old.save(tmp_path / "five.pth")
    with pytest.raises(UserError, match="does not fit"):
        new.load(path)
    new.load(path, partly=True)
    assert torch.equal(new.body[0].weight, old.body[0].weight) and torch.equal(new.classifier.weight, head)
    said = capsys.readouterr().out.splitlines()
    head_names = "classifier.weight, classifier.bias"
    assert said[0].endswith(f"7 of 9 weights taken; dropped: {head_names}; at their initial values: {head_names}")
    same = Tiny(num_classes=5)
    same.load(path, partly=True)
    assert torch.equal(same.classifier.weight, old.classifier.weight)  # it fits: nothing is left out
    assert capsys.readouterr().out == ""
    old.info, same.info = {"classes": list("abcde")}, {"classes": list("vwxyz")}
    same.load(old.save(tmp_path / "named.pth"), partly=True)
    assert capsys.readouterr().out.endswith("the head too, though its classes were a, b, c, d, e\n")


def test_a_model_that_names_no_head_cannot_be_fine_tuned():
    class Headless(Tiny):
        head = ""

    with pytest.raises(UserError, match="Headless has no head to fine-tune"):
        Headless().freeze_body()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_head_to_fine_tune(name):
    model = getattr(models, name)()
    model.freeze_body()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < trainable < sum(p.numel() for p in model.parameters())


def test_save_without_a_name_writes_the_books_file_and_never_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda pattern: pattern.replace("%m%d_%H_%M_%S", "0824_17_12_48"))
    model = Tiny()
    assert model.save() == os.path.join("checkpoints", "Tiny_0824_17_12_48.pth")
    assert model.save() == os.path.join("checkpoints", "Tiny_0824_17_12_48_2.pth")  # the same second
    assert sorted(os.listdir("checkpoints")) == ["Tiny_0824_17_12_48.pth", "Tiny_0824_17_12_48_2.pth"]


def test_load_brings_back_what_save_wrote(tmp_path):
    model, other = Tiny(), Tiny()
    model.info = {"classes": ["cat", "dog"]}
    content = other.load(model.save(tmp_path / "a.pth", metrics={"loss": 0.5}))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert content["info"] == model.info and content["metrics"] == {"loss": 0.5} and content["model"] == "Tiny"


def test_load_takes_a_plain_state_dict_also_of_a_parallel_model(tmp_path):
    model, other = Tiny(), Tiny()
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "plain.pth")
    other.load(tmp_path / "plain.pth")
    assert torch.equal(model.classifier.weight, other.classifier.weight)


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    model = Tiny()
    path = tmp_path / "a.pth"
    model.save(path)
    old = path.read_bytes()

    def fails(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError):
        model.save(path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a.pth"]


def test_bad_checkpoints_are_refused_in_one_line_and_run_no_code(tmp_path):
    good = Tiny()
    good.save(tmp_path / "good.pth")
    whole = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save(Harm(os.system, f"touch {tmp_path / 'owned'}"), tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    models.SqueezeNet().save(tmp_path / "other.pth")
    Tiny(num_classes=5).save(tmp_path / "classes.pth")
    torch.save({"weights": {"strange": torch.ones(1)}}, tmp_path / "strange.pth")
    torch.save({"weights": {"classifier.weight": 1}}, tmp_path / "number.pth")
    torch.save({0: torch.ones(1)}, tmp_path / "numbered.pth")
    expected = {
        "missing.pth": "No such file",
        "cut.pth": "not a whole checkpoint",
        "empty.pth": "not a whole checkpoint",
        "text.pth": "not a whole checkpoint",
        "evil.pth": "is refused: to read it means to run posix.system,",
        "list.pth": "holds no weights",
        "number.pth": "holds no weights",
        "numbered.pth": "holds no weights",
        "other.pth": "holds a SqueezeNet, not a Tiny: give --model=SqueezeNet",
        "classes.pth": "does not fit Tiny: weights are missing, unknown or of another shape, 2 in all; the first is",
        "strange.pth": "does not fit Tiny",
        ".": "cannot be read",
    }
    before = {name: value.clone() for name, value in good.state_dict().items()}
    for name, message in expected.items():
        with pytest.raises(UserError) as error:
            good.load(tmp_path / name)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()
    assert all(torch.equal(value, before[name]) for name, value in good.state_dict().items())


def test_read_checkpoint_needs_no_model(tmp_path):
    Tiny().save(tmp_path / "a.pth", epoch=3)
    assert read_checkpoint(tmp_path / "a.pth")["epoch"] == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_dropout_is_torchs_but_for_the_numbers_that_it_draws(p, layout):
    layer = Dropout(p)
    input = torch.rand(8, 37, 13, 11).add(1).to(memory_format=layout).requires_grad_()
    torch.manual_seed(0)
    output = layer(input)
    (share,) = set((output / input).detach()[output != 0].mul(1000).round().tolist())
    assert share == round(1000 / (1 - p))  # the mean stays
    dropped = output == 0
    assert dropped.float().mean().item() == pytest.approx(p, abs=0.01)
    for axis in range(4):  # nowhere more than elsewhere, and no two alike
        parts = [part.float() for part in dropped.unbind(axis)]
        assert all(part.mean().item() == pytest.approx(p, abs=0.06) for part in parts)
        assert all(not torch.equal(part, parts[0]) for part in parts[1:])
    output.sum().backward()
    assert torch.equal(input.grad == 0, dropped)
    torch.manual_seed(0)
    assert torch.equal(layer(input), output)
    assert torch.equal(layer.eval()(input), input)
