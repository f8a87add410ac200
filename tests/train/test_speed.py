"""What makes a run fast does not change what it computes, and says what it is: through the real command line."""

import json
import os
import platform
import re
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import FAST, NO_SERVER, ROOT, UNDRAWN, draw, main, server

from utils.run.checkpoint_file import read_checkpoint
from utils.train.device import native_precision

EVERYTHING = ["--rotate=10", "--color-jitter=0.3", "--noise=0.02", "--random-erasing=0.3", "--mixup=0.4", "--cutmix=1"]
WAYS = {
    "packed": [],
    "packed, one worker": ["--num-workers=1"],
    "packed, two workers": ["--num-workers=2"],
    "not packed": ["--pack=False"],
    "not packed, one worker": ["--pack=False", "--num-workers=1"],
    "not packed, two workers": ["--pack=False", "--num-workers=2"],
    "packed, held in memory": ["--cache=device"],
    "not packed, held in memory": ["--pack=False", "--cache=device"],
}


@pytest.mark.slow
def test_fifty_steps_are_the_same_whichever_way_the_pictures_come(tmp_path, pictures):
    losses, weights = {}, {}
    fast = [option for option in FAST if not option.startswith(("--num-workers", "--batch-size"))]
    fast += ["--batch-size=2", "--max-epoch=4", "--print-freq=50", *EVERYTHING]  # 56 steps
    for number, (way, options) in enumerate(WAYS.items()):
        arguments = [f"--train-data-root={pictures}", *fast, f"--work-dir={tmp_path / str(number)}"]
        done = main("train", *arguments, *options, cwd=tmp_path, check=0)
        assert ("packed 28 pictures" in done.stdout) == (number == 0), "once, and then it is there"
        assert ("kept in the memory of cpu" in done.stdout) == ("held" in way)
        (run,) = (tmp_path / str(number)).iterdir()
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        losses[way] = next(event["y"] for event in events if event.get("name") == "loss")
        weights[way] = read_checkpoint(run / "last.pth")["weights"]
    first = next(iter(WAYS))
    assert losses == dict.fromkeys(WAYS, losses[first])
    for way in WAYS:
        assert [name for name, value in weights[way].items() if not torch.equal(value, weights[first][name])] == []


def test_pack_packs_for_train_val_and_test_which_then_decode_nothing(tmp_path, pictures, unlabelled):
    roots = [f"--train-data-root={pictures}", f"--test-data-root={unlabelled}"]
    done = main("pack", *roots, "--image-size=32", cwd=tmp_path, check=0)
    assert [line.split(" into ")[0] for line in done.stdout.splitlines() if "note" in line] == [
        "note: packed 28 pictures",
        "note: packed 12 pictures",
        "note: packed 12 pictures",
    ]
    printed = [line.split(" in packs")[0] for line in done.stdout.splitlines() if "note" not in line]
    assert printed == ["train: 28 pictures", "val: 12 pictures", "test: 12 pictures"]
    assert len(list((tmp_path / "packs").glob("*.u8"))) == len(list((tmp_path / "packs").glob("*.json"))) == 3
    for command, options in (("train", [*roots, *FAST, "--max-epoch=1"]), ("val", []), ("test", [])):
        assert "packed" not in main(command, *options, cwd=tmp_path, check=0).stdout
    assert len(main("pack", *roots, "--image-size=32", cwd=tmp_path, check=0).stdout.splitlines()) == 3, "all there"
    for wrong in (["--pack=False"], ["--test-data-root=nowhere"], ["--config=Heart"]):
        done = main("pack", roots[0], *wrong, "--image-size=32", cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    draw(pictures / "cat.900.jpg", "cat", 900)
    try:
        assert "packed 29 pictures" in main("pack", *roots, "--image-size=32", cwd=tmp_path, check=0).stdout
    finally:
        (pictures / "cat.900.jpg").unlink()


def test_the_precision_is_printed_recorded_and_kept(tmp_path, pictures):
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1"]
    printed, native = {}, native_precision(torch.device("cpu"))
    for precision in ("auto", "fp32", "bf16"):
        work = f"--work-dir={precision}"
        done = main("train", *options, f"--precision={precision}", work, cwd=tmp_path, check=0)
        (printed[precision],) = [line for line in done.stdout.splitlines() if line.startswith("computing on ")]
        (run,) = (tmp_path / precision).iterdir()
        recorded = yaml.safe_load((run / "config.yaml").read_text())["precision"]
        assert read_checkpoint(run / "best.pth")["info"]["config"]["precision"] == recorded
        assert f" in {recorded}" in printed[precision]
        assert recorded in (("fp32", native) if precision == "auto" else (precision,))
        resumed = main("train", f"--resume={run.name}", work, "--max-epoch=2", cwd=tmp_path, check=0)
        assert f" in {recorded}\n" in resumed.stdout, "what was picked stays, without being picked again"
        tested = main("val", work, cwd=tmp_path, check=0)
        # A model of 16 bits is measured in the lowest precision that this machine computes natively.
        measured = recorded if recorded == "fp32" else native
        assert f" in {measured}\n" in tested.stdout or f" in {measured}, the lowest" in tested.stdout
    assert "--precision=auto" in printed["auto"] and "auto" not in printed["fp32"] + printed["bf16"]
    done = main("train", "--resume", "--work-dir=fp32", "--precision=bf16", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


# No process that loads torch once more, neither to share the compiler's work nor to ask which vectors there are.
ALONE = """
import os, torch._inductor.config as inductor
inductor.compile_threads, inductor.cpp.vec_isa_ok = 1, False
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath("cache")
"""


def test_a_batch_in_parts_compiled_and_clipped_trains(tmp_path):
    options = ["--config=Heart", "--max-epoch=1", "--accumulate=2", "--clip-grad=0.5", "--val-batch-size=3000"]
    options += ["--batch-size=700", "--lr=1", "--print-freq=1", NO_SERVER]
    code = server().run("train", *options, "--compile", cwd=tmp_path, first=UNDRAWN + ALONE)
    printed = (tmp_path / "output").read_text()
    assert code == 0 and printed.count("compiled, and the first step computed, in") == 1, printed
    assert float(re.search(r"epoch 1/1: .* val_accuracy ([\d.]+),", printed)[1]) > 95
    main("train", *options, "--work-dir=plain", cwd=tmp_path, check=0)
    compiled, plain = (
        [event["y"] for event in map(json.loads, record.open()) if event.get("name") == "loss"][:3]
        for folder in ("checkpoints", "plain")
        for record in (tmp_path / folder).glob("*/events.jsonl")
    )
    assert compiled == pytest.approx(plain, rel=1e-4) and len(set(plain)) == 3


def test_without_a_compiler_compile_is_refused_in_one_line(tmp_path):
    command = ["train", "--config=Heart", "--max-epoch=1", NO_SERVER, "--compile"]
    none = f"{ALONE}inductor.cpp.cxx = (None, 'no-such-compiler')"  # as $CXX
    files = (tmp_path / "stdout", tmp_path / "stderr")
    assert server().run(*command, cwd=tmp_path, first=none, files=files) == 2
    printed = files[1].read_text()
    assert [line for line in printed.splitlines() if line.startswith("main.py: ")] == [
        printed.splitlines()[-1]
    ] and "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("main.py: --compile fails here")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's malloc")
def test_freed_memory_is_kept_and_garbage_is_searched_for():
    code = """
import gc, resource, main, torch
assert gc.isenabled() and gc.get_freeze_count() > 100_000
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert int(done.stdout) < 100, done.stderr  # of 15,625 pages
