"""Augmentation against torchvision, picture by picture; the way of GPUs is tested on the CPU too."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as V

from data.pictures import augment
from data.pictures.augment import MEAN, STD, Augment
from utils.metrics.meters import ConfusionMeter

CROPS = {
    "chosen by the device": augment.resized_crop,
    "one by one": augment.crop_one_by_one,
    "by products": lambda *args: augment.crop_by_products(*args, torch.float32),
    "by products in half precision": lambda *args: augment.crop_by_products(*args, torch.float16),
}
FORMATS = [torch.channels_last, torch.contiguous_format]
# Of pictures of 96 x 80: whole, small, one pixel, one row, enlarged, and at the edges.
BOXES = [
    (0, 0, 96, 80),
    (3, 5, 71, 60),
    (90, 70, 6, 10),
    (10, 20, 1, 1),
    (50, 0, 1, 80),
    (0, 33, 96, 2),
    (31, 7, 32, 32),
]


def seed(number=0):
    return torch.Generator().manual_seed(number)


def noisy(n, height=96, width=80):
    """Pictures uint8 [N, 3, H, W]: noise, the worst case, and smooth ones with full contrast, by turns."""
    noise = torch.randint(256, (n, 3, height, width), generator=seed(), dtype=torch.uint8)
    small = torch.rand(n, 3, 6, 5, generator=seed(1))
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").mul(256).clamp(0, 255).byte()
    even = torch.arange(n).view(-1, 1, 1, 1) % 2 == 0
    return torch.where(even, noise, smooth).to(memory_format=torch.channels_last)


def furthest(images, others):
    """The largest difference of two pictures, in 255ths."""
    return (images.int() - others.int()).abs().max().item()


def is_channels_last(images):
    return images.is_contiguous(memory_format=torch.channels_last)


# --- crops


@pytest.mark.parametrize("size", [(24, 24), (32, 57), (113, 113)])
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("way", CROPS)
def test_crops_are_torchvisions(way, memory, size):
    boxes = [box for box in BOXES for _ in range(4)]
    images = noisy(len(boxes)).contiguous(memory_format=memory)
    flip = torch.arange(len(boxes)) // 2 % 2 == 0
    before = images.clone()
    result = CROPS[way](images, torch.tensor(boxes), flip, size)
    assert result.dtype == torch.uint8 and result.shape == (len(boxes), 3, *size) and is_channels_last(result)
    assert torch.equal(images, before)
    for image, box, mirrored, cropped in zip(images, boxes, flip, result, strict=True):
        expected = V.resized_crop(image, *box, list(size), antialias=True)
        assert furthest(V.horizontal_flip(expected) if mirrored else expected, cropped) <= 2


@pytest.mark.parametrize("way", CROPS)
def test_a_crop_of_the_final_size_changes_no_pixel(way):
    images = noisy(2)
    flip = torch.tensor([False, True])
    result = CROPS[way](images, torch.tensor([[7, 9, 40, 50]] * 2), flip, (40, 50))
    assert torch.equal(result[0], images[0, :, 7:47, 9:59])
    assert torch.equal(result[1], images[1, :, 7:47, 9:59].flip(-1))


@pytest.mark.parametrize("way", CROPS)
def test_white_stays_white_and_black_black(way):
    """In 8 bits one more than white is black."""
    images = torch.stack([torch.full((3, 96, 80), value, dtype=torch.uint8) for value in (255, 0)])
    for height in range(1, 97):
        boxes = torch.tensor([[0, 0, height, min(height, 80)]] * 2)
        result = CROPS[way](images, boxes, torch.tensor([True, False]), (37, 37))
        assert (result[0] == 255).all() and (result[1] == 0).all()


def test_only_gpus_crop_by_products(monkeypatch):
    monkeypatch.setattr(augment, "crop_by_products", lambda *args: pytest.fail("slow on a CPU"))
    assert augment.resized_crop(noisy(1), torch.tensor([BOXES[0]]), torch.tensor([False]), (32, 32)).shape[-1] == 32


@pytest.mark.parametrize(("height", "width"), [(256, 256), (31, 57), (2, 1)])
@pytest.mark.parametrize("crop_min_scale", [0.0, 0.08, 1.0])
def test_crop_boxes_lie_in_the_picture_and_reach_its_edges(height, width, crop_min_scale):
    boxes = augment.crop_boxes(torch.rand(4, 20000, generator=seed()), height, width, crop_min_scale)
    assert boxes.shape == (20000, 4) and boxes.dtype == torch.int64
    top, left, h, w = boxes.unbind(1)
    assert top.min() == left.min() == 0 and min(h.min(), w.min()) >= 1
    for start, length, total in ((top, h, height), (left, w, width)):
        assert (start + length).max() == total
        cut = length < total
        assert not cut.any() or start[cut].min() == 0 and (start + length)[cut].max() == total


def test_crop_boxes_are_spread_over_areas_ratios_and_places_as_they_should():
    boxes = augment.crop_boxes(torch.rand(4, 40000, generator=seed()), 1000, 1000, 0.1).double()
    top, left, h, w = boxes.unbind(1)
    area, log_ratio = h * w / 1e6, (w / h).log()
    uncut = (h < 1000) & (w < 1000)
    log_ratio, small = log_ratio[uncut], area < 0.5  # small ones are never cut off
    assert 0.0995 < area.min() < 0.101 and 0.9 < area.max() <= 1
    assert area[small].mean().item() == pytest.approx(0.3, abs=0.01)
    assert math.log(3 / 4) - 0.01 < log_ratio.min() < -0.28 and 0.28 < log_ratio.max() < math.log(4 / 3) + 0.01
    assert (w / h).log()[small].mean().item() == pytest.approx(0, abs=0.01)
    assert (w / h).log()[small].std().item() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.02)
    places = torch.stack([top / (1000 - h), left / (1000 - w)])[:, uncut]
    for place in places:
        assert place.mean().item() == pytest.approx(0.5, abs=0.01)
        assert place.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.01)
    apart = torch.corrcoef(torch.stack([area[uncut], log_ratio, *places]))
    assert apart.fill_diagonal_(0).abs().max() < 0.03


def test_crop_boxes_have_the_proportions_of_the_result():
    uniform = torch.rand(4, 2000, generator=seed())
    square, wide = (augment.crop_boxes(uniform, 1000, width, 0.1, width / 1000).double() for width in (1000, 2000))
    assert (wide / torch.tensor([1.0, 2.0, 1.0, 2.0]) - square).abs().max() <= 1  # but for rounding


def test_the_largest_random_numbers_stay_inside():
    below_one = 1 - 2**-24
    for side in range(1, 1025):
        top, left, h, w = augment.crop_boxes(torch.full((4, 1), below_one), side, side, 0.01)[0].tolist()
        assert 0 <= top <= side - h and 0 <= left <= side - w
        *_, h, w = augment.crop_boxes(torch.tensor([[0.0], [0.5], [below_one], [below_one]]), side, side, 0.01)[0]
        assert h == w == max(1, round(0.1 * side)) or abs(0.1 * side % 1 - 0.5) < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (24, 24), (32, 57), (113, 113)])
def test_masks_are_cropped_to_the_nearest_pixels(size):
    masks = torch.randint(256, (200, 96, 80), generator=seed(), dtype=torch.uint8)
    boxes = augment.crop_boxes(torch.rand(4, 200, generator=seed(2)), 96, 80, 0.0)
    boxes = torch.cat([boxes[: 200 - len(BOXES)], torch.tensor(BOXES)])
    flip = torch.rand(200, generator=seed(3)) < 0.5
    result = augment.nearest_crop(masks, boxes, flip, size)
    assert result.dtype == torch.uint8
    for mask, (top, left, h, w), mirrored, cropped in zip(masks, boxes.tolist(), flip, result, strict=True):
        part = mask[None, None, top : top + h, left : left + w]
        expected = torch.nn.functional.interpolate(part, size, mode="nearest-exact")[0, 0]
        assert torch.equal(expected.flip(-1) if mirrored else expected, cropped)


def test_a_mask_stays_where_its_picture_goes():
    """A bright square is found at the same place in both."""
    masks = torch.zeros(64, 96, 96, dtype=torch.uint8)
    masks[:, 30:60, 40:80] = 1
    images = (masks * 255).unsqueeze(1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    pictures, masks = Augment(64, crop_min_scale=0.3, rotate=30)(images, seed(), masks)
    assert pictures.shape == (64, 3, 64, 64) and masks.shape == (64, 64, 64) and masks.dtype == torch.uint8
    bright = augment.denormalise(pictures)[:, 0] > 0.5
    inside = masks != 255
    assert 0 < (~inside).float().mean() < 0.3 and (~inside).any(dim=(1, 2)).sum() > 50
    assert (bright == (masks == 1))[inside].float().mean() > 0.98
    assert not bright[~inside].any()


# --- sizes that grow


def test_pictures_and_masks_grow_in_equal_shares_of_a_training():
    augment = Augment(96, train_image_size=[32, "64x48", 96])
    images, masks = noisy(2, 110, 110), torch.zeros(2, 110, 110, dtype=torch.uint8)
    sizes = []
    for epoch in range(7):
        augment.begin_epoch(epoch / 7)
        pictures, cut = augment(images, seed(), masks)
        assert pictures.shape[2:] == cut.shape[1:]
        sizes.append(tuple(pictures.shape[2:]))
    assert sizes == [(32, 32)] * 3 + [(48, 64)] * 2 + [(96, 96)] * 2
    augment.begin_epoch(1.0)  # more epochs than were planned
    assert augment.size == (96, 96)
    plain = Augment(96)
    plain.begin_epoch(0.0)
    assert plain.size == (96, 96)


# --- rotations


ANGLES = [0.0, 10.0, -10.0, 37.5, 90.0, 180.0, -90.0, 263.0]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 65), (40, 61)])
def test_rotations_are_torchvisions(height, width):
    images = noisy(len(ANGLES), height, width)
    result = augment.rotate(images, torch.tensor(ANGLES))
    assert result.dtype == torch.uint8 and result.shape == images.shape and is_channels_last(result)
    for image, angle, turned in zip(images, ANGLES, result, strict=True):
        expected = V.rotate(image, angle, InterpolationMode.BILINEAR)
        assert furthest(expected, turned) <= 1 and (expected != turned).float().mean() < 0.03  # ties


def test_masks_turn_to_the_nearest_pixels_and_are_255_outside():
    masks = torch.randint(3, (len(ANGLES), 1, 64, 64), generator=seed(), dtype=torch.uint8)
    result = augment.rotate(masks, torch.tensor(ANGLES), nearest=True)
    for mask, angle, turned in zip(masks, ANGLES, result, strict=True):
        expected = V.rotate(mask, angle, InterpolationMode.NEAREST, fill=255)
        assert (expected != turned).float().mean() < 0.002  # where two pixels are as near
    assert (result == 255).any() and set(result.unique().tolist()) == {0, 1, 2, 255}


# --- colors

FACTORS = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0, 1.2, 1.6, 2.0])


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("which", range(3))
def test_colors_are_torchvisions(which, memory):
    images = noisy(2 * len(FACTORS)).contiguous(memory_format=memory)
    factors = [torch.ones(2 * len(FACTORS))] * 3
    factors[which] = FACTORS.repeat_interleave(2)
    result = augment.jitter(images, *factors)
    assert result.dtype == torch.uint8
    adjust = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation)[which]
    for image, factor, changed in zip(images, factors[which].tolist(), result, strict=True):
        assert furthest(adjust(image, factor), changed) <= 2


def test_colors_change_one_after_the_other():
    images = noisy(8)
    images[1::2] = images[1::2] // 2 + 100  # what is cut off differs with the order
    brightness = torch.tensor([0.6, 1.4, 0.6, 1.4, 1.0, 1.0, 1.2, 0.8])
    contrast = torch.tensor([0.7, 1.3, 1.3, 0.7, 0.8, 1.2, 1.0, 1.0])
    saturation = torch.tensor([1.3, 1.3, 0.7, 0.7, 1.2, 0.8, 1.2, 0.8])
    result = augment.jitter(images, brightness, contrast, saturation)
    for index, (image, changed) in enumerate(zip(images, result, strict=True)):
        expected = V.adjust_brightness(image, brightness[index].item())
        expected = V.adjust_contrast(expected, contrast[index].item())
        expected = V.adjust_saturation(expected, saturation[index].item())
        assert furthest(expected, changed) <= 4  # torchvision cuts decimals off three times


# --- normalisation and what comes after it


@pytest.mark.parametrize("memory", FORMATS)
def test_pictures_are_normalised_as_by_torchvision(memory):
    images = noisy(3).contiguous(memory_format=memory)
    before = images.clone()
    result = augment.normalise(images)
    expected = V.normalize(images.float() / 255, MEAN, STD)
    assert result.dtype == torch.float32 and result.shape == images.shape and is_channels_last(result)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert torch.equal(images, before)
    assert torch.equal((augment.denormalise(result) * 255).round().byte(), images)


def test_a_validation_before_the_training_leaves_constants_that_can_be_trained_with():
    augment.per_row_stats.cache_clear(), augment.statistics.cache_clear()
    with torch.inference_mode():
        augment.denormalise(augment.normalise(noisy(2)))
    images, _ = Augment(32, noise=0.1)(noisy(2), seed())
    convolution = torch.nn.Conv2d(3, 1, 3)
    convolution(images).sum().backward()
    assert convolution.weight.grad.isfinite().all()


def test_noise_has_its_deviation_on_the_scale_of_the_pictures():
    images = noisy(64, 64, 64)
    clean = augment.normalise(images)
    noise = (augment.denormalise(augment.add_noise(clean.clone(), 0.1, seed())) - augment.denormalise(clean)).double()
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    for channel in range(3):
        assert noise[:, channel].std().item() == pytest.approx(0.1, rel=0.01)
    assert (noise.abs() < 0.1).double().mean().item() == pytest.approx(0.683, abs=0.003)  # of a Gaussian


def test_erased_is_one_box_of_some_pictures():
    images = torch.ones(4000, 3, 40, 50).contiguous(memory_format=torch.channels_last)
    erased = augment.erase(images, 0.25, torch.rand(5, 4000, generator=seed())) == 0
    assert torch.equal(erased[:, :1].expand_as(erased), erased)  # all channels alike
    hit = erased.any(dim=(1, 2, 3))
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.02)
    erased = erased[hit, 0]
    heights, widths = erased.any(dim=2).sum(1), erased.any(dim=1).sum(1)
    area = erased.sum(dim=(1, 2))
    assert torch.equal(area, heights * widths)  # a box
    assert 0.01 < area.min() / 2000 < 0.03 and 0.30 < area.max() / 2000 < 0.35
    ratios = widths / heights
    assert 0.25 < ratios.min() < 0.4 and 2.7 < ratios.max() < 4
    assert ratios.log().mean().abs() < 0.06
    everywhere = erased.float().mean(dim=0)
    assert min(everywhere[0].max(), everywhere[-1].max(), everywhere[:, 0].max(), everywhere[:, -1].max()) > 0
    assert everywhere[20, 25] > 0.1
    assert (augment.erase(torch.ones(50, 3, 8, 8), 1.0, torch.rand(5, 50)) == 0).any(dim=(1, 2, 3)).all()


# --- mixtures

CLASSES = 5


def batch(n=8):
    images = torch.randn(n, 3, 24, 30, generator=seed()).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(CLASSES, (n,), generator=seed(1))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_mixup_is_torchvisions(monkeypatch, share):
    images, target = batch()
    monkeypatch.setattr(augment, "beta", lambda alpha, n, generator, device: torch.full((n,), share))
    transform = v2.MixUp(num_classes=CLASSES)
    transform.make_params = lambda flat_inputs: {"lam": share}
    expected = transform(images, target)
    result = Augment(24, mixup=0.3).mix(images, target, CLASSES, seed())
    assert result[1].dtype == torch.float32 and is_channels_last(result[0])
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kept", [0.0, 0.21, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.4), (0.99, 0.1)])
def test_cutmix_is_torchvisions(monkeypatch, kept, place):
    images, target = batch()
    uniform = torch.tensor(place).unsqueeze(1).expand(2, 8)
    boxes = augment.cut_boxes(uniform, torch.full((8,), kept), 24, 30)
    with monkeypatch.context() as patch:
        draws = iter([torch.tensor(int(place[1] * 30)), torch.tensor(int(place[0] * 24))])
        patch.setattr(torch, "randint", lambda *args, **options: next(draws))
        transform = v2.CutMix(num_classes=CLASSES)
        transform._dist.sample = lambda shape: torch.tensor(kept)
        params = transform.make_params([images])
    x1, y1, x2, y2 = params["box"]
    assert boxes.tolist() == [[y1, x1, y2 - y1, x2 - x1]] * 8
    transform.make_params = lambda flat_inputs: params
    expected = transform(images, target)
    monkeypatch.setattr(augment, "cut_boxes", lambda *args: boxes)
    result = Augment(24, cutmix=1.0).mix(images, target, CLASSES, seed())
    assert torch.equal(result[0], expected[0]) and is_channels_last(result[0])
    torch.testing.assert_close(result[1], expected[1])


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_every_picture_is_mixed_by_a_share_of_its_own_and_its_label_too(options):
    """Picture k is black or white as its label says, so that its mean shows what it is made of."""
    target = torch.arange(400) % 2
    images = target.float().view(-1, 1, 1, 1).expand(-1, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    result, labels = Augment(20, **options).mix(images, target, 2, seed())
    torch.testing.assert_close(result.mean(dim=(1, 2, 3)), labels[:, 1])
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(400))
    assert len(labels[:, 1].unique()) > 100 and labels.min() < 0.1 and labels.max() > 0.9
    assert 0.4 < labels.mean() < 0.6
    cut = ((result == 0) | (result == 1)).all(dim=1).flatten(1).all(dim=1).float().mean()  # pixels of one picture each
    both = len(options) == 2
    assert 0.35 < cut < 0.65 if both else cut == ("cutmix" in options) or cut < 0.05


def test_without_mixtures_labels_stay_labels():
    images, target = batch()
    result = Augment(24).mix(images, target, CLASSES, None)
    assert result[0] is images and result[1] is target


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.2, 1.0, 8.0])
def test_shares_are_of_the_beta_distribution(alpha):
    draws = augment.beta(alpha, 20000, seed(), "cpu").double()
    assert draws.isfinite().all() and draws.min() >= 0 and draws.max() <= 1
    reference = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(alpha).double())
    folded = (draws - 0.5).abs()  # of the smallest alphas float32 knows "one or the other" only
    assert folded.square().mean().item() == pytest.approx(reference.variance.item(), rel=0.04)
    if alpha >= 0.2:
        assert draws.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_confusion_meter_takes_the_largest_share_for_the_truth():
    hard, soft = ConfusionMeter("abc"), ConfusionMeter("abc")
    scores = torch.randn(50, 3, generator=seed())
    target = torch.randint(3, (50,), generator=seed(1))
    hard.add(scores, target)
    soft.add(scores, torch.full((50, 3), 0.2).scatter_(1, target.unsqueeze(1), 0.6))
    assert (hard.value() == soft.value()).all() and hard.value().sum() == 50


# --- all together

EVERYTHING = {"rotate": 15, "color_jitter": 0.4, "noise": 0.05, "random_erasing": 0.5}


@pytest.mark.parametrize("options", [{}, EVERYTHING, {"flip": 0}, *({name: EVERYTHING[name]} for name in EVERYTHING)])
def test_a_batch_depends_on_nothing_but_the_generator(options):
    images = noisy(6)
    apply = lambda number: Augment(32, **options)(images, seed(number))  # noqa: E731
    result, masks = apply(1)
    assert result.shape == (6, 3, 32, 32) and result.dtype == torch.float32 and masks is None
    assert is_channels_last(result)
    assert torch.equal(result, apply(1)[0]) and not torch.equal(result, apply(2)[0])


def test_one_draw_per_picture():
    same = noisy(1).expand(6, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    result, _ = Augment(32, flip=0, **{**EVERYTHING, "noise": 0})(same, seed())
    assert len({tuple(image.flatten().tolist()) for image in result}) == 6


def test_every_change_has_its_own_draws(monkeypatch):
    """Else all rotated pictures would be bright ones, say; numbers that follow from each other have the same order."""

    def watch(name, values):
        function = getattr(augment, name)
        monkeypatch.setattr(augment, name, lambda *given: drawn.extend(values(*given)) or function(*given))

    drawn = []
    watch("crop_boxes", lambda uniform, *_: uniform)
    watch("rotate", lambda images, degrees: [degrees])
    watch("jitter", lambda images, *factors: factors)
    watch("erase", lambda images, probability, uniform: uniform)
    watch("cut_boxes", lambda uniform, *_: uniform)
    Augment(32, **EVERYTHING)(noisy(20), seed())
    assert len({tuple(values.argsort().tolist()) for values in drawn}) == len(drawn) == 4 + 1 + 3 + 5

    drawn = []
    images = torch.tensor([0.0, 1.0]).repeat(100).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    mixed, _ = Augment(32, mixup=1.0, cutmix=1.0).mix(images, torch.zeros(200, dtype=torch.int64), 2, seed())
    pasted = (mixed.frac() == 0).flatten(1).all(dim=1)  # a blend is grey
    for uniform in drawn:  # whether a box is pasted says nothing about its place
        assert (uniform[pasted] < 0.5).float().mean() == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("name", ["rotate", "color_jitter", "noise", "random_erasing"])
def test_an_option_changes_nothing_but_what_it_is_for(name):
    """The other draws stay as they are: of another option's effect a difference of the crops would show more."""
    images = noisy(40)[1::2]  # smooth ones
    plain = Augment(48)(images, seed())[0]
    slight = {"rotate": 0.5, "color_jitter": 0.02, "noise": 0.01, "random_erasing": 0.5}[name]
    changed = Augment(48, **{name: slight})(images, seed())[0]
    assert not torch.equal(plain, changed)
    assert (changed - plain).abs().flatten(1).median(dim=1).values.max() < 0.2
    other = Augment(48)(images, seed(1))[0]
    assert (other - plain).abs().flatten(1).median(dim=1).values.median() > 0.4


def test_flips_are_as_frequent_as_asked_for():
    images = torch.arange(64, dtype=torch.uint8).mul(4).expand(2000, 3, 64, 64)  # brighter to the right
    for probability in (0.0, 0.3, 1.0):
        result, _ = Augment(16, flip=probability)(images.contiguous(memory_format=torch.channels_last), seed())
        flipped = (result[:, 0, :, 0].mean(dim=1) > result[:, 0, :, -1].mean(dim=1)).float().mean().item()
        assert flipped == pytest.approx(probability, abs=0.03 if probability % 1 else 0)


def test_colors_and_angles_are_spread_over_what_was_asked_for(monkeypatch):
    seen = {}
    monkeypatch.setattr(augment, "jitter", lambda images, *factors: seen.update(factors=factors) or images)
    monkeypatch.setattr(augment, "rotate", lambda images, degrees: seen.update(degrees=degrees) or images)
    images = noisy(1, 8, 8).expand(5000, -1, -1, -1)
    Augment(8, rotate=20, color_jitter=0.4)(images, seed())
    assert -20 <= seen["degrees"].min() < -19.8 and 19.8 < seen["degrees"].max() <= 20
    for factor in seen["factors"]:
        assert 0.6 <= factor.min() < 0.605 and 1.395 < factor.max() <= 1.4
        assert factor.mean().item() == pytest.approx(1, abs=0.01)
    draws = torch.stack([seen["degrees"], *seen["factors"]])
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.06
    Augment(8, color_jitter=2.0)(images, seed())
    assert all(0 <= factor.min() < 0.01 and 2.99 < factor.max() <= 3 for factor in seen["factors"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and HEARTH_TEST_GPU=1")
def test_a_gpu_augments_without_being_waited_for():
    images, target = noisy(8).cuda(), torch.randint(CLASSES, (8,)).cuda()
    masks = torch.randint(256, (8, 96, 80), dtype=torch.uint8).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    change = Augment(48, **EVERYTHING, mixup=0.2, cutmix=1.0)
    change(images, generator, masks)  # constants are made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        result, _ = change(images, generator, masks)
        result, labels = change.mix(result, target, CLASSES, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.isfinite().all() and is_channels_last(result) and labels.sum().item() == pytest.approx(8, abs=1e-3)
    boxes, flip = torch.tensor(BOXES[:7]), torch.arange(7) % 2 == 0
    on_gpu = augment.resized_crop(images[:7], boxes.cuda(), flip.cuda(), (48, 64))
    assert furthest(augment.resized_crop(images[:7].cpu(), boxes, flip, (48, 64)), on_gpu.cpu()) <= 2
