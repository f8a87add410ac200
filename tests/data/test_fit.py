"""--fit: a whole picture keeps its proportions, in the middle of image_size, and its mask lies on it."""

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from drawn import draw_shapes
from PIL import Image, ImageOps
from runs import only_run, rows
from test_rectangles import quarters, right, save, shown
from torch import nn
from torch.nn import functional as F

import config
from data import MaskFolder
from data.pictures.read import read_square
from models.losses import Criterion
from utils import UserError
from utils.doctor.content import look_at
from utils.run import resume
from utils.run.checkpoint_file import read_checkpoint, write_checkpoint

MEAN = [124, 116, 104]
WIDE, TALL = (120, 40), (30, 120)  # width, height


def pictures(root, *sizes):
    """A folder of pictures of four quarters in these sizes, 0.png, ..., and their masks; returns it."""
    (root / "masks").mkdir(parents=True)
    for number, size in enumerate(sizes):
        save(root / "images" / f"{number}.png", *size)
        Image.fromarray(quarters(*size)).save(root / "masks" / f"{number}.png")
    return root


def items(data):
    """{name: item} of a data set."""
    return {sample.name: data[number] for number, sample in enumerate(data.samples)}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("mode", "image_size", "places"),  # of the two pictures: left, top, width, height
    [
        ("val", 96, [(0, 32, 96, 32), (36, 0, 24, 96)]),
        ("val", "96x64", [(0, 16, 96, 32), (40, 0, 16, 64)]),
        ("train", "84x56", [(0, 16, 96, 32), (40, 0, 16, 64)]),  # 8/7 of it
    ],
)
def test_a_picture_and_its_mask_lie_in_the_middle_with_their_proportions(mode, image_size, places, pack, tmp_path):
    root = pictures(tmp_path / "set", WIDE, TALL)
    data = MaskFolder(root, mode, image_size, val_data_root=[root], pack=pack, pack_dir=tmp_path)
    for number, (left, top, width, height) in enumerate(places):
        picture, mask = items(data)[f"{number}.png"]
        place = slice(top, top + height), slice(left, left + width)
        assert right(mask[place].numpy(), width, height) == 1
        assert right(shown(picture[:, place[0], place[1]]), width, height) > 0.9  # but where quarters meet
        exact, _ = read_square(root / "images" / f"{number}.png", (height, width))
        assert (picture[:, place[0], place[1]].permute(1, 2, 0).numpy() == exact).all()
        outside = torch.ones(mask.shape, dtype=torch.bool)
        outside[place] = False
        assert (mask[outside] == 255).all() and (picture[:, outside].T == torch.tensor(MEAN)).all()
        at = [sample.name for sample in data.samples].index(f"{number}.png")
        assert torch.equal(data.picture(at)[0], picture[:, place[0], place[1]])
    squeezed = MaskFolder(root, mode, image_size, val_data_root=[root], pack=pack, pack_dir=tmp_path, fit="squeeze")
    assert right(squeezed[0][1].numpy(), *squeezed[0][1].shape[::-1]) == 1
    assert len([*tmp_path.glob("*.u8")]) == 2 * pack  # of its own


def test_a_picture_that_exif_turns_and_a_smaller_mask_of_it_meet(tmp_path):
    root = pictures(tmp_path, WIDE, WIDE)
    for number in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side
        path = root / "images" / f"{number}.png"
        Image.open(path).rotate(90, expand=True).save(path, exif=exif)
        assert ImageOps.exif_transpose(Image.open(path)).size == WIDE
        Image.fromarray(quarters(60, 20)).save(root / "masks" / f"{number}.png")
    data = MaskFolder(root, "val", 96, val_data_root=[root])
    assert not data.broken
    picture, mask = data[0]
    assert right(mask[32:64].numpy(), 96, 32) == 1 and right(shown(picture[:, 32:64]), 96, 32) > 0.9


def test_a_mask_that_test_writes_has_the_pictures_size_and_nothing_of_what_is_around_it(tmp_path):
    root = pictures(tmp_path, WIDE, TALL)
    val = items(MaskFolder(root, "val", "96x64", val_data_root=[root]))
    masks = torch.stack([val[f"{number}.png"][1] for number in range(2)]).long()
    predicted = (
        F.one_hot(masks.where(masks < 255, 4), 5).permute(0, 3, 1, 2).float()
    )  # class 4 lies around the pictures
    MaskFolder(root, "test", "96x64").write_results(tmp_path / "result.csv", [(["0", "1"], predicted)])
    for number, size in enumerate((WIDE, TALL)):
        with Image.open(tmp_path / "result" / f"{number}.png") as file:
            assert right(np.asarray(file), *size) > 0.97  # but where quarters meet


def test_a_crop_that_shows_no_picture_teaches_nothing_and_breaks_nothing(tmp_path):
    root = pictures(tmp_path, (400, 40), (40, 400))
    train = MaskFolder(root, "train", 32, crop_min_scale=0.08, val_data_root=[root], class_weights=True)
    input, target = train.__getitems__([0, 1] * 8)
    input, target = train.prepare(input, target, torch.Generator().manual_seed(0))
    void = (target == 255).flatten(1).all(dim=1)
    assert 0 < void.sum() < 16 and train.weights == [4.0] * 4  # of the files' pixels alone
    model, meter = nn.Conv2d(3, 4, 3, padding=1), train.meter()
    for names in ("cross_entropy", "focal", "label_smoothing"):
        score = model(input[void])
        loss = sum(Criterion(names, train.weights)(score, target[void]).values())
        loss.backward()
        assert loss.item() == 0 and all((p.grad == 0).all() for p in model.parameters())
    meter.add(score, target[void])
    assert meter.value().sum() == 0
    whole = MaskFolder(root, "train", 32, crop_min_scale=0.34, val_data_root=[root])
    target = whole.prepare(*whole.__getitems__([0, 1] * 64), torch.Generator().manual_seed(0))[1]
    assert (target < 255).flatten(1).any(dim=1).all()  # a larger crop holds the middle


def test_the_doctor_looks_at_pictures_without_what_is_around_them(tmp_path):
    root = pictures(tmp_path, WIDE, WIDE)
    Image.new("RGB", WIDE).save(root / "images" / "0.png")
    data = MaskFolder(root, "val", 96, val_data_root=[root])
    assert {sample.name: look_at(data, "val", number).constant for number, sample in enumerate(data.samples)} == {
        "0.png": True,
        "1.png": False,
    }


def test_a_run_whose_record_names_no_fit_keeps_squeezing_its_pictures(tmp_path):
    """Its val, with the packs and to the number of its training, and its resuming."""
    root = draw_shapes(tmp_path / "set", 4)
    options = [f"--train-data-root={root}", "--dataset=MaskFolder", "--model=UNet", "--width=0.05", NO_SERVER]
    main(
        "train", *options, "--image-size=32", "--max-epoch=1", "--num-workers=0", "--fit=squeeze", cwd=tmp_path, check=0
    )
    run, packs = only_run(tmp_path), sorted(tmp_path.glob("packs/*.u8"))
    written = (run / "config.yaml").read_text()
    assert written.count("\nfit: squeeze\n") == 1
    (run / "config.yaml").write_text(written.replace("\nfit: squeeze\n", "\n"))
    for file in ("last.pth", "best.pth"):
        content = read_checkpoint(run / file)
        del content["info"]["config"]["fit"]
        write_checkpoint(content, run / file)
    said = main("val", cwd=tmp_path, check=0).stdout
    assert "  fit: squeeze  (of the run)\n" in said and f"val_iou: {float(rows(run)[0]['val_iou']):.4g}\n" in said
    assert sorted(tmp_path.glob("packs/*.u8")) == packs and len(packs) == 2
    assert resume.resumed(config.load({"resume": run.name}, command="train"), run).fit == "squeeze"
    with pytest.raises(UserError, match="--resume: fit=squeeze is fixed on resume and cannot become pad"):
        resume.resumed(config.load({"resume": run.name, "fit": "pad"}, command="train"), run)
    (run / "config.yaml").unlink()
    assert resume.resumed(config.load({"resume": run.name}, command="train"), run).fit == "squeeze"
