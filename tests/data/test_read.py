"""read_picture: any kind of picture becomes upright RGB."""

import pytest
from picture_kinds import KINDS

from data.pictures.read import read_picture


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_any_picture_is_read_as_upright_rgb(tmp_path, kind):
    expected = kind(tmp_path / "dog.1.jpg")
    picture = read_picture(tmp_path / "dog.1.jpg", 16)
    assert picture.mode == "RGB" and picture.size[0] == 2 * picture.size[1]
    corner = picture.getpixel((picture.size[0] // 4, picture.size[1] // 2))
    assert all(abs(a - b) < 12 for a, b in zip(corner, expected, strict=True)), corner
