"""Batches: their order, each process's share of them, and random numbers that depend on seed and step alone."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from data.base import BaseData
from utils import UserError
from utils.run.run import Run
from utils.train.loader import batches, make_loader
from utils.train.sampler import ResumableBatchSampler
from utils.train.seeds import generator, seed_step


class Numbers(BaseData):
    """This many samples."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def test_order_is_a_function_of_seed_and_epoch_and_continues_anywhere():
    order = ResumableBatchSampler(Numbers(23), 4, seed=5)
    order.set_position(2, 0)
    whole = list(order)
    assert sorted(i for batch in whole for i in batch) == list(range(23)) and len(whole) == len(order) == 6
    other = ResumableBatchSampler(Numbers(23), 4, seed=5)
    other.set_position(0, 0)
    assert list(other) != whole
    other.set_position(2, 4)
    assert list(other) == whole[4:]
    assert list(ResumableBatchSampler(Numbers(5), 2)) == [[0, 1], [2, 3], [4]]


def test_a_lone_last_sample_is_left_out_in_training_only():
    """BatchNorm cannot be trained on one sample; with nothing else there, it is tried all the same."""
    assert [len(batch) for batch in ResumableBatchSampler(Numbers(9), 4, seed=0)] == [4, 4]
    assert [len(batch) for batch in ResumableBatchSampler(Numbers(9), 4)] == [4, 4, 1]
    assert [len(batch) for batch in ResumableBatchSampler(Numbers(1), 4, seed=0)] == [1]


def test_randomness_is_a_function_of_seed_and_step():
    """And of the process; neither for augmentation nor for dropout do numbers come twice."""
    draws = set()
    for seed, step, rank in itertools.product((0, 1), (0, 1, 2), (0, 1)):
        first = torch.rand(4, generator=seed_step(seed, step, "cpu", rank)), torch.rand(4)
        again = torch.rand(4, generator=seed_step(seed, step, "cpu", rank)), torch.rand(4)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        draws |= {tuple(numbers.tolist()) for numbers in first}
    assert len(draws) == 2 * 12
    assert generator(0, 0, "cpu").initial_seed() != generator(0, 1, "cpu").initial_seed()


class Drawn(Numbers):
    """Its batches are what is drawn for them: by augmentation, and by whatever uses torch's own generator."""

    def __getitem__(self, index):
        return index, index

    def prepare(self, input, target, generator):
        return tuple(torch.rand(3, generator=generator).tolist()), tuple(torch.rand(3).tolist())


def test_every_batch_has_numbers_of_its_own_and_the_same_after_a_resume():
    def drawn(batch):
        run = SimpleNamespace(epoch=1, batch=batch, step=3 + batch, done=0.0)
        for numbers in batches(make_loader(Drawn(12), 4, num_workers=0, seed=1), run, torch.device("cpu")):
            run.batch, run.step = run.batch + 1, run.step + 1
            yield numbers

    whole = list(drawn(0))
    assert len({numbers for both in whole for numbers in both}) == 2 * 3 and list(drawn(1)) == whole[1:]


def test_a_data_set_knows_the_share_that_was_done_when_the_epoch_began_also_after_a_resume(tmp_path):
    told, opt = [], SimpleNamespace(max_epoch=4)
    dataset = Drawn(12)
    dataset.begin_epoch = told.append
    run, loader = Run(tmp_path), make_loader(dataset, 4, num_workers=0, seed=1)
    for _ in run.epochs(opt):
        for _ in batches(loader, run, torch.device("cpu")):
            run.advance()
            if run.position()[:2] == (1, 2):
                opt.max_epoch = 8  # commanded meanwhile
                other = Run(tmp_path, writes=False)
                other.load_state_dict(run.state_dict())
                assert next(other.epochs(opt)) == 1
                next(batches(loader, other, torch.device("cpu")))
        run.next_epoch()
    assert told[:4] == [0, 1 / 4, 1 / 4, 2 / 8] and told[-1] == 7 / 8


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13, 17, 25])
def test_every_sample_is_somebodys_and_nobodys_twice(size, count):
    whole = ResumableBatchSampler(Numbers(count), 6, seed=1)
    shares = [ResumableBatchSampler(Numbers(count), 6, 1, rank, size) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        share.set_position(3, 0)
    whole.set_position(3, 0)
    steps = list(zip(*shares, strict=True))
    for together, parts in zip(whole, steps, strict=False):
        assert sorted(together) == sorted(sum(parts, [])) and min(map(len, parts)) > 1
        assert whole.samples(3, steps.index(parts)) == together
    left = sum(len(part) for parts in steps for part in parts)
    assert count - left < 2 * size  # of the last batch, where BatchNorm could not learn from it

    pieces = [sum(ResumableBatchSampler(Numbers(count), 5, None, rank, size), []) for rank in range(size)]
    assert sum(pieces, []) == list(range(count))  # in order, for the mistakes that the report shows


@pytest.mark.parametrize("count, batch_size", [(2, 8), (20, 2)])
def test_less_than_a_sample_each_is_refused(count, batch_size):
    with pytest.raises(UserError, match="cannot be shared by 3 processes"):
        ResumableBatchSampler(Numbers(count), batch_size, 1, 0, 3)


class Values(Numbers):
    """Samples without files, made by `item(index)`."""

    def __init__(self, item):
        super().__init__(6)
        self.item = item

    def __getitem__(self, index):
        return self.item(index)


def test_other_values_in_as_many_samples_without_files_are_a_note(capsys):
    begun = ResumableBatchSampler(Values(lambda i: (torch.full((2, 2), i / 2), i)), 2, seed=0).state_dict()
    for item, noted in {
        (lambda i: (torch.full((2, 2), i / 2), i)): False,
        (lambda i: (torch.full((2, 2), i / 2 + 1e-6), i)): True,
        (lambda i: (torch.full((2, 2), i / 2), 1)): True,
        (lambda i: (torch.rand(2, 2), i)): False,  # not the same every time: nothing can be said
        (lambda i: [][i]): False,  # its batch fails
    }.items():
        torch.manual_seed(3)
        ResumableBatchSampler(Values(item), 2, seed=0).load_state_dict(begun)
        assert ("as many as when the run began, but some have other values" in capsys.readouterr().out) == noted
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(3)))
    ResumableBatchSampler(Values(int), 2, seed=0).load_state_dict({**begun, "items": ""})  # of an older hearth: none
    assert capsys.readouterr().out == ""
