"""The bar: it shows as many samples as were trained on, from where the run stands to its end."""

import sys
from types import SimpleNamespace

import pytest

from utils.run.run import Run
from utils.watch import Progress

EPOCHS, SAMPLES, BATCH = 3, 10, 4  # the last batch of an epoch has 2 samples


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    return Run(tmp_path)


def started(run):
    sampler = SimpleNamespace(batch_size=BATCH, length=SAMPLES)
    progress = Progress(run, SimpleNamespace(batch_sampler=sampler), SimpleNamespace(max_epoch=EPOCHS), progress=True)
    progress.on_train_begin()
    return progress


def shown(progress, run, epochs):
    """Train to the end of so many epochs; (what the bar shows, its text) after each batch."""
    seen = []
    while run.epoch < epochs:
        progress.on_epoch_begin()
        while run.batch * BATCH < SAMPLES:
            run.advance()
            progress.on_batch_end()
            seen.append((progress.bar.n, progress.bar.desc))
        run.next_epoch()
    return seen


def test_every_sample_is_counted_once(run):
    progress = started(run)
    assert progress.bar.total == EPOCHS * SAMPLES and progress.bar.n == 0
    seen = shown(progress, run, EPOCHS)
    assert [count for count, _ in seen] == [4, 8, 10, 14, 18, 20, 24, 28, 30]
    assert [text for _, text in seen] == [f"epoch {epoch}/3" for epoch in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    bar = progress.bar
    progress.on_train_end()
    assert bar.disable  # closed


def test_a_resumed_run_begins_where_it_stands(run):
    run.epoch, run.batch, run.step = 1, 2, 5
    progress = started(run)
    assert progress.bar.initial == progress.bar.n == 18
    assert [count for count, _ in shown(progress, run, EPOCHS)] == [20, 24, 28, 30]


def test_the_facts_are_those_of_the_last_summary(run):
    progress = started(run)
    progress.on_epoch_begin()
    progress.on_train_summary(loss=0.5, loss_part=0.2, accuracy=75.0)
    run.advance()
    progress.on_batch_end()
    assert progress.bar.postfix == "loss=0.500, accuracy=75.0"
