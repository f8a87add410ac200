"""The book's lines, typed into a real IPython."""

import os
import subprocess
import sys

from conftest import ROOT

BOOK = """
import models
from config import DefaultConfig
from utils.visdom import Visualizer
opt = DefaultConfig()
opt.parse({'lr': 0.1, 'use_gpu': False})
model = getattr(models, opt.model)()
path = model.save()
before = model.classifier[1].weight.clone()
model.classifier[1].weight.data.zero_()
model.load(path);
print('loaded', bool((model.classifier[1].weight == before).all()), path)
vis = Visualizer(opt.env, port=1)
vis.plot('loss', 1.0)
vis.plot_many({'loss': 0.5, 'accuracy': 90.0})
vis.log({'loss': 1, 'lr': 0.0001})
print('plotted', vis.index)
from main import train, val
DefaultConfig().parse({'batch_szie': 1})
"""


def test_the_books_lines_work_in_ipython(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "--simple-prompt", "--no-banner"]
    done = subprocess.run(command, input=BOOK, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "user config:" in done.stdout and "  lr: 0.1  (given)" in done.stdout and "  use_gpu: False" in done.stdout
    assert "loaded True checkpoints/SqueezeNet_" in done.stdout
    assert "plotted {'loss': 2, 'accuracy': 1}" in done.stdout
    assert done.stdout.count("Traceback") == 1 and "unknown option --batch-szie; did you mean batch-size" in done.stdout
    assert len(list(tmp_path.glob("checkpoints/SqueezeNet_*.pth"))) == 1
