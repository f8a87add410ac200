"""Class names in letters that few fonts have: with a font for them, made here, and without any, on every machine."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from PIL import Image

from data.coco.draw import overlay
from data.pictures.sheet import Pen
from utils.metrics import fonts, plots

NAMES = ["\u5411\u65e5\u8475", "\u73ab\u7470", "oak"]  # sunflower, rose
ESCAPED = [name.encode("unicode_escape").decode() for name in NAMES]


@pytest.fixture
def bare(monkeypatch):
    """A machine that has matplotlib's own fonts alone."""
    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr("utils.notices._said", set())
    families, caches = rcParams["font.family"], (fonts.installed, fonts.font_with)
    rcParams["font.family"] = [fonts.USUAL]
    for one in caches:
        one.cache_clear()
    yield
    rcParams["font.family"] = families
    for one in caches:
        one.cache_clear()


@pytest.fixture
def chinese(bare, tmp_path):
    """The same with a font of these names' letters and of ASCII's, black squares all."""
    letters = {*"".join(NAMES), *map(chr, range(32, 127))}
    square = TTGlyphPen(None)
    square.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        square.lineTo(corner)
    square.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "square": square.glyph()}
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([*glyphs])
    font.setupCharacterMap({ord(letter): "square" for letter in letters})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2(usWeightClass=500)
    font.setupPost()
    font.save(tmp_path / "squares.ttf")
    font_manager.fontManager.addfont(tmp_path / "squares.ttf")
    return str(tmp_path / "squares.ttf")


def test_a_font_that_has_the_letters_is_found_and_used(chinese, tmp_path, written, capsys, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that it draws as a box
        plots.confusion(np.eye(3, dtype=int), NAMES, tmp_path)
    assert [plots.short(name) for name in NAMES] == NAMES and rcParams["font.family"] == [fonts.USUAL, "Squares"]
    assert fonts.font_file("".join(NAMES)) == chinese and "DejaVuSans.ttf" in fonts.font_file("\xd6lbaum")
    sheet = Image.new("RGB", (200, 20), "white")
    Pen(sheet, "".join(NAMES)).write((0, 0), NAMES[0], 200)
    assert written == [NAMES[0]] and np.array(sheet).min() == 0
    assert capsys.readouterr().out == caplog.text == ""


def test_without_such_a_font_names_are_escapes_and_one_note_says_what_to_do(bare, tmp_path, written, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion(np.eye(3, dtype=int), NAMES, tmp_path)
    assert [plots.short(name) for name in NAMES] == ESCAPED
    Pen(Image.new("RGB", (200, 20)), "".join(NAMES)).write((0, 0), NAMES[1], 200)
    assert written == [ESCAPED[1]]
    assert plots.short("\udce9 \U0001f333 a\nb") == r"\udce9 \U0001f333 a\nb"  # no UTF-8, no line of text
    (note,) = capsys.readouterr().out.splitlines()
    assert r"escapes like \u5411" in note and "(Debian, Ubuntu: fonts-noto-cjk), then delete " in note


def test_what_the_found_font_lacks_is_an_escape_too(chinese, written):
    import torch

    names = [*NAMES[:2], "\u0e01"]
    objects = {"boxes": torch.tensor([[0.0, 30.0, 40.0, 40.0]] * 3), "labels": torch.arange(3)}
    overlay(torch.zeros(3, 100, 100), objects, names)
    assert written == [*NAMES[:2], r"\u0e01"]
