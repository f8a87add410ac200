"""What a sweep's command line means: ranges, lists, and what is neither."""

import pytest

import config
from utils import UserError
from utils.search import command
from utils.search.space import dimension

KINDS = config.DefaultConfig.options()


def asked(**words):
    return command.plan(words, config.load)


@pytest.mark.parametrize(
    "name, text, values, log",
    [
        ("lr", "1e-4..1e-1", (1e-4, 1e-1), True),
        ("lr", "0.01..0.09", (0.01, 0.09), False),
        ("lr", "0.1,0.01", ("0.1", "0.01"), False),
        ("weight_decay", "0..1", (0.0, 1.0), False),
        ("batch_size", "16..128", (16, 128), False),
        ("batch_size", "16..160", (16, 160), True),
        ("image_size", "64..96", (64, 96), False),
        ("image_size", "64,96x64", ("64", "96x64"), False),
        ("unfreeze_epoch", "1..3", (1, 3), False),
        ("optimizer", "Adam,SGD", ("Adam", "SGD"), False),
        ("criterion", "focal,0.5*focal+0.5*cross_entropy", ("focal", "0.5*focal+0.5*cross_entropy"), False),
        ("augment", "True,False", ("True", "False"), False),
        ("milestones", "2|3,5", ("2", "3,5"), False),
        ("train_data_root", "a|b,c", ("a", "b,c"), False),
        ("optimizer_options", "alpha=0.9|alpha=0.99,centered=True", ("alpha=0.9", "alpha=0.99,centered=True"), False),
        ("load_model_path", "a.pth|b.pth", ("a.pth", "b.pth"), False),
    ],
)
def test_ranges_and_lists_are_told_from_single_values_by_what_the_option_takes(name, text, values, log):
    found = dimension(name, KINDS[name], text)
    assert (found.values, found.log) == (values, log)
    assert [type(one) for one in found.values] == [type(one) for one in values]


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", "0.1"),
        ("milestones", "3,5"),
        ("train_data_root", "../a..b,c"),
        ("optimizer_options", "alpha=0.9,centered=True"),
        ("notify", "echo 1,2 | cat"),
        ("work_dir", "../runs"),
        ("group", r"(cat|dog)_\d+, .."),
        ("monitor", "loss|val_loss"),
        ("finetune", True),
    ],
)
def test_what_a_training_takes_as_it_is_stays_one_value(name, value):
    assert dimension(name, KINDS[name], value) is None


@pytest.mark.parametrize(
    "words, line",
    [
        ({}, "needs what to try"),
        ({"lr": "0.1"}, "needs what to try"),
        ({"lr": "1e-1..1e-4"}, "--lr=1e-1..1e-4 is an empty range"),
        ({"lr": "0.1..0.1"}, "is an empty range"),
        ({"lr": "0..1"}, "'0' cannot be one of its values: it takes a number above 0"),
        ({"lr": "1e-4..x"}, "'x' cannot be one of its values"),
        ({"lr": "1e-4-1e-1"}, "a range has two ends, with two dots between them: --lr=1e-4..1e-1"),
        ({"lr": "1e-4...1e-1"}, "two dots between them: --lr=1e-4..1e-1"),
        ({"lr": "0.1..."}, "two dots between them: --lr=0.1..\\?"),
        ({"lr": "1e-4..."}, "two dots between them: --lr=1e-4..\\?"),
        ({"batch_size": "..8"}, "two dots between them: --batch-size=\\?..8"),
        ({"optimizer": "Adam,sgd"}, "; did you mean SGD"),
        ({"batch_size": "1.5..3"}, "'1.5' cannot be one of its values: it takes a whole number"),
        ({"unfreeze_epoch": "None..3"}, "both ends of a range have to be numbers"),
        ({"optimizer": "1..3"}, "a range is for numbers, and --optimizer takes"),
        ({"optimizer": "Adam,SDG"}, "'SDG' cannot be one of its values"),
        ({"optimizer": "Adam,"}, "'' cannot be one of its values"),
        ({"lr": "0.1,1e-1"}, "--lr=0.1,1e-1 has 0.1 twice"),
        ({"lr": "1e-4..1", "trials": "0"}, "--trials cannot be '0'"),
        ({"lr": "1e-4..1", "jobs": "x"}, "--jobs cannot be 'x'"),
        ({"lr": "1e-4..1", "study": "a.journal#../b"}, "cannot begin the name of a folder"),
        ({"lr": "1e-4..1", "study": "a.db"}, "a database is written --study=sqlite:///a.db"),
        ({"lrr": "1e-4..1"}, "unknown option --lrr; did you mean lr"),
        ({"lr": "1e-4..1", "top": "3"}, "train does not read --top"),
        ({"lr": "1e-4..1", "resume": True}, "the same command again continues the sweep"),
        ({"lr": "1e-4..1", "processes": "2"}, "sweep does not take --processes"),
        ({"lr": "1e-4..1", "folds": "5", "fold": "all"}, "a trial is one run: give one fold"),
        ({"warmup_epochs": "0..20"}, "--warmup-epochs=20 has to be less than --max-epoch=10"),
        ({"step_size": "2..4", "scheduler": "cosine"}, "--step-size belongs to --scheduler=step"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_loaded(words, line):
    with pytest.raises(UserError, match=line.replace("(", r"\(").replace("*", r"\*")):
        asked(**words)


def test_an_option_that_another_one_decides_about_varies_only_where_it_is_read():
    space = asked(step_size="2..9", scheduler="step,cosine").space
    chosen = [
        space.choose(lambda name, one, way=way: way if name == "scheduler" else one.values[1], lambda opt: None)
        for way in ("step", "cosine")
    ]
    assert chosen == [{"scheduler": "step", "step_size": 9}, {"scheduler": "cosine"}]
    assert [space.options(one).step_size for one in chosen] == [9, 3]


def test_combinations_that_can_be_counted_are_tried_once_each():
    space = asked(step_size="2..4", scheduler="step,cosine").space
    found = space.combinations(6, lambda opt: None)
    steps = [{"scheduler": "step", "step_size": step} for step in (2, 3, 4)]
    assert found == [*steps, {"scheduler": "cosine"}]
    assert space.combinations(5, lambda opt: None) == []  # there may be more than that
    assert asked(lr="0.1..0.2").space.combinations(1000, lambda opt: None) == []


def test_a_resumed_trial_gets_what_may_change_and_the_rest_from_its_run(tmp_path):
    words = {"config": "Heart", "lr": "0.1..0.2", "max_epoch": "3", "seed": "1", "vis_port": "1"}
    assert asked(**words).space.resumed(tmp_path) == {"vis_port": "1", "resume": str(tmp_path)}
