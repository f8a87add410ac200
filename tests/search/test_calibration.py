"""The temperature that is fitted on predictions out of fold, and what scores them."""

import pytest
import torch
from sklearn.metrics import log_loss as reference

from utils import UserError
from utils.search import calibration

CLASSES = ["cat", "dog", "emu"]


def drawn(folder, temperature):
    """200 rows whose truth is drawn from what the model says, which says it too loudly: by this temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    truth = logits.softmax(dim=1).multinomial(1, generator=generator).squeeze(1)
    shares = (logits * temperature).softmax(dim=1)
    rows = [
        [f"{n}.jpg", n % 5, CLASSES[label], *row]
        for n, (label, row) in enumerate(zip(truth, shares.tolist(), strict=True))
    ]
    return calibration.write(folder, CLASSES, rows), shares, truth


def test_the_file_is_scored_as_kaggle_does(tmp_path):
    scores, shares, truth = drawn(tmp_path, 1.0)
    assert scores["log_loss"] == pytest.approx(reference(truth, shares), rel=1e-5)
    first = (tmp_path / "out_of_fold.csv").read_text().splitlines()[:2]
    assert first[0] == "path,fold,truth,cat,dog,emu" and first[1].startswith("0.jpg,0,")
    wrong = calibration.log_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert wrong == pytest.approx(13.8155, rel=1e-5)  # not infinite


def test_the_temperature_has_the_least_log_loss(tmp_path, capsys):
    _, shares, truth = drawn(tmp_path, 4.0)
    found = calibration.fitted_temperature(tmp_path, CLASSES)
    losses = {t: reference(truth, (shares.log() / t).softmax(dim=1)) for t in (found / 1.05, found, found * 1.05)}
    assert min(losses, key=losses.get) == found and 3 < found < 5
    said = capsys.readouterr().out
    assert said.startswith(f"temperature {found:.4g}, fitted on 200 out-of-fold predictions: log loss ")
    before, after = map(float, said.split("log loss ")[1].split(" -> "))
    assert before == pytest.approx(reference(truth, shares), abs=1e-4) and after < before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold out-of-fold probabilities of cat, dog, emu"),
        ("path,fold,truth,cat,dog,emu\na,0,owl,1,0,0\n", "does not hold out-of-fold probabilities of cat, dog, emu"),
        ("path,fold,iou\na,0,5\n", "is about masks, and --calibrate is for classification: leave it out"),
    ],
)
def test_another_file_is_one_line(text, message, tmp_path):
    (tmp_path / "out_of_fold.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        calibration.fitted_temperature(tmp_path, CLASSES)
