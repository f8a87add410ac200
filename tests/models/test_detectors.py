"""Mask R-CNN and SSD: they learn as torchvision's own, and find boxes whatever the precision."""

import pytest
import torch
from coco_files import all_of, batch_of, content, write

import models
from utils import UserError
from utils.train.device import to_device
from utils.train.loader import make_loader
from utils.train.seeds import seed_step


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The COCO file of content(); not to be changed by a test."""
    return write(tmp_path_factory.mktemp("coco"), content())


def test_mask_rcnn_learns_exactly_as_torchvisions_own(drawn):
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    data = all_of(drawn, "train", repeat=20)
    batches = [batch for batch, _ in zip(make_loader(data, 2, 0, seed=0), range(5), strict=False)]

    def curve(model, optimizer, losses_of):
        losses = []
        model.train()
        for step, batch in enumerate(batches):
            images, target = data.prepare(*to_device(batch, "cpu"), seed_step(0, step, "cpu"))
            optimizer.zero_grad()
            loss = sum(losses_of(images, target).values())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    torch.manual_seed(0)
    ours = models.MaskRCNN(4, proposals=16)
    torch.manual_seed(0)
    own = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        rpn_pre_nms_top_n_train=16,
        rpn_post_nms_top_n_train=16,
        box_batch_size_per_image=8,
        _skip_resize=True,
    )
    optimizer = ours.get_optimizer("SGD", 0.002, 1e-4, 0.9)
    first = curve(ours, optimizer, lambda images, target: ours.objective(images, target)[1])
    weights, others = ([p for p in own.parameters() if (p.ndim > 1) == large] for large in (True, False))
    groups = [{"params": weights, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0}]
    second = curve(own, torch.optim.SGD(groups, lr=0.002, momentum=0.9), own)
    assert first == pytest.approx(second, abs=1e-5) and len(set(first)) == 5 and first[-1] < first[0]


@pytest.mark.parametrize("name", ["MaskRCNN", "SSD"])
def test_detectors_give_losses_in_training_and_detections_else(drawn, tmp_path, name):
    torch.manual_seed(0)
    options = {"proposals": 20} if name == "MaskRCNN" else {}
    model, data = getattr(models, name)(4, **options), all_of(drawn, "train")
    masks = name == "MaskRCNN"
    images, target = batch_of(data)
    images, target = images[:2], target[:2]
    score, losses = model.objective(images, target)
    kinds = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert score == [] and set(losses) == (kinds if masks else {"bbox_regression", "classification"})
    empty = [{**one, **{key: one[key][:0] for key in ("boxes", "labels", "masks")}} for one in target]
    for nothing in ([empty[0], target[1]], empty):
        _, losses = model.objective(images, nothing)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    sizes = []
    model.detector.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2:]))
    val = all_of(drawn)
    with torch.inference_mode():
        score, losses = model.objective(images, target)
        found = model.decode(score)
        again = model.predict(images)
    assert losses == {} and len(found) == 2 and torch.equal(found[1]["boxes"], again[1]["boxes"])
    assert sizes[0] == ((64, 64) if masks else (48, 64))  # the pictures as they are (padded for the FPN), no other size
    assert set(found[0]) == {"boxes", "labels", "scores"} | ({"masks"} if masks else set())
    assert not masks or found[0]["masks"].shape[1:] == (1, 48, 64)
    meter = val.meter()
    meter.add(found, target)
    assert 0 <= meter.summary()["box_ap"] <= 100 and ("mask_ap" in meter.summary()) is masks

    own = model.detector.state_dict()  # a checkpoint of torchvision's own fits
    torch.save(own, tmp_path / "own.pth")
    fresh = getattr(models, name)(4, **options)
    fresh.load(tmp_path / "own.pth")
    assert all(torch.equal(value, own[key]) for key, value in fresh.detector.state_dict().items())
    fresh.freeze_body()
    assert {key.split(".")[1] for key, p in fresh.named_parameters() if p.requires_grad} == {
        "roi_heads" if masks else "head"
    }
    before = {key: value.clone() for key, value in fresh.detector.backbone.state_dict().items()}
    _, losses = fresh.train().objective(images, target)
    sum(losses.values()).backward()  # also without those of the frozen first stage
    assert all(torch.equal(value, before[key]) for key, value in fresh.detector.backbone.state_dict().items())
    with pytest.raises(UserError, match=f"{name} learns with its own losses: leave --criterion=focal out"):
        model.set_criterion("focal")
    with pytest.raises(UserError, match="leave --class-weights out"):
        model.set_criterion(None, [1.0, 2.0])


def test_mask_rcnn_without_masks_is_faster_rcnn_and_its_mask_head_has_widths(drawn):
    images, target = (part[:1] for part in batch_of(all_of(drawn, "train")))
    model = models.MaskRCNN(4, proposals=20, masks=False)
    assert not [name for name, _ in model.named_parameters() if "mask" in name]
    _, losses = model.objective(images, target)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    with torch.inference_mode():
        assert set(model.eval().predict(images)[0]) == {"boxes", "labels", "scores"}
    narrow = models.MaskRCNN(4, proposals=20, width=0.25).eval()
    assert narrow.detector.roi_heads.mask_predictor.mask_fcn_logits.weight.shape == (4, 64, 1, 1)
    with torch.inference_mode():
        assert narrow.predict(images)[0]["masks"].shape[1:] == (1, 48, 64)


def test_keypoint_rcnn_learns_points_and_finds_them(drawn):
    torch.manual_seed(0)
    model = models.KeypointRCNN(4, proposals=8, keypoints=3).to(memory_format=torch.channels_last)
    model.detector.roi_heads.detections_per_img = 4  # the points of each take long
    images, target = (part[:1] for part in batch_of(all_of(drawn, "train")))
    for one in target:
        center = (one["boxes"][:, :2] + one["boxes"][:, 2:]) / 2
        one["keypoints"] = torch.cat([center, torch.full_like(center[:, :1], 2)], dim=1)[:, None].repeat(1, 3, 1)
    score, losses = model.objective(images, target)
    boxes = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert score == [] and set(losses) == boxes | {"loss_keypoint"} and losses["loss_keypoint"] > 0
    sum(losses.values()).backward()
    assert model.detector.roi_heads.keypoint_predictor.kps_score_lowres.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        found = model.eval().predict(images)
    assert found[0]["keypoints"].shape == (len(found[0]["boxes"]), 3, 3) and model.task == "keypoints"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MaskRCNN", "SSD"])
def test_boxes_keep_their_digits_where_a_model_computes_in_16_bits(name):
    """With 8 of them a place at 600 pixels would be a multiple of 4, and objects of two classes would touch."""
    torch.manual_seed(0)
    model = getattr(models, name)(4, **({"proposals": 40} if name == "MaskRCNN" else {})).eval()
    if name == "MaskRCNN":
        model.detector.roi_heads.detections_per_img = 6  # a mask of each takes long in 16 bits
    generator, anchors = next((m, []) for n, m in model.named_modules() if n.endswith("anchor_generator"))
    generator.register_forward_hook(lambda module, inputs, output: anchors.append(output[0]))
    for key, parameter in model.named_parameters():
        if "bbox_pred" in key or "regression_head" in key:
            torch.nn.init.zeros_(parameter)  # what is found lies where an anchor is
    images = [torch.rand(3, 32, 640)]
    with torch.inference_mode():
        model.predict(images)
        model.precision = "bf16"
        with model.autocast():
            (found,) = model.predict(images)
    assert torch.equal(*anchors)
    places = anchors[0].clamp(min=0).minimum(torch.tensor([640.0, 32.0, 640.0, 32.0]))
    apart = (found["boxes"][:, None] - places).abs().amax(dim=2).amin(dim=1)
    assert len(found["boxes"]) > 5 and found["boxes"].max() > 600 and apart.max() < 0.01
    assert {value.dtype for key, value in found.items() if key != "labels"} == {torch.float32}

    model.train()
    images = [torch.rand(3, 48, 64)]
    target = {"boxes": torch.tensor([[14.3, 3.2, 45.7, 28.9]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 48, 64, dtype=torch.uint8)
    with model.autocast():
        count = 1 if name == "MaskRCNN" else 2  # SSD's BatchNorm needs two
        _, losses = model.objective(images * count, [target] * count)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
