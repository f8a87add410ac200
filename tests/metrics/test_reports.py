"""What a validation of a classifier says about itself, against scikit-learn on the raw numbers; activation maps."""

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from runs import measures
from sklearn import metrics
from torch import nn
from toy_data import Points, Squares

from models import ResNet34
from models.mlp import MLP
from utils import UserError
from utils.metrics import plots, report
from utils.metrics.cam import class_activation_maps, draw, overlay
from utils.metrics.class_meter import ClassMeter
from utils.metrics.meters import write_report

pytestmark = pytest.mark.filterwarnings("error")


def classified(k, n=600, seed=0):
    """Probabilities float32 [n, k] of a middling classifier that is sure of itself, and int64 classes [n]."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, k, (n,), generator=generator)
    score = 4 * torch.randn(n, k, generator=generator) + 5 * nn.functional.one_hot(target, k)
    return score.softmax(dim=1), target


def filled(probabilities, target, picture=None, batch=64):
    meter = ClassMeter([f"class {c}" for c in range(probabilities.shape[1])], picture)
    for part in zip(probabilities.split(batch), target.split(batch), strict=True):
        meter.add(*part)
    return meter


def table(path):
    """{first column: {name: value}} of a CSV of numbers."""
    with open(path, newline="") as file:
        return {row.pop("class"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}


def size(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def figures(monkeypatch):
    """{file name: Figure} of what is drawn, and it is drawn."""
    drawn = {}
    save = plots.save

    def keep(figure, path):
        drawn[path.name] = figure
        save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    monkeypatch.setattr(report, "save", keep)
    return drawn


def legend(figure):
    """{what stands in a figure's legend: its line}"""
    (box,), (axes,) = figure.legends, figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    return {text.get_text(): lines[text.get_text()] for text in box.get_texts()}


@pytest.mark.parametrize("k", [2, 7, 120])
def test_every_number_of_the_report_is_scikit_learns_on_the_raw_probabilities(tmp_path, k):
    p, target = classified(k, n=2000)
    meter = filled(p, target)
    write_report(meter, {"val_loss": 0.5}, tmp_path)
    y, label, one_hot = target.numpy(), p.argmax(dim=1).numpy(), np.eye(k)[target]
    rows, means = table(tmp_path / "report.csv"), measures(tmp_path)

    assert means["val_loss"] == 0.5 and means["accuracy"] == pytest.approx(100 * metrics.accuracy_score(y, label))
    assert meter.summary()["accuracy"] == pytest.approx(means["accuracy"])
    assert ("top5" in means) == ("top5" in meter.summary()) == (k > 5)
    if k > 5:
        assert means["top5"] == pytest.approx(100 * metrics.top_k_accuracy_score(y, p.numpy(), k=5))

    exact = np.transpose(metrics.precision_recall_fscore_support(y, label, zero_division=0))
    auc = metrics.roc_auc_score(one_hot, p.numpy(), average=None)
    ap = metrics.average_precision_score(one_hot, p.numpy(), average=None)
    for c in range(k):
        row = rows[f"class {c}"]
        assert [row[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(exact[c])
        assert row["roc_auc"] == pytest.approx(auc[c], abs=1e-3)
        # A few samples rest on a few ranks: one tie in a bin may cost the share of one of them.
        assert row["average_precision"] == pytest.approx(
            ap[c], abs=1e-3 if row["support"] >= 100 else 1 / row["support"]
        )
    for kind in ("macro", "weighted"):
        exact = metrics.precision_recall_fscore_support(y, label, average=kind, zero_division=0)[:3]
        areas = [f(one_hot, p.numpy(), average=kind) for f in (metrics.roc_auc_score, metrics.average_precision_score)]
        names = ("precision", "recall", "f1", "roc_auc", "average_precision")
        assert [means[f"{kind}_{name}"] for name in names[:3]] == pytest.approx(exact)
        assert [means[f"{kind}_{name}"] for name in names[3:]] == pytest.approx(areas, abs=1e-3)
        assert [rows[kind][name] for name in names] == [means[f"{kind}_{name}"] for name in names]
        assert rows[kind]["support"] == 2000
    for name in ("confusion", "roc", "pr", "threshold"):
        assert min(size(tmp_path / f"{name}.png")) > 300
    assert not (tmp_path / "mistakes.png").exists()


def test_accuracy_by_threshold_counts_as_by_hand():
    p = torch.tensor([0.0, 1e-6, 0.1, 0.4999, 0.5, 0.5, 0.9, 1.0])
    target = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    own, rest, edges = filled(torch.stack([1 - p, p], dim=1), target).histograms()
    accuracy = report.accuracy_by_threshold(own, rest)
    for t, values in zip(edges, accuracy.T, strict=True):
        if not np.isclose(t, p.numpy(), rtol=0.02, atol=1e-7).any() or t in (0, 0.5):  # elsewhere t may part a bin
            assert values[1] == np.mean((p.numpy() >= t) == target.numpy()), t
    assert 0.5 in edges and accuracy[1, edges.tolist().index(0.5)] == 6 / 8
    assert accuracy[1, 0] == 4 / 8  # all are called 1
    assert accuracy[1].max() == 7 / 8


def test_the_most_confident_mistakes_are_kept_in_order_and_drawn(tmp_path, figures):
    p, target = classified(3)
    asked = []

    def picture(index):
        asked.append(index)
        return torch.full((3, 20, 30), index % 256, dtype=torch.uint8), f"folder/{index}.jpg"

    meter = filled(p, target, picture)
    confidence, label = p.max(dim=1)
    wrong = [i for i in confidence.argsort(descending=True).tolist() if label[i] != target[i]][:16]
    assert len(wrong) == 16
    expected = [(i, target[i].item(), label[i].item(), confidence[i].item()) for i in wrong]
    assert meter.mistakes() == expected
    meter.report(tmp_path)
    assert asked == wrong and min(size(tmp_path / "mistakes.png")) > 300
    texts = [text.get_text() for text in figures["mistakes.png"].axes[0].texts]
    title, first, caption = texts[-1], texts[0], texts[1]
    assert title == f"Mistakes, the highest probability first: 16 of {(label != target).sum()}"
    assert first == f"true: class {expected[0][1]}\npredicted: class {expected[0][2]}"
    assert caption == f"{100 * expected[0][3]:.1f} %, folder/{wrong[0]}.jpg"
    with open(tmp_path / "mistakes.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert first["true"] == f"class {expected[0][1]}" and first["index"] == str(wrong[0])

    perfect = filled(torch.eye(3), torch.arange(3), picture)
    perfect.report(tmp_path)
    assert perfect.mistakes() == [] and not (tmp_path / "mistakes.png").exists()
    filled(p[wrong[:2]], target[wrong[:2]], picture).report(tmp_path)
    assert (tmp_path / "mistakes.png").exists()


def test_classes_that_are_missing_or_alone_have_no_numbers_and_no_warnings(tmp_path):
    p, target = classified(4)
    target[target == 2] = 1
    p[:, 3] = 0  # never predicted
    filled(p, target).report(tmp_path)
    rows = table(tmp_path / "report.csv")
    missing = rows["class 2"]
    assert missing.pop("support") == 0 and np.isnan(list(missing.values())).all()
    assert not np.isnan([*rows["class 1"].values(), *rows["macro"].values(), *rows["weighted"].values()]).any()
    for name in ("precision", "recall", "f1"):
        assert rows["class 3"][name] == 0
        assert rows["macro"][name] == pytest.approx(np.mean([rows[f"class {c}"][name] for c in (0, 1, 3)]))

    alone = tmp_path / "alone"
    alone.mkdir()
    filled(p, torch.ones_like(target)).report(alone)
    rows = table(alone / "report.csv")
    assert rows["class 1"]["precision"] == 1 and np.isnan(rows["class 1"]["roc_auc"])
    assert np.isnan(rows["macro"]["average_precision"]) and not (alone / "roc.png").exists()


def test_nothing_and_nonsense_are_measured_too(tmp_path):
    meter = ClassMeter([f"class {c}" for c in range(6)])
    assert list(meter.summary()) == ["accuracy", "top5"] and np.isnan(list(meter.summary().values())).all()
    meter.report(tmp_path)
    assert meter.mistakes() == []
    meter.add(torch.full((3, 6), torch.nan), torch.tensor([0, 1, 5]))
    assert meter.summary() == {"accuracy": 0.0, "top5": 0.0}
    meter.report(tmp_path)
    assert len(meter.mistakes()) == 2


def test_a_validation_continues_from_its_state_in_constant_memory(tmp_path):
    p, target = classified(9)
    whole, half = filled(p, target), filled(p[:300], target[:300])
    torch.save(half.state_dict(), tmp_path / "state.pth")
    assert (tmp_path / "state.pth").stat().st_size < 4e6
    resumed = ClassMeter(whole.classes)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    resumed.add(p[300:], target[300:])
    for name, value in whole.state_dict()["sums"].items():
        assert torch.equal(value, resumed.state_dict()["sums"][name]), name
    assert resumed.mistakes() == whole.mistakes() and (resumed.value() == whole.value()).all()
    resumed.reset()
    assert np.isnan(resumed.summary()["top5"]) and resumed.mistakes() == []


@pytest.mark.parametrize("k", [30, 300])
def test_a_confusion_matrix_of_many_classes_stays_a_picture(tmp_path, figures, k):
    matrix = np.diag(np.arange(k)) + np.eye(k, k=1, dtype=int)
    matrix[0, k - 1] = 1
    plots.confusion(matrix, [rf"$\dollars$ {c}, a name that is long" for c in range(k)], tmp_path)
    axes = figures["confusion.png"].axes[0]
    assert max(size(tmp_path / "confusion.png")) < 1500
    assert not axes.texts and 15 <= len(axes.get_xticks()) <= 40
    drawn = axes.images[0].get_array()
    assert len(drawn) <= 250 and drawn[0, -1] == 0.5  # half of the samples of class 0; a block keeps its darkest cell
    with open(tmp_path / "confusion.csv", newline="") as file:
        assert [list(map(int, row[1:])) for row in list(csv.reader(file))[1:]] == matrix.tolist()


def test_a_cell_of_a_confusion_matrix_has_its_count_and_its_share_of_the_true_class(tmp_path, figures):
    plots.confusion(np.array([[1_000_000, 3_000_000], [0, 1500]]), ["oak", "ash"], tmp_path)  # pixels are many
    axes = figures["confusion.png"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.0M\n25 %", "3.0M\n75 %", "0", "1,500\n100 %"]
    assert axes.get_title(loc="left") == "1.0M of 4.0M right, 25.03 %"


def test_of_two_classes_one_curve_is_drawn_and_what_chance_would_be(tmp_path, figures):
    p, target = classified(2, n=400)
    target[:100] = 0
    filled(p, target).report(tmp_path)
    share, row = target.float().mean().item(), table(tmp_path / "report.csv")["class 1"]
    for name, area in (("roc.png", row["roc_auc"]), ("pr.png", row["average_precision"])):
        first, chance = legend(figures[name])
        assert first == f"{area:.4f}  class 1" and chance.startswith("chance")
        assert figures[name].axes[0].get_title(loc="left").endswith(": class 1 against class 0")
    assert legend(figures["roc.png"])["chance"].get_ydata().tolist() == [0, 1]
    assert legend(figures["pr.png"])["chance: the class's share"].get_ydata() == pytest.approx([share, share])
    accuracy = legend(figures["threshold.png"])
    assert accuracy["always the same answer"].get_ydata() == pytest.approx([1 - share, 1 - share])
    x, y = next(iter(accuracy.values())).get_data()
    assert y[np.argmin(abs(x - 0.5))] == pytest.approx(((p[:, 1] >= 0.5) == (target == 1)).float().mean().item())


def test_the_mean_of_accuracies_is_the_best_that_one_threshold_gives_all_classes(tmp_path, figures):
    p, target = classified(3, n=300)
    p[:, 0] /= 4  # so that its best threshold is another one than the other classes'
    p /= p.sum(dim=1, keepdim=True)
    filled(p, target).report(tmp_path)
    (text,) = [text for text in legend(figures["threshold.png"]) if text.endswith("mean of 3 classes")]
    value, threshold = re.fullmatch(r"(0\.\d+)  at ([\d.e-]+): mean of 3 classes", text).groups()
    right = [((p >= t) == (target[:, None] == torch.arange(3))).float().mean().item() for t in np.linspace(0, 1, 2001)]
    assert float(value) == pytest.approx(max(right), abs=2e-3)
    assert ((p >= float(threshold)) == (target[:, None] == torch.arange(3))).float().mean() > max(right) - 0.02
    curve = legend(figures["threshold.png"])[text].get_ydata()
    assert curve.max() == pytest.approx(float(value), abs=1e-4)


@pytest.mark.parametrize("k, shown", [(9, 9), (120, 10)])
def test_a_class_looks_the_same_in_every_picture_and_no_two_are_alike(tmp_path, figures, k, shown):
    filled(*classified(k, n=2000)).report(tmp_path)
    looks = []
    for name in ("roc.png", "pr.png", "threshold.png"):
        lines = {text.split("  ")[-1].split(": ")[-1]: line for text, line in legend(figures[name]).items()}
        looks.append({c: (line.get_color(), line.get_linestyle()) for c, line in lines.items() if c[:5] == "class"})
    assert looks[0] == looks[1] == looks[2] and len(set(looks[0].values())) == len(looks[0]) == shown
    ap = {name: row["average_precision"] for name, row in table(tmp_path / "report.csv").items()}
    assert list(looks[0]) == sorted([c for c in ap if c[:5] == "class"], key=ap.get)[:shown]
    if k == 9:  # in a report of other numbers too
        assert looks[0]["class 0"] == (plots.COLORS[0], "-") and looks[0]["class 8"] == (plots.COLORS[2], "--")


def test_the_area_below_the_curve_of_precision_and_recall_is_the_average_precision(tmp_path, figures):
    filled(*classified(3, n=300)).report(tmp_path)
    rows = table(tmp_path / "report.csv")
    for c in range(3):
        text = f"{rows[f'class {c}']['average_precision']:.4f}  class {c}"
        x, y = legend(figures["pr.png"])[text].get_data()
        assert -np.sum(np.diff(x) * y[1:]) == pytest.approx(rows[f"class {c}"]["average_precision"])


@pytest.mark.parametrize("p", [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [np.nan, np.nan]])
def test_a_model_that_always_gives_the_same_answer_is_drawn_too(tmp_path, figures, p):
    filled(torch.tensor([p] * 8), torch.arange(8) % 2).report(tmp_path)
    assert next(iter(legend(figures["roc.png"]))).startswith("0.5000")
    low, high = figures["threshold.png"].axes[0].get_xlim()
    assert low <= 0.05 and high >= 0.95


ROW = {"epoch": "1", "step": "9", "lr": "0.1", "loss": "1", "val_loss": "2", "train_seconds": "2", "seconds": "3"}


def test_curves_have_training_and_validation_in_one_panel_and_the_best_epoch(tmp_path, figures):
    rows = [
        {**ROW, "epoch": str(n), "train_accuracy": "50", "val_accuracy": str(a), "val_loss": str(a), "val_iou": "nan"}
        for n, a in enumerate([40, 60, 50, 60], start=1)
    ]
    path = tmp_path / "my_run" / "curves.png"
    path.parent.mkdir()
    for monitor, best in (("val_accuracy", 2), ("val_loss", 1)):
        plots.curves(rows, monitor, path)
        figure = figures["curves.png"]
        assert figure.get_suptitle() == f"my_run, best epoch {best}: {monitor} {rows[best - 1][monitor]}"
        both = ["training", "validation"]
        shown = {axes.get_title(loc="left"): [text.get_text() for text in axes.get_legend().get_texts()]
                 for axes in figure.axes if axes.get_legend()}  # fmt: skip
        assert shown == {"loss": both, "accuracy (%)": both} and len(figure.axes) == 3
        assert figure.axes[-1].get_title(loc="left") == "learning rate"
        assert all(best in [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
                   for axes in figure.axes)  # fmt: skip
    plots.curves([], "loss", tmp_path / "none.png")
    plots.curves([{"epoch": "1", "lr": "0.1"}], "loss", tmp_path / "none.png")
    assert list(figures) == ["curves.png"]


def test_one_epoch_is_a_point_in_the_middle_of_an_axis_of_whole_epochs(tmp_path, figures):
    plots.curves([ROW], "val_loss", tmp_path / "curves.png")
    for axes in figures["curves.png"].axes:
        low, high = axes.get_xlim()
        assert low + high == 2 and [tick for tick in axes.get_xticks() if low < tick < high] == [1]
        assert axes.lines[0].get_marker() == "."


def test_the_numbers_of_detection_share_few_panels(tmp_path, figures):
    row = ROW | {f"loss_{name}": "1" for name in ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")}
    row |= {f"val_{name}": "50" for name in ("box_ap50", "mask_ap50", "box_ap", "mask_ap", "box_voc_map")}
    plots.curves([row, {**row, "epoch": "2"}], "val_box_ap50", tmp_path / "curves.png")
    shown = {axes.get_title(loc="left"): axes.get_legend() for axes in figures["curves.png"].axes}
    assert list(shown) == [
        "loss",
        "parts of the loss",
        "average precision of boxes (%)",
        "average precision of masks (%)",
        "learning rate",
    ]
    texts = [text.get_text() for text in shown["average precision of boxes (%)"].get_texts()]
    assert texts == ["AP50, validation", "AP, validation", "VOC mAP, validation"]


class Pooled(nn.Module):
    """Convolution, mean over all places, linear: here Grad-CAM has a formula (Zhou et al. 2015, arXiv:1512.04150)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout(0.5))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        torch.rand(1)  # what draws even in eval mode
        return self.head(nn.functional.relu(self.norm(self.features(x)), inplace=True).mean(dim=(2, 3)))


def test_activation_maps_are_the_formulas_and_leave_no_trace():
    torch.manual_seed(0)
    model, input = Pooled(), torch.randn(5, 3, 16, 24)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.requires_grad_(False)
    model.train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.inference_mode():
        maps = class_activation_maps(model, input)
        first = class_activation_maps(model, input, classes=torch.zeros(5, dtype=torch.int64))
    assert [module.training for module in model.children()] == [True, False, True] and model.features[1].training
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.head.weight.grad.eq(1).all() and model.features[0].weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

    model.eval()
    features = nn.functional.relu(model.norm(model.features(input)))
    for given, classes in ((maps, model(input).argmax(dim=1)), (first, torch.zeros(5, dtype=torch.int64))):
        # The layer is the norm, whose output the ReLU overwrites: the slope of the mean is the same everywhere.
        raw = torch.einsum("nk,nkhw->nhw", model.head.weight[classes], features).relu()
        raw = nn.functional.interpolate(raw[:, None], size=(16, 24), mode="bilinear")[:, 0]
        peak = raw.amax(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(given, torch.where(peak > 0, raw / peak, 0).detach(), atol=1e-5, rtol=1e-4)
    assert given.shape == (5, 16, 24) and given.min() >= 0 and given.max() == 1


class Tokens(nn.Module):
    """A vision transformer in small: after its patches no layer knows places as rows and columns."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.mix(self.patch(x).flatten(2).transpose(1, 2)).mean(dim=1))


class Last(Tokens):
    """Rows and columns, but the channels come last."""

    def forward(self, x):
        return self.head(self.mix(self.patch(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize(
    "model, shape",
    [(MLP(), (4, 1, 2)), (Tokens(), (4, 3, 64, 64)), (Last(), (4, 3, 32, 32)), (nn.Conv2d(3, 2, 3), (4, 3, 9, 9))],
)
def test_a_model_without_places_has_no_maps(model, shape):
    with pytest.raises(UserError, match=f"{type(model).__name__} has no class activation maps"):
        class_activation_maps(model, torch.rand(shape))


def test_an_overlay_colors_the_place_and_nothing_else():
    image = torch.full((3, 10, 12), 100, dtype=torch.uint8)
    place = torch.zeros(10, 12)
    place[9, 11], place[9, 10] = 1, 0.5
    shown = overlay(image, place)
    assert shown.shape == image.shape and shown.dtype == torch.uint8
    red, green, blue = shown[:, 9, 11].tolist()
    assert min(red, green) > blue + 100  # yellow
    assert 0 < (shown[:, 9, 10].int() - 100).abs().sum() < (shown[:, 9, 11].int() - 100).abs().sum()
    shown[:, 9, 10:] = 100
    assert torch.equal(shown, image)


class Masks(Squares):
    def __getitem__(self, index):
        picture, _ = super().__getitem__(index)
        return picture, picture[0] // 255


def test_maps_are_drawn_of_pictures_and_only_of_those(tmp_path, figures):
    torch.manual_seed(0)
    model = ResNet34(num_classes=2)
    draw(model, Squares(), 3, tmp_path)
    left, right, scale = figures["cam_000.png"].axes
    assert left.get_title(loc="left").startswith("true: ") and right.get_title(loc="left").startswith("predicted: ")
    assert "2 x 2 places" in scale.get_ylabel() and scale.get_ylim() == (0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cam_000.png", "cam_001.png", "cam_002.png"]
    assert min(size(tmp_path / "cam_000.png")) > 300 and model.training
    draw(model, Squares(), 100, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(UserError, match="--cam=2: Points has no pictures"):
        draw(MLP(), Points(), 2, tmp_path)
    with pytest.raises(UserError, match="--cam=2: Masks has no pictures"):
        draw(model, Masks(), 2, tmp_path)
