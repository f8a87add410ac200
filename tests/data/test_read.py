"""read_picture: any kind of picture becomes upright RGB."""

import shutil
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from picture_kinds import KINDS, RED_LEFT
from PIL import Image, UnidentifiedImageError

from data.pictures import read
from data.pictures.images import reason
from data.pictures.read import read_picture, upright_size
from utils import notices


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_any_picture_is_read_as_upright_rgb(tmp_path, kind):
    expected = kind(tmp_path / "dog.1.jpg")
    picture = read_picture(tmp_path / "dog.1.jpg", 16)
    assert picture.mode == "RGB" and picture.size[0] == 2 * picture.size[1]
    corner = picture.getpixel((picture.size[0] // 4, picture.size[1] // 2))
    assert all(abs(a - b) < 12 for a, b in zip(corner, expected, strict=True)), corner


def why(path):
    """Why a picture is broken."""
    with pytest.raises(Exception) as error:  # noqa: B017 - decoders raise anything
        read_picture(path)
    return reason(error.value, path)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -3.4e38, 3.4028235e38])
@pytest.mark.filterwarnings("error")
def test_float_pixels_without_data_are_black_and_leave_the_others_as_they_are(tmp_path, odd):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = np.asarray(read_picture(tmp_path / "a.tif"))
    assert pixels[0, 0].tolist() == [0, 0, 0] and set(pixels.reshape(-1, 3)[1:].flatten().tolist()) == {127}
    Image.fromarray(np.full((8, 8), odd)).save(tmp_path / "a.tif")
    assert why(tmp_path / "a.tif") == "all its pixels are NaN or infinite"


def exif_of(*entries, order=b"II*\0"):
    """EXIF with these (tag, type, count, value of 4 bytes); the value of a longer one lies at its end."""
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0" + order + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + struct.pack("<ii", -1, 0)


TURNED = (0x0112, 3, 1, b"\6\0\0\0")


@pytest.mark.parametrize(
    ("exif", "upright"),
    [
        (exif_of(TURNED, (0x011A, 10, 1, struct.pack("<I", 10 + 24 + 4))), True),  # a resolution of -1/0
        (exif_of((0x0100, 2, 4, b"400\0"), TURNED), True),  # a width that is text
        (exif_of(TURNED, order=b"XX*\0"), False),  # damaged: as it is stored
        (exif_of((0x0112, 2, 4, b"abc\0")), False),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_odd_metadata_does_not_break_a_picture(tmp_path, exif, upright, suffix):
    Image.fromarray(RED_LEFT).rotate(90, expand=True).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.size == upright_size(tmp_path / f"a.{suffix}") == ((60, 30) if upright else (30, 60))
    assert picture.getpixel((10, 10) if upright else (15, 50))[0] > 200


def test_the_size_of_a_turned_tiff_is_the_upright_ones(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED_LEFT).save(tmp_path / "a.tif", exif=exif)
    assert read_picture(tmp_path / "a.tif").size == upright_size(tmp_path / "a.tif") == (30, 60)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_png_is_read_whatever_text_it_carries(tmp_path, kind, behind):
    Image.fromarray(RED_LEFT).save(tmp_path / "a.png")
    whole, long = (tmp_path / "a.png").read_bytes(), zlib.compress(bytes(2 << 20))
    start = {b"tEXt": b"", b"zTXt": b"\0", b"iTXt": b"\1\0\0\0", b"iCCP": b"\0"}[kind]
    content = b"name\0" + start + (bytes(70 << 20) if kind == b"tEXt" else long)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    place = -12 if behind else 33  # before the end, or behind the header
    (tmp_path / "a.png").write_bytes(whole[:place] + chunk + whole[place:])
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), RED_LEFT)
    assert upright_size(tmp_path / "a.png") == (60, 30)


def test_an_error_of_another_format_is_not_hidden(tmp_path):
    Image.fromarray(RED_LEFT).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="its own"):
        read.without_text(tmp_path / "a.jpg", ValueError("its own"))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_read_and_one_note_says_so(tmp_path, capsys, monkeypatch, suffix):
    monkeypatch.setattr(notices, "_said", set())
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue", "lime")]
    for name in "ab":
        frames[0].save(tmp_path / f"{name}.{suffix}", save_all=True, append_images=frames[1:])
        assert read_picture(tmp_path / f"{name}.{suffix}").getpixel((5, 5))[0] > 200
    assert capsys.readouterr().out == (
        f"note: {tmp_path / 'a'}.{suffix} has several frames or pages: only the first is used, in other pictures too\n"
    )


def test_mpo_and_still_pictures_are_no_animations(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(notices, "_said", set())
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.gif")
    assert [read_picture(tmp_path / f"a.{suffix}").size for suffix in ("jpg", "gif")] == [(20, 20)] * 2
    assert not capsys.readouterr().out


HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHE" + bytes(100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (HEIC, "HEIC: pip install pillow-heif, or save it as JPEG"),
        (HEIC.replace(b"heic", b"mif1"), "HEIC: pip install"),
        (HEIC.replace(b"heic", b"avif"), "AVIF: pip install pillow-avif-plugin, or save it as PNG"),
        (b"\xff\x0a" + bytes(50), "JPEG XL: pip install pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL: pip install"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer: run git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page: download the picture again"),
        (b"<?xml version='1.0'?><svg>", "SVG, PostScript or PDF: save it as PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "SVG, PostScript or PDF"),
        (b"MM\0*" + bytes(50), "a TIFF with other channels than Pillow can read"),
        (bytes(50), "nothing but zeros: copy it again"),
        (b"", "empty"),
        (b"hello", "of no kind that Pillow can read"),
    ],
)
def test_what_is_no_picture_is_named_with_what_to_do(tmp_path, content, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if they were not installed
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind not in ("AVIF", "HEIF", "JXL")])
    (tmp_path / "a.jpg").write_bytes(content)
    assert why(tmp_path / "a.jpg").startswith(f"cannot identify the image: it is {reason}")


def test_a_plugin_for_heic_is_used_where_it_is_installed(tmp_path, monkeypatch):
    plugin = types.ModuleType("pillow_heif")
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    plugin.register_heif_opener = lambda: Image.register_open(
        "HEIF", lambda *_: Image.new("RGB", (7, 5), "red"), lambda head: head[4:8] == b"ftyp"
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    (tmp_path / "IMG_1.JPG").write_bytes(HEIC)
    assert read_picture(tmp_path / "IMG_1.JPG").size == (7, 5)


@pytest.mark.skipif(not shutil.which("sh"), reason="the stand-in for Ghostscript is a shell script")
def test_no_file_is_run_as_a_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(UnidentifiedImageError):
        read_picture((tmp_path / "a.eps").rename(tmp_path / "a.jpg"))
    assert ".eps" not in read.SUFFIXES and not (tmp_path / "ran").exists()


def test_a_picture_too_large_to_decode_is_refused_with_its_size(tmp_path, monkeypatch):
    Image.new("1", (400, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    assert why(tmp_path / "a.png").startswith("Image size (120000 pixels) exceeds limit of 100000 pixels")
