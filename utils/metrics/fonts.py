"""Letters in pictures: an installed font that has them, and escapes for those that none has."""

import functools
import logging
from collections.abc import Collection
from typing import Any

from matplotlib import font_manager, get_cachedir, rcParams
from matplotlib.ft2font import FT2Font

from utils.notices import note_once

USUAL = "DejaVu Sans"  # it comes with matplotlib; Chinese, Japanese, Korean and many other letters it lacks
# Fonts for those that are looked at before all others, because a machine may have thousands.
FIRST = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei"),
    *("SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
)
LAST_RESORT = "Last Resort"  # claims to have all letters, and draws boxes

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns where a font has one weight alone


@functools.cache
def letters(file: str) -> frozenset[int]:
    """The code points that a font file has letters for; none of a file that is gone or damaged."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def installed() -> list[Any]:
    """matplotlib's entries of all installed fonts: the usual one, those of FIRST, the others; regular ones first."""

    def rank(font: Any) -> tuple[Any, ...]:
        weight = abs(font_manager.weight_dict.get(font.weight, font.weight) - 400)
        order = (USUAL, *FIRST).index(font.name) if font.name in (USUAL, *FIRST) else len(FIRST) + 1
        return order, font.style != "normal", weight, font.stretch != "normal", font.name, font.fname

    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith(LAST_RESORT)]
    return sorted(fonts, key=rank)


@functools.cache
def font_with(letter: str) -> Any:
    """The first installed font that has this letter, or None."""
    return next((font for font in installed() if ord(letter) in letters(font.fname)), None)


def in_figure(text: str) -> str:
    """Text as matplotlib can write it: the fonts of its letters join those of all figures."""
    fonts = {letter: font_with(letter) for letter in set(text)}
    families = dict.fromkeys(font.name for font in fonts.values() if font)
    rcParams["font.family"] = [*dict.fromkeys([*rcParams["font.family"], *sorted(families)])]
    return escaped(text, {ord(letter) for letter, font in fonts.items() if font})


def font_file(text: str) -> str:
    """The file of the installed font that has most letters of `text`, for Pillow, which takes one font at a time."""
    fonts = [font_manager.findfont(USUAL), *sorted({font.fname for font in map(font_with, set(text)) if font})]
    return max(fonts, key=lambda file: len(letters(file) & {ord(letter) for letter in text}))


def in_font(text: str, file: str) -> str:
    """Text as it can be written in the font of this file."""
    return escaped(text, letters(file))


def escaped(text: str, known: Collection[int]) -> str:
    """Text whose letters that are not among the `known` code points are escapes; one note says what to do."""
    if all(ord(letter) in known for letter in text):
        return text
    note_once(
        "pictures have escapes like \\u5411 for letters that no font here has: install a font that has them (Debian, "
        f"Ubuntu: fonts-noto-cjk), then delete {get_cachedir()}, matplotlib's list of fonts"
    )
    return "".join(one if ord(one) in known else one.encode("unicode_escape").decode() for one in text)
