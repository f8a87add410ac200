"""Masks as people save them: each is read in the only possible way, or refused in one line that says what decides."""

import io
import re

import numpy as np
import pytest
from drawn import paint
from PIL import Image, ImageFilter

from data import MaskFolder
from data.broken import refuse_broken
from data.pictures import mask_reading
from data.pictures.mask_tables import PALETTE
from data.pictures.masks import MaskReader
from utils import UserError

LEFT, TOP = (np.arange(32) < 16).astype(np.uint8) * np.ones((32, 1), np.uint8), np.zeros((32, 32), np.uint8)
TOP[:16] = 1  # both have their classes in half of the pixels
BLACK, RED = (0, 0, 0), (200, 10, 30)
COLORS = {"colors": "0 0 0 ground\n200 10 30 thing\n"}
TABLE = "are read by the colours of "
TWO = {"class_name": "ground\nthing\n"}


def rgb(mask, *colors):
    return np.array(colors, dtype=np.uint8)[mask]


def with_palette(mask, *colors):
    file = Image.fromarray(mask, "P")
    file.putpalette(np.array(colors, dtype=np.uint8).tobytes())
    return file


def soft(mask):
    """A mask of 0 and 255 with soft edges, which cut at 128 gives it back."""
    return Image.fromarray(255 * mask).filter(ImageFilter.GaussianBlur(3))


def jpeg(mask):
    """An image that went through JPEG."""
    file = io.BytesIO()
    mask.save(file, "JPEG", quality=75)
    return Image.open(file)


def save(root, masks, suffix="png", **texts):
    """Pictures and their masks, arrays or images, as 0, 1, ...; and texts as <name>.txt. Returns the folder."""
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        paint(root / "images" / f"{number}.png", number=number, size=mask.size)
        mask.save(root / "masks" / f"{number}.{suffix}")
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
    return root


def read(root):
    """(the MaskFolder, {number: its mask, uint8 [32, 32]}); none may be broken."""
    data = MaskFolder(root, "val", image_size=32, val_data_root=[root])
    assert not data.broken
    return data, {int(sample.path.stem): data[index][1].numpy() for index, sample in enumerate(data.samples)}


KINDS = {  # how a mask of 0 and 1 is saved, what is beside it, and what is said
    "0 and 1": (lambda mask: mask, {}, ""),
    "0 and 255": (lambda mask: 255 * mask, {}, "hold 0 and 255 alone: 255 is read as class 1"),
    "0 and 255, two names": (lambda mask: 255 * mask, TWO, "255 is read as class 1"),
    "16 bits": (lambda mask: mask.astype(np.uint16), {}, ""),
    "white of 16 bits": (lambda mask: mask.astype(np.uint16) * 65535, {}, "255 is read as class 1"),
    "floats": (lambda mask: mask.astype(np.float32), {"suffix": "tif"}, ""),
    "three channels": (lambda mask: np.dstack([mask] * 3), {}, ""),
    "four channels": (lambda mask: np.dstack([mask, mask, mask, 0 * mask + 255]), {}, ""),
    "grey and opaque": (lambda mask: Image.fromarray(mask).convert("LA"), {}, ""),
    "GIF": (lambda mask: mask, {"suffix": "gif"}, ""),
    "indices": (lambda mask: with_palette(mask, BLACK, RED), {}, ""),
    "indices beside a table": (
        lambda mask: with_palette(mask, BLACK, RED), {"colors": "200 10 30 thing\n0 0 0 ground\n"}, ""),
    "palettes in two orders": (
        lambda mask: with_palette(*((mask, BLACK, RED) if mask is LEFT else (1 - mask, RED, BLACK))), COLORS, TABLE),
    "colours": (lambda mask: rgb(mask, BLACK, RED), COLORS, TABLE),
    "CamVid": (lambda mask: rgb(mask, BLACK, RED), {"label_colors": "0 0 0\tground\n200 10 30\ta thing\n"}, TABLE),
    "CVAT": (lambda mask: rgb(mask, BLACK, RED), {"labelmap": "# label\nground:0,0,0::\na thing:200,10,30::\n"}, TABLE),
    "names in an order": (lambda mask: rgb(1 - mask, BLACK, RED), COLORS | {"class_name": "thing\nground\n"}, TABLE),
    "greys of a table": (lambda mask: 130 * mask, {"colors": "130 130 130 thing\n0 0 0 ground\n"} | TWO, TABLE),
    "VOC": (lambda mask: rgb(mask, *PALETTE[:2]), TWO, "have the colours of PASCAL VOC"),
    "soft": (soft, TWO, "have soft edges .* cut at 128 into ground and thing"),
    "JPEG": (soft, TWO | {"suffix": "jpg"}, "cut at 128"),
    "JPEG that was saved as PNG": (lambda mask: jpeg(soft(mask)), TWO, "cut at 128"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_two_classes_are_the_same_however_they_are_saved(tmp_path, kind, capsys):
    saved, options, said = KINDS[kind]
    data, found = read(save(tmp_path, [saved(LEFT), saved(TOP)], **options))
    assert (found[0] == LEFT).all() and (found[1] == TOP).all() and len(data.classes) == 2
    notes = [line for line in capsys.readouterr().out.splitlines() if line]
    assert bool(notes) == bool(said) and re.search(said, " ".join(notes))


def refused(root, *texts, masks=(), **options):
    """MaskFolder or refuse_broken refuses what is saved in `root`, in one line with all these texts."""
    with pytest.raises(UserError) as error:
        refuse_broken(MaskFolder(save(root, masks, **options), "val", image_size=32, val_data_root=[root]))
    line = str(error.value)
    assert all(text in line for text in texts) and "\n" not in line, line
    return line


def test_masks_that_can_be_read_in_two_ways_are_refused_with_what_decides(tmp_path, capsys):
    cut = "0 and 1, cut at 128, or name two classes in class_name.txt"
    refused(tmp_path / "soft", "/masks/0.png has ", " values, most of them only at edges", cut, masks=[soft(LEFT)] * 2)
    refused(tmp_path / "jpeg", "values", cut, masks=[jpeg(soft(LEFT))] * 2)
    sharper = Image.fromarray(255 * LEFT).filter(ImageFilter.GaussianBlur(0.7))  # a handful of values
    refused(tmp_path / "sharper", "soft edges", cut, masks=[sharper] * 2)
    several = Image.fromarray(80 * LEFT + 80 * TOP).filter(ImageFilter.GaussianBlur(3))
    refused(tmp_path / "several", "write PNG files of the classes, without smoothing", masks=[several] * 2)
    three = {"class_name": "a\nb\nc\n"}
    refused(tmp_path / "named", "write PNG files of", masks=[soft(LEFT)] * 2, **three)
    palettes = [with_palette(LEFT, BLACK, RED), with_palette(TOP, RED, BLACK)]
    refused(tmp_path / "palettes", "/masks/0.png", "/masks/1.png", "index 0 is ", "colors.txt", masks=palettes)
    refused(
        tmp_path / "unnamed", "have colours (0 0 0, 200 10 30, ...)", "colors.txt", masks=[rgb(LEFT, BLACK, RED)] * 2
    )
    refused(tmp_path / "one", "it has colours, 200 10 30 say", masks=[LEFT, rgb(LEFT, BLACK, RED)])
    glass = np.dstack([LEFT, LEFT, LEFT, 255 * TOP])
    refused(tmp_path / "glass", "it has transparent pixels", masks=[glass] * 2)
    refused(tmp_path / "half", "a pixel is 0.5", masks=[LEFT * np.float32(0.5)] * 2, suffix="tif")
    several = Image.fromarray(80 * LEFT + 80 * TOP)
    (tmp_path / "colors.txt").write_text("0 0 0 a\n80 80 80 b\n160 160 160 c\n")  # the folder above will do
    assert read(save(tmp_path / "levels", [several] * 2))[0].classes == ["a", "b", "c"]
    (tmp_path / "colors.txt").unlink()
    assert len(read(tmp_path / "levels")[0].classes) == 161
    said = capsys.readouterr().out.splitlines()[-1]
    assert "3 values up to 160, which are read as class numbers: if they are grey levels, colors.txt" in said
    refused(tmp_path / "other", "its colour 1 2 3 is not in", masks=[rgb(LEFT, RED, (1, 2, 3))] * 2, **COLORS)


def test_masks_that_were_not_looked_at_may_not_contradict_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_reading, "LOOKED_AT", 1)
    first, second = ([255 * LEFT, 255 * LEFT + (LEFT == 0) * TOP][::way] for way in (1, -1))
    texts = " has pixels of 1, while the first masks hold 0 and 255 alone", "a third line in class_name.txt"
    lines = []
    for number, masks in enumerate((first, second)):  # one of the two is looked at first
        root = save(tmp_path / str(number), masks)
        try:
            data = MaskFolder(root, "val", image_size=32, val_data_root=[root])
            assert data.classes == ["class 0", "class 1"]
        except UserError as error:
            lines.append(str(error))
    assert len(lines) == 1 and all(text in lines[0] for text in texts)
    data, found = read(save(tmp_path / "0", [], class_name="a\nb\nc\n"))
    assert set(np.unique(found[0])) | set(np.unique(found[1])) == {0, 1, 255}
    monkeypatch.setattr(mask_reading, "LOOKED_AT", 1)
    palettes = [with_palette(LEFT, BLACK, RED), with_palette(TOP, RED, BLACK)]
    refused(tmp_path / "palettes", "index 0 is ", "/masks/0.png", "/masks/1.png", masks=palettes)


def test_classes_with_gaps_and_ignored_pixels_stay_as_they_are(tmp_path, capsys):
    mask = 7 * LEFT + 19 * LEFT * TOP
    mask[:2, :2] = 255
    data, found = read(save(tmp_path, [mask, mask]))
    assert len(data.classes) == 27 and (found[0] == mask).all() and not capsys.readouterr().out
    black, red = ([BLACK, RED, *[BLACK] * 253, color] for color in (BLACK, RED))  # where it is ignored, all are equal
    ignoring = np.where(TOP == 1, LEFT, 255).astype(np.uint8)
    read(save(tmp_path / "palettes", [with_palette(ignoring, *black), with_palette(ignoring, *red)]))
    tiny = np.zeros((32, 32), np.uint8)
    tiny[::5, ::5], tiny[1::5, 1::5], tiny[20:] = 1, 2, 255  # single pixels: no soft edges
    data, found = read(save(tmp_path / "tiny", [tiny, tiny]))
    assert len(data.classes) == 3 and (found[1] == tiny).all()


def test_pixels_of_the_last_names_called_void_are_ignored_and_another_name_makes_them_a_class(tmp_path, capsys):
    mask = LEFT + 2 * TOP  # 0 to 3
    ignored = np.where(mask > 1, 255, mask)
    for name, masks in (
        ("values", [mask, mask]),
        ("palettes", [with_palette(mask, BLACK, RED, (1, 2, 3), (9, 9, 9))] * 2),
        ("colors", [rgb(mask, *PALETTE[:4])] * 2),
    ):
        root = save(tmp_path / name, masks, class_name="ground\nthing\nUnlabelled\nvoid\n")
        data, found = read(root)
        assert data.classes == ["ground", "thing"] and (found[0] == ignored).all(), name
        assert "pixels of Unlabelled, void are ignored" in capsys.readouterr().out, name
        (root / "class_name.txt").write_text("void\nthing\nsky\nvoids\n")  # of which none is last
        data, found = read(root)
        assert len(data.classes) == 4 and (found[0] == mask).all(), name
        said = capsys.readouterr().out
        assert ("void is class 0, because class_name.txt has others after it" in said) is (name != "colors"), name
    save(tmp_path / "values", [mask, np.where(mask < 2, 2, mask)], class_name="ground\nthing\nignore\nvoid\n")
    refused(tmp_path / "values", "1.png (all 2 or 3, which is ignored)")


def test_names_that_do_not_count_are_named(tmp_path, capsys, monkeypatch):
    def said(*roots, **options):
        monkeypatch.setattr("utils.notices._said", set())
        MaskFolder([str(root) for root in roots], "val", image_size=32, **options)
        return capsys.readouterr().out

    named, other, equal, plain = (save(tmp_path / name, [LEFT, TOP, LEFT, TOP], **TWO) for name in "abcd")
    file, another, lost = (root / "class_name.txt" for root in (named, other, plain / "masks"))
    another.write_text("thing\nground\n")
    (plain / "class_name.txt").rename(lost)
    assert "not read" not in said(plain, named, equal, val_data_root=[str(equal)])
    wanted = f"not read: {another}; {file} names the classes"
    assert wanted in said(named, other) and wanted in said(named, equal, val_data_root=[str(other)])
    assert f"not read: {lost}; it would have to be in {plain}" in said(plain)
    wanted = f"not read: {another}, {lost}; it would have to be in {plain}"
    assert wanted in said(plain, val_data_root=[str(other)])
    lost.write_text("")  # it need not be sound
    assert wanted in said(plain, val_data_root=[str(other)])
    (other / "colors.txt").write_text("0 0 0 ground\n200 10 30 thing\n")
    Image.fromarray(rgb(TOP, BLACK, RED)).save(plain / "masks" / "1.png")
    assert MaskFolder([plain, other], "val", image_size=32, val_data_root=[plain]).classes == ["thing", "ground"]
    (plain / "class_name.txt").write_text("void\n")
    refused(plain, "class_name.txt lists no class, void alone")
    file.write_text("ground\n\nthing\n")
    refused(named, f"{file} has nothing in line 2, but a name after it")
    file.write_text("ground\nthing\n\n\n")
    assert MaskFolder(named, "val", image_size=32).classes == ["ground", "thing"]


def test_a_value_behind_the_last_name_is_refused_with_what_ignores_it(tmp_path):
    data = MaskFolder(save(tmp_path, [LEFT, LEFT + TOP], **TWO), "val", image_size=32, val_data_root=[tmp_path])
    (broken,) = data.broken
    assert broken.endswith(
        "(a pixel is 2; the classes are 0 to 1, and 255 is ignored; another line in class_name.txt, void, ignores it)"
    )


def test_a_mask_of_another_size_is_resized_if_its_proportions_are_the_pictures(tmp_path):
    root = save(tmp_path, [LEFT, TOP])
    for number, size in ((0, (64, 64)), (1, (13, 13))):
        paint(root / "images" / f"{number}.png", number=number, size=size)
    _, found = read(root)
    assert (found[0] == LEFT).all() and (found[1] == TOP).all()
    paint(root / "images" / "1.png", size=(64, 48))
    refused(tmp_path, "1.png (32x32, but its picture 64x48)")


def test_the_labels_of_cityscapes(tmp_path, capsys):
    ids = np.where(LEFT, 7, 24).astype(np.uint8)  # road and person
    ids[:2] = 3  # out of the region of interest
    for number in "ab":
        paint(tmp_path / "leftImg8bit" / "train" / "ulm" / f"ulm_0_{number}_leftImg8bit.png", size=(32, 32))
        folder = tmp_path / "gtFine" / "train" / "ulm"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(folder / f"ulm_0_{number}_gtFine_labelIds.png")
        Image.fromarray(ids.astype(np.uint16) * 1000).save(folder / f"ulm_0_{number}_gtFine_instanceIds.png")
        colors = rgb(LEFT, (220, 20, 60), (128, 64, 128))
        Image.fromarray(colors).save(folder / f"ulm_0_{number}_gtFine_color.png")
    root = tmp_path / "leftImg8bit" / "train"

    def first():
        data = MaskFolder(root, "val", image_size=32, val_data_root=[root])
        return data.classes, data[0][1].numpy()

    classes, mask = first()
    said = capsys.readouterr().out
    assert len(classes) == 25 and (mask == ids).all() and "the mask of x_leftImg8bit is x_gtFine_labelIds" in said
    assert "class_name.txt lists road, sidewalk, building" in said and "parking" not in said
    (root / "class_name.txt").write_text("person\nroad\n")
    classes, mask = first()
    assert classes == ["person", "road"] and (mask[2:] == LEFT[2:]).all() and (mask[:2] == 255).all()
    for path in folder.glob("*labelIds.png"):
        path.unlink()
    classes, mask = first()
    assert classes == ["person", "road"] and (mask == LEFT).all()
    (root / "class_name.txt").unlink()
    classes, mask = first()
    assert len(classes) == 19 and classes[0] == "road" and (mask == np.where(LEFT, 0, 11)).all()
    with pytest.raises(UserError, match=f"leftImg8bit has no pictures, but {root} has: give that"):
        MaskFolder(tmp_path, "val", image_size=32)


def test_one_file_per_object_or_per_class(tmp_path, capsys):
    for number, word in ((0, "x"), (1, "y")):
        paint(tmp_path / "images" / f"{word}.png", size=(32, 32))
        (tmp_path / "masks" / word).mkdir(parents=True)
        Image.fromarray((255 if number else 1) * LEFT * TOP).save(tmp_path / "masks" / word / "1.png")
        Image.fromarray(255 * (1 - LEFT) * (1 - TOP)).save(tmp_path / "masks" / word / "2.png")
    data = MaskFolder(tmp_path, "val", image_size=32, val_data_root=[tmp_path])
    assert data.classes == ["class 0", "class 1"] and "one file per object" in capsys.readouterr().out
    assert all((data[index][1].numpy() == (LEFT == TOP)).all() for index in (0, 1))
    for path in [*tmp_path.glob("masks/*/2.png")]:
        path.rename(path.with_name("roof.png"))
    refused(tmp_path, "2 pictures have a mask roof", "for a file per class, class_name.txt", "number them 1, 2")
    for path in [*tmp_path.glob("masks/*/1.png")]:
        path.rename(path.with_name("door.png"))
    (tmp_path / "class_name.txt").write_text("wall\ndoor\nroof\n")
    data = MaskFolder(tmp_path, "val", image_size=32, val_data_root=[tmp_path])
    expected = LEFT * TOP + 2 * (1 - LEFT) * (1 - TOP)
    assert all((data[index][1].numpy() == expected).all() for index in (0, 1))
    (tmp_path / "class_name.txt").write_text("wall\ndoor\nvoid\n")
    for path in [*tmp_path.glob("masks/*/roof.png")]:
        path.rename(path.with_name("void.png"))
    data = MaskFolder(tmp_path, "val", image_size=32, val_data_root=[tmp_path])
    assert data.classes == ["wall", "door"]
    assert all((data[index][1].numpy() == np.where(expected == 2, 255, expected)).all() for index in (0, 1))
    Image.fromarray(3 * LEFT).save(tmp_path / "masks" / "x" / "door.png")
    refused(tmp_path, "door.png (one file per object holds 0 and 1, or 0 and 255)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: lines `red green blue name` are needed"),
        ("0 0 0 ground\nthing\n", "has the line thing: lines `red green blue name`"),
        ("0 0 300 ground\n", "red, green and blue are 0 to 255"),
        ("0 0 0 ground\n0 0 0 thing\n", "gives 0 0 0 two names"),
        ("0 0 0 7\n", "has the line 0 0 0 7, whose name may be its first or last number"),
    ],
)
def test_a_colour_table_that_cannot_be_read_is_one_line(tmp_path, text, said):
    refused(tmp_path, "colors.txt", said, masks=[LEFT, TOP], colors=text)


def test_a_pack_of_masks_as_they_were_read_before_is_made_again(tmp_path, monkeypatch, capsys):
    root, options = save(tmp_path / "set", [LEFT, TOP]), {"image_size": 32, "pack": True, "pack_dir": tmp_path}
    monkeypatch.setattr(MaskReader, "version", 2)
    MaskFolder(root, "train", **options)
    monkeypatch.undo()
    MaskFolder(root, "train", **options)
    assert "is made again: it is of an older version" in capsys.readouterr().out
    MaskFolder(root, "train", **options)
    assert not capsys.readouterr().out and len(list(tmp_path.glob("*.u8"))) == 1
