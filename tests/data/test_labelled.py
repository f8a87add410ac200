"""PictureData: classes balanced, pictures held in memory, batches drawn."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from drawn import forest_of_42, paint, trees
from PIL import Image

from data import ImageFolder
from data.pictures.augment import denormalise
from data.pictures.labelled import PictureData
from utils import UserError
from utils.metrics.meters import ConfusionMeter
from utils.train.loader import make_loader


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """oak, ash and fir as 10 : 3 : 1, times three; not to be changed by a test."""
    return forest_of_42(tmp_path_factory.mktemp("forest"))


def per_class(data, order):
    return [Counter(data.targets[index] for index in order.tolist())[label] for label in range(len(data.classes))]


def seed(number):
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize(
    ("how", "expected"),
    [  # of 6 ash, 2 fir and 21 oak that train has of them: N/3 each; by log(n+1) and sqrt(n+1), rounded up
        ("none", [6, 2, 21]),
        ("mean", [10, 10, 10]),
        ("log", [10, 6, 15]),
        ("sqrt", [9, 6, 15]),
    ],
)
def test_classes_of_10_to_3_to_1_are_balanced_in_every_epoch(forest, how, expected):
    data = ImageFolder(forest, "train", resample=how, image_size=32)
    epochs = [data.order(seed(number)) for number in range(20)]
    assert all(per_class(data, order) == expected for order in epochs)
    assert torch.equal(data.order(seed(3)), epochs[3])  # a function of the generator alone
    assert len({tuple(order.tolist()) for order in epochs}) == 20  # shuffled again in every epoch
    for order in epochs:
        labels = [data.targets[index] for index in order.tolist()]
        assert labels not in (sorted(labels), sorted(labels, reverse=True))
        times = Counter(order.tolist())
        for label in range(3):
            often = [times[index] for index, target in enumerate(data.targets) if target == label]
            assert max(often) - min(often) <= 1
    if how != "none":  # the large class's share is chosen again, until every sample was seen
        assert len({frozenset(order.tolist()) for order in epochs}) > 10
        assert {index for order in epochs for index in order.tolist()} == set(range(len(data)))


def test_the_loader_draws_that_order_and_val_stays_in_its_own(forest):
    train, val = (ImageFolder(forest, mode, resample="mean", image_size=32) for mode in ("train", "val"))
    loader = make_loader(train, 5, num_workers=0, seed=1)
    epochs = []
    for epoch in (0, 1):
        loader.batch_sampler.set_position(epoch, 0)
        epochs.append(torch.cat([target for _, target in loader]).bincount().tolist())
    assert epochs == [[10, 10, 10]] * 2 and len(loader) == 6
    assert torch.equal(val.order(seed(0)).sort().values, torch.arange(len(val)))


def test_class_weights_are_n_over_n_c_of_train_alone(forest):
    data = ImageFolder(forest, "train", class_weights=True, image_size=32)
    assert data.weights == pytest.approx([29 / 6, 29 / 2, 29 / 21])
    assert ImageFolder(forest, "val", class_weights=True).weights is None
    assert ImageFolder(forest, "train").weights is None


@pytest.mark.parametrize(
    ("options", "named"), [({"resample": "sqrt"}, "--resample=sqrt"), ({"class_weights": True}, "--class-weights")]
)
def test_a_class_whose_pictures_are_all_broken_cannot_be_resampled_or_weighed(tmp_path, options, named):
    trees(tmp_path, ash=3, oak=3)
    (tmp_path / "fir").mkdir()
    for name in "ab":
        (tmp_path / "fir" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=f"^there is no training picture of fir: {named} needs some of every class$"):
        ImageFolder(tmp_path, "train", image_size=32, **options)


def test_pictures_in_memory_are_the_same_and_outlive_their_files(tmp_path, capsys):
    trees(tmp_path, oak=20, ash=20)
    (tmp_path / "oak" / "7.png").write_bytes(b"broken")  # leaves a gap in the tensor
    for mode in ("train", "val"):
        read, kept = (ImageFolder(tmp_path, mode, image_size=32) for _ in range(2))
        for cache in ("none", "auto"):  # auto is for GPUs
            kept.cache_on(torch.device("cpu"), cache)
            assert not kept.cached_on_device and not kept.no_workers_needed
        kept.cache_on(torch.device("cpu"), "device")
        assert kept.cached_on_device and kept.no_workers_needed
        assert kept.paths == read.paths and kept.broken == read.broken and kept.targets == read.targets
        assert all(torch.equal(a, b) and m == n for (a, m), (b, n) in zip(read, kept, strict=True))
    printed = capsys.readouterr().out
    assert "note: kept in the memory of cpu: 28 pictures of 37 x 37, 0.1 MB\n" in printed and "11 pictures" in printed
    shutil.rmtree(tmp_path / "oak")
    assert [kept[index][1] for index in range(len(kept))] == kept.targets
    batches = list(make_loader(kept, 4, num_workers=2))
    assert torch.cat([target for _, target in batches]).tolist() == kept.targets
    assert torch.equal(torch.cat([input for input, _ in batches]), torch.stack([picture for picture, _ in kept]))


def test_what_val_measures_with_can_show_its_photographs(tmp_path):
    forest, options = forest_of_42(tmp_path / "trees"), {"image_size": 32, "pack": True, "pack_dir": tmp_path}
    train, val = ImageFolder(forest, "train", **options), ImageFolder(forest, "val", **options)
    assert type(train.meter()) is ConfusionMeter
    meter = val.meter()
    assert type(meter).__name__ == "ClassMeter" and meter.classes == ["ash", "fir", "oak"]
    picture, caption = meter.picture(0)
    with Image.open(val.paths[0]) as file:  # the photograph, not the square that the model sees
        assert torch.equal(picture.permute(1, 2, 0), torch.from_numpy(np.array(file)))
    assert caption == f"ash/{val.paths[0].name}"
    paint(val.paths[1], "ash", size=(512, 384))
    assert meter.picture(1)[0].shape == (3, 192, 256)
    val.paths[1].unlink()
    assert torch.equal(meter.picture(1)[0], val[1][0])  # from the pack


def test_a_drawn_batch_shows_the_pictures_with_prediction_and_truth(forest):
    val = ImageFolder(forest, "val", image_size=64)
    raw = torch.stack([val[index][0] for index in range(5)])
    input, target = val.prepare(raw, torch.tensor(val.targets[:5]), None)
    (sheet,) = val.draw(input, target, torch.tensor([[0.1, 0.2, 0.7]] * 5))
    assert sheet.dtype == torch.uint8 and sheet.shape == (3, 24 + 2 * (192 + 24), 4 * (192 + 8))
    assert torch.equal(sheet[:, 24:216:3, 4:196:3], raw[0])  # enlarged three times, and nothing else
    caption = sheet[:, 216:240, 4:196].float()
    assert caption.std() > 10 and caption[0].mean() > caption[1].mean()  # red: oak was predicted, ash is true


def test_a_drawn_batch_of_training_has_the_true_classes_or_their_shares(forest, written):
    train = ImageFolder(forest, "train", image_size=64)
    input, target = train.prepare(*train.__getitems__([0, 1, 9]), torch.Generator().manual_seed(0))
    (sheet,) = train.draw(input, target, None)
    seen = (denormalise(input[0]) * 255).round().clamp(0, 255).byte()
    assert torch.equal(sheet[:, 24:216:3, 4:196:3], seen)  # the picture as it was augmented
    assert written == ["what the model sees in training, and its true class", *(train.classes[t] for t in target)]
    written.clear()
    train.draw(input, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0], [0.001, 0.999, 0.0]]), None)
    assert written[1:] == ["oak 0.75, ash 0.25", "fir", "fir"]


def test_pictures_are_cut_and_resized_as_weights_expect(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    for name, pixels in (("a", noise), ("b", noise.transpose(1, 0, 2))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")

    def seen(mode, size, index=0, **how):
        root = {"root": tmp_path, "val_data_root": tmp_path, "pack": True, "pack_dir": tmp_path / "packs"}
        return ImageFolder(**root, mode=mode, image_size=size, **how)[index][0].permute(1, 2, 0).numpy()

    middle = seen("val", 112, center_crop=0.875)  # resized to 128 and cut to 112, which here only cuts
    assert (middle == noise[8:120, 24:136]).all()
    assert (seen("val", "80x64", center_crop=0.5) == noise[32:96, 40:120]).all()
    tall = noise.transpose(1, 0, 2)[29:131, :]  # 102 x 128, as 4 x 5 as it can be
    assert abs(seen("val", "128x102", index=1).astype(int) - tall).max() <= 1
    square = Image.fromarray(noise[:, 16:144])
    for interpolation, how in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        expected = np.asarray(square.resize((48, 48), how), dtype=int)
        assert abs(seen("val", 48, interpolation=interpolation) - expected).max() <= 2  # of a pack of its own
        whole = np.asarray(Image.fromarray(noise).resize((64, 64), how), dtype=int)
        assert abs(seen("train", 56, interpolation=interpolation, center_crop=0.5) - whole).max() <= 2
    assert (seen("train", 112, center_crop=0.875, augment=False) == middle).all()
    pixels = torch.from_numpy(noise)[None]
    held = PictureData([0], [0], "val", image_size=32, center_crop=0.5, interpolation="bicubic", pixels=pixels)
    prepared = denormalise(held.prepare(*held.__getitems__([0]), None)[0])[0].permute(1, 2, 0) * 255
    expected = Image.fromarray(noise[32:96, 48:112]).resize((32, 32), Image.Resampling.BICUBIC)
    assert abs(prepared.numpy() - np.asarray(expected, dtype=int)).max() < 2.5
