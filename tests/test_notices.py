"""What hearth says: a number and its noun agree."""

from utils.notices import counted


def test_a_number_and_its_noun_agree():
    assert [counted(number, "epoch") for number in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(number, "class", "classes") for number in (1, 7)] == ["1 class", "7 classes"]
