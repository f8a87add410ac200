"""What the loop is made of: learning rates, meters, the order of samples, files that appear whole."""

import math

import numpy as np
import pytest
import torch

from config import DefaultConfig
from data.base import BaseData
from utils.class_meter import ClassMeter
from utils.files import write_atomically
from utils.loader import BatchOrder, generator, seed_step, to_device
from utils.meters import ConfusionMeter, LossMeter
from utils.run import Run
from utils.schedule import Schedule


def make(name, lr=0.1, steps=10, max_epoch=8, milestones=(), warmup_epochs=0.0, lr_decay=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr, momentum=0.9)
    options = {"scheduler": name, "max_epoch": max_epoch, "milestones": milestones, "lr_decay": lr_decay}
    options = {**DefaultConfig().named_by(Schedule), **options, "warmup_epochs": warmup_epochs}
    return optimizer, Schedule(optimizer, steps, **options)


def rates(name, **options):
    _, schedule = make(name, **options)
    result = []
    for step in range(80):
        schedule.step(step)
        result.append(schedule.lr)
    return result


def test_the_books_rule_lowers_the_rate_in_place_when_the_mean_loss_rises():
    optimizer, schedule = make("decay", lr_decay=0.5)
    seen = []
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.9, 0.95]):
        schedule.step(10 * epoch)
        schedule.epoch_end(loss)
        seen.append(schedule.lr)
    assert seen == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert optimizer.param_groups[0]["momentum"] == 0.9  # the same optimizer, its momentum kept


def test_multistep_divides_by_ten_at_each_milestone():
    expected = [0.1] * 30 + [0.01] * 20 + [0.001] * 30
    np.testing.assert_allclose(rates("multistep", milestones=[3, 5]), expected)


def test_cosine_is_its_formula():
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 80)) for step in range(80)]
    np.testing.assert_allclose(rates("cosine"), expected)


def test_warm_up_climbs_step_by_step_and_does_not_jump_back():
    warm = rates("constant", warmup_epochs=1.5)
    np.testing.assert_allclose(warm[:15], [0.1 * (step + 1) / 15 for step in range(15)])
    assert warm[15:] == [0.1] * 65
    with_cosine = rates("cosine", warmup_epochs=1)
    assert with_cosine[:9] == sorted(with_cosine[:9]) and with_cosine[10:] == sorted(with_cosine[10:], reverse=True)
    assert max(abs(a - b) for a, b in zip(with_cosine, with_cosine[1:], strict=False)) < 0.011


@pytest.mark.parametrize("name", ["decay", "constant", "multistep", "cosine"])
def test_a_rate_changed_by_hand_is_where_the_schedule_goes_on_from(name):
    optimizer, schedule = make(name, milestones=[3])
    untouched = rates(name, milestones=[3])
    schedule.step(20)
    optimizer.param_groups[0]["lr"] *= 0.25
    for step in (21, 35):
        schedule.step(step)
        assert schedule.lr == pytest.approx(0.25 * untouched[step])


def test_a_schedule_goes_on_from_its_state():
    optimizer, schedule = make("decay")
    schedule.step(0)
    schedule.epoch_end(1.0)
    other_optimizer, other = make("decay")
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(schedule.state_dict())
    for one in (schedule, other):
        one.epoch_end(2.0)
    assert other.lr == schedule.lr == 0.05


def test_the_confusion_matrix_of_the_book_is_84_percent():
    meter = ConfusionMeter(["dog", "cat"])
    for true, predicted, count in ((0, 0, 35), (0, 1, 15), (1, 0, 9), (1, 1, 91)):
        score = torch.nn.functional.one_hot(torch.full((count,), predicted), 2).bfloat16()  # any float type
        meter.add(score, torch.full((count,), true))
    assert meter.value().tolist() == [[35, 15], [9, 91]]
    assert meter.summary() == {"accuracy": 84.0}


def test_a_confusion_matrix_once_given_does_not_change():
    meter = ConfusionMeter("abc")
    meter.add(torch.eye(3), torch.arange(3))
    before = meter.value()
    meter.add(torch.eye(3), torch.arange(3))
    assert before.trace() == 3 and meter.value().trace() == 6
    meter.reset()
    assert meter.value().sum() == 0 and math.isnan(meter.summary()["accuracy"])


@pytest.mark.parametrize("classes", [3, 500])
def test_a_confusion_meter_counts_every_batch_and_lets_few_wait(classes):
    meter, expected = ConfusionMeter(range(classes)), np.zeros((classes, classes), dtype=np.int64)
    source = torch.Generator().manual_seed(0)
    for size in [*range(1, 131), 3000, 1, 7]:
        score, target = torch.rand(size, classes, generator=source), torch.randint(classes, (size,), generator=source)
        meter.add(score, target)
        np.add.at(expected, (target.numpy(), score.numpy().argmax(axis=1)), 1)
        assert len(meter.waiting) < 64 and sum(score.numel() for score, _ in meter.waiting) <= 2**20
        if size == 100:
            np.testing.assert_array_equal(meter.value(), expected)
    other = ConfusionMeter(range(classes))
    other.add(torch.eye(classes), torch.arange(classes))  # to be forgotten
    other.load_state_dict(meter.state_dict())
    np.testing.assert_array_equal(other.value(), expected)


def test_the_loss_meter_is_mean_and_standard_deviation_of_what_was_added():
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    meter = LossMeter()
    assert math.isnan(meter.value()[0]) and meter.summary() == {}
    for value in values:
        meter.add({"loss": value})
    np.testing.assert_allclose(meter.value(), [values.mean(), values.std()], rtol=1e-4)
    other = LossMeter()
    other.load_state_dict(meter.state_dict())
    for one in (meter, other):
        one.add({"loss": torch.tensor(5.0)})
    assert meter.value() == other.value() and len(meter.waiting) == 0
    assert meter.summary() == {"loss": pytest.approx(meter.value()[0])}


def test_the_loss_meter_knows_the_components_and_passes_over_what_is_not_finite():
    meter = LossMeter()
    meter.add({"box": torch.tensor(1.0), "loss_mask": torch.tensor(3.0)})
    meter.add({"box": torch.tensor(math.nan), "loss_mask": torch.tensor(1.0)})
    meter.add({"box": torch.tensor(2.0), "loss_mask": torch.tensor(math.inf)})
    meter.add({"box": torch.tensor(3.0), "loss_mask": torch.tensor(5.0)})
    meter.add({})
    assert meter.summary() == {"loss": 6.0, "loss_box": 2.0, "loss_mask": 4.0}
    other = LossMeter()
    other.load_state_dict(meter.state_dict())
    assert other.summary() == meter.summary()
    meter.reset()
    assert meter.summary() == {}


def test_the_loss_meter_weighs_batches_by_their_samples_and_takes_components_as_they_come():
    meter = LossMeter()
    meter.add({"loss": torch.tensor(0.0)}, samples=32)
    meter.add({"loss": torch.tensor(1.0)}, samples=1)
    assert meter.summary() == {"loss": pytest.approx(1 / 33)}
    meter.reset()
    meter.add({"loss": torch.tensor(1.0), "aux": torch.tensor(2.0)})
    assert meter.summary() == {"loss": 3.0, "loss_loss": 1.0, "loss_aux": 2.0}
    meter.add({"loss": torch.tensor(1.0)})
    assert meter.summary() == {"loss": 2.0, "loss_loss": 1.0, "loss_aux": 1.0}
    meter.reset()
    meter.add({"a": torch.tensor(math.nan), "b": torch.tensor(1.0)})
    assert list(meter.summary()) == ["loss", "loss_a", "loss_b"] and math.isnan(meter.summary()["loss"])


def test_the_loss_meter_keeps_no_graph_alive():
    meter, weight = LossMeter(), torch.ones(1, requires_grad=True)
    meter.add({"loss": (weight * 2).sum()})
    assert not meter.waiting[0].requires_grad


class Numbers(BaseData):
    """So many samples."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def test_order_is_a_function_of_seed_and_epoch_and_goes_on_anywhere():
    order = BatchOrder(Numbers(23), 4, seed=5)
    order.start(2, 0)
    whole = list(order)
    assert sorted(i for batch in whole for i in batch) == list(range(23)) and len(whole) == len(order) == 6
    other = BatchOrder(Numbers(23), 4, seed=5)
    other.start(0, 0)
    assert list(other) != whole
    other.start(2, 4)
    assert list(other) == whole[4:]
    assert list(BatchOrder(Numbers(5), 2)) == [[0, 1], [2, 3], [4]]


def test_a_lone_last_sample_is_left_out_in_training_only():
    """BatchNorm cannot be trained on one sample; with nothing else there, it is tried all the same."""
    assert [len(batch) for batch in BatchOrder(Numbers(9), 4, seed=0)] == [4, 4]
    assert [len(batch) for batch in BatchOrder(Numbers(9), 4)] == [4, 4, 1]
    assert [len(batch) for batch in BatchOrder(Numbers(1), 4, seed=0)] == [1]


def test_randomness_is_a_function_of_seed_and_step():
    draws = {}
    for seed in (0, 1):
        for step in (0, 1, 2):
            first = torch.rand(4, generator=seed_step(seed, step, "cpu")), torch.rand(4)
            again = torch.rand(4, generator=seed_step(seed, step, "cpu")), torch.rand(4)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert not torch.equal(*first)  # augmentation and dropout do not get the same numbers
            draws[seed, step] = tuple(first[0].tolist())
    assert len(set(draws.values())) == 6
    assert generator(0, 0, "cpu").initial_seed() != generator(0, 1, "cpu").initial_seed()


def test_whatever_a_batch_is_made_of_its_tensors_move():
    batch = to_device(({"image": torch.ones(1)}, [torch.ones(2), "name"]), torch.device("meta"))
    assert batch[0]["image"].device.type == batch[1][0].device.type == "meta" and batch[1][1] == "name"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write("old"))

    def fails(file):
        file.write("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_atomically(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_prediction_that_is_nan_is_never_right():
    for meter in (ConfusionMeter("ab"), ClassMeter("ab")):
        meter.add(torch.full((4, 2), math.nan), torch.tensor([0, 0, 0, 1]))
        assert meter.summary() == {"accuracy": 0.0}
    meter = ClassMeter("abcdef")
    meter.add(torch.full((1, 6), math.nan), torch.tensor([0]))
    assert meter.summary() == {"accuracy": 0.0, "top5": 0.0}


def test_columns_that_were_written_stay(tmp_path):
    run = Run(tmp_path)
    run.add_result({"epoch": 1, "loss": 1.0, "loss_a": 0.5})
    rows = run.add_result({"epoch": 2, "loss": 2.0})
    assert (tmp_path / "results.csv").read_text().split() == ["epoch,loss,loss_a", "1,1.0,0.5", "2,2.0,"]
    assert [row["loss"] for row in rows] == ["1.0", "2.0"]
    run.close()
