"""A run that gets random commands and is killed meanwhile, as in benchmarks/faults_steering.py."""

import random

from conftest import server

from benchmarks.faults_steering import differing, replay, steer


def test_each_command_is_answered_or_lost_and_the_run_ends_as_its_replay(tmp_path):
    steered, again = tmp_path / "steered", tmp_path / "again"
    for folder in (steered, again):
        folder.mkdir()
    run, came = steer(server(), steered, random.Random(0), commands=5, kills=1)
    assert len(came) == 7 and set(came) <= {"answered", "refused", "lost"}
    assert differing(run, replay(server(), run, again)) == []
