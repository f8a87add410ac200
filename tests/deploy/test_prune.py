"""`prune` takes channels out, and the pruned checkpoint is a model like any other."""

import json

import pytest
import torch
from conftest import FAST, main
from runs import differences, only_run, state
from torch import nn

import config
import main as program
from models.basic_module import BasicModule
from utils import UserError
from utils.deploy import prune
from utils.deploy.pruner import Pruner
from utils.options.options import read_yaml
from utils.run import resume
from utils.run.channels import changed, channels
from utils.run.checkpoint_file import read_checkpoint


class Net(BasicModule):
    """A residual, a depthwise and a transposed convolution."""

    def __init__(self, num_classes=3, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, bias=False)
        self.norm = norm(32)
        self.wide = nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, 1, 1, groups=64))
        self.narrow = nn.ConvTranspose2d(64, 32, 1)
        self.scores = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, num_classes))

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.narrow(self.wide(x).relu())
        return self.scores(x.mean(dim=(2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.uniform_(one.weight)
            one.running_mean.normal_()
    return model.eval()


INPUT = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "slim"])
def test_a_checkpoint_with_its_channels_computes_the_same_in_a_new_model(net, importance, tmp_path):
    pruned = Pruner(net, INPUT, importance)(0.5)
    wanted = changed(channels(pruned), channels(net))
    flat = {"scores.0": [16, 16], "scores.2": [0, 16]} if importance != "slim" else {"scores.0": [0, 16]}
    assert wanted == {
        "stem": [16, 0, 0],
        "norm": [16],
        "wide.0": [32, 16, 0],
        "wide.1": [32],
        "wide.2": [32, 32, 32],
        "narrow": [16, 32, 0],
        **flat,  # of 24 channels 16, the nearest multiple of 8; without a BatchNorm slim cannot rank them
    }
    pruned.info = {"channels": json.loads(json.dumps(wanted))}  # plain values
    pruned.save(tmp_path / "pruned.pth")
    other = Net()
    other.load(tmp_path / "pruned.pth")
    assert torch.equal(other.eval()(INPUT), pruned(INPUT)) and other.info == pruned.info
    assert all(one.requires_grad for one in other.parameters()) and len(net.stem.weight) == 32
    more = Net(num_classes=5)  # its body can learn other classes
    more.load(tmp_path / "pruned.pth", partly=True)
    assert len(more(INPUT)[0]) == 5 and torch.equal(more.stem.weight, pruned.stem.weight)
    assert more.info == pruned.info, "what it is saved with fits it, too"


@pytest.mark.parametrize("importance", ["l1", "slim"])
def test_the_channels_that_stay_are_those_of_the_largest_weights_or_scales(net, importance):
    with torch.no_grad():
        net.wide[1].weight.copy_(torch.arange(64) % 2 if importance == "slim" else torch.ones(64))
        net.wide[0].weight[::2] *= 0.001
        net.wide[0].weight[1::2] *= 1 if importance == "l1" else 0.001
    left = Pruner(net, INPUT, importance)(0.5).wide[0].weight.detach()
    assert len(left) == 32 and {*map(float, left.flatten())} <= {
        *map(float, net.wide[0].weight[1::2].detach().flatten())
    }


def test_layers_that_depend_on_other_kinds_are_kept_and_named():
    pruner = Pruner(Net(norm=lambda width: nn.GroupNorm(4, width)).eval(), INPUT, "l1")
    pruned = pruner(0.5)
    assert sorted(pruner.kept) == ["narrow", "stem"]
    assert pruned.stem.out_channels == 32 and pruned.wide[0].out_channels == 32


def test_no_layer_has_fewer_than_8_channels_and_none_is_left_without(net):
    pruner = Pruner(net, INPUT, "l1")
    assert {one.out_channels for one in pruner(0.95).modules() if isinstance(one, nn.Conv2d)} == {8}
    assert pruner.empty(0.95) == [] and pruner.empty(0.97) == ["stem", "narrow", "scores.0"]


def test_what_cannot_be_pruned_is_one_line(net):
    with pytest.raises(UserError, match="Plain has none: give l1, l2 or fpgm"):

        class Plain(BasicModule):
            def __init__(self):
                super().__init__()
                self.only = nn.Linear(4, 2)

            def forward(self, x):
                return self.only(x)

        Pruner(Plain(), torch.zeros(2, 4), "slim")
    with pytest.raises(UserError, match="BasicModule has no convolution and no linear layer"):
        Pruner(BasicModule(), INPUT, "l1")
    pruner = Pruner(net, INPUT, "l1")
    pruner.importance = lambda: lambda group: 1 / 0
    with pytest.raises(UserError, match="Net cannot be pruned, Torch-Pruning fails: ZeroDivisionError: division"):
        pruner(0.5)


def test_speedup_finds_the_smallest_ratio_that_is_as_fast(net, monkeypatch, capsys):
    """A clock that counts weights."""
    monkeypatch.setattr(prune, "latencies", lambda both, _: [sum(w.numel() for w in one.parameters()) for one in both])
    opt = config.load({"speedup": 2.0}, None, "prune")
    found = prune.cut(Pruner(net, INPUT, "l1"), opt, INPUT)
    weights = [sum(one.numel() for one in each.parameters()) for each in (net, found)]
    assert weights[0] / weights[1] >= 2
    below = [line for line in capsys.readouterr().out.splitlines() if "1." in line.split(": ")[1]]
    assert below, "less was tried, too"
    with pytest.raises(UserError, match="--speedup=500 is not reached by pruning, at most "):
        prune.cut(Pruner(net, INPUT, "l1"), config.load({"speedup": 500}, None, "prune"), INPUT)


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    """(the folder of a run, its pruned.pth, what prune printed)"""
    file = tmp_path_factory.mktemp("pruned") / "pruned.pth"
    done = main("prune", f"--output={file}", "--num-workers=0", "--importance=l2", cwd=trained[0], check=0)
    return trained[0], file, done.stdout


def test_prune_measures_before_and_after_and_val_takes_the_file(pruned):
    folder, file, printed = pruned
    table = {line.partition("  ")[0]: line.split() for line in printed.splitlines()}
    assert table["parameters"][1:] == ["723,522", "182,306"] and "times as fast" in printed
    assert f"wrote {file}; fine-tune it with: python " in printed
    done = main("val", f"--load-model-path={file}", f"--report-dir={file.parent}/r", "--num-workers=0", cwd=folder)
    accuracy = table["val_accuracy"][2]
    assert f"val_accuracy {accuracy}" in done.stdout and f"val_accuracy: {accuracy}\n" in done.stdout


def test_a_pruned_model_is_fine_tuned_and_resumed_to_the_same_bits(pruned, pictures, tmp_path):
    options = f"--train-data-root={pictures}", "--ema=0.9", "--scheduler=constant", f"--load-model-path={pruned[1]}"
    runs = []
    for name, epochs in (("whole", 2), ("stopped", 1)):
        (folder := tmp_path / name).mkdir()
        done = main("train", *FAST, *options, f"--max-epoch={epochs}", cwd=folder, check=0)
        assert "182,306 parameters" in done.stdout and "dropped" not in done.stdout
        runs.append(only_run(folder))
    pruned[1].rename(tmp_path / "gone.pth")  # it is not needed any more
    main("train", f"--resume={runs[1]}", "--max-epoch=2", cwd=tmp_path, check=0)
    (tmp_path / "gone.pth").rename(pruned[1])
    assert differences(state(runs[0]), state(runs[1])) == []
    kept = [read_checkpoint(path)["info"]["channels"] for path in (pruned[1], runs[1] / "best.pth")]
    assert kept[0] == kept[1] == resume.channels_of(str(runs[1])) and resume.channels_of(None) == {}


def test_prune_and_fine_tune_in_turns_goes_on_where_it_was_stopped(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    work_dir = tmp_path / "runs"
    given = {"run": str(trained[1]), "work_dir": str(work_dir), "output": f"{tmp_path}/pruned.pth", "max_epoch": 1}

    def turns(**options):
        prune.prune(program, config.load({**given, "num_workers": 0, "iterative": 2, **options}, None, "prune"))
        runs = sorted(work_dir.iterdir(), key=lambda one: (one / "config.yaml").stat().st_mtime)
        return runs, [sum(map(torch.numel, read_checkpoint(one / "best.pth")["weights"].values())) for one in runs]

    runs, weights = turns()
    assert weights[0] > weights[1] == 182_306, "the last turn leaves as much as one turn with that ratio"
    table = {
        line.partition("  ")[0]: line.split() for line in capsys.readouterr().out.split("after 2 turns:")[1].split("\n")
    }
    assert table["parameters"][1:] == ["723,522", "182,306"]
    assert read_checkpoint(runs[1] / "best.pth")["info"]["config"]["load_model_path"] == f"{tmp_path}/pruned_2.pth"
    kept = state(runs[1])
    (runs[1] / "lock").write_text("unfinished")  # as if it was killed, and had one epoch left
    change = (runs[1] / "config.yaml").read_text().replace("max_epoch: 1", "max_epoch: 2")
    (runs[1] / "config.yaml").write_text(change)
    assert turns()[0] == runs, "nothing is trained twice"
    assert len(read_yaml(runs[0] / "config.yaml", ())["run"]) == 1, "what is finished is not begun again"
    assert state(runs[1])["run"]["epoch"] == 2 and kept["run"]["epoch"] == 1
    with pytest.raises(UserError, match="pruned_1.pth is there already, and not of this command: name another file"):
        turns(ratio=0.25)


def test_the_model_of_a_fold_is_fine_tuned_beside_the_folds_and_with_its_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_file = tmp_path / "checkpoints" / "Net_folds" / "Net_1" / "config.yaml"
    config_file.parent.mkdir(parents=True)
    config_file.write_text("fold: 0\n")

    def work_dir(name):
        options = prune.fine_tuning(config.load({"load_model_path": name}, None, "prune"), "pruned.pth")
        assert options["load_model_path"] == "pruned.pth" and config_file.samefile(options["config"])
        return options.get("work_dir")

    name = "checkpoints/Net_folds/Net_1/best.pth"
    assert work_dir(name) is None, "no --fold=all trained it: beside it is where it was"
    config_file.parent.with_name("config.yaml").write_text("fold: all\n")
    assert work_dir(name) == str(tmp_path / "checkpoints")
    monkeypatch.chdir(config_file.parent)
    assert work_dir("best.pth") == str(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ratio": 0.999}, "--ratio=0.999 leaves features.0, "),
        ({"importance": "slim"}, "SqueezeNet has none: give l1, l2 or fpgm"),
        ({"output": "/nowhere/pruned.pth"}, "there is no folder /nowhere: name another file"),
        ({"work_dir": "empty"}, r"no trained model: empty/\*/best.pth does not exist"),
        ({"ratio": 0.5, "speedup": 2}, "--speedup finds the ratio"),
        ({"output": "{run}/last.pth"}, "last.pth is there already: name another file"),
        ({"max_epoch": 3, "lr": 0.1}, "--max-epoch and --lr: prune trains with --iterative alone"),
        ({"iterative": 3}, "--iterative needs --run or --load-model-path"),
        ({"output": "pruned.txt"}, "--output=pruned.txt is for a checkpoint: a name that ends in .pth"),
    ],
)
def test_what_is_wrong_is_one_line(trained, options, line, monkeypatch):
    monkeypatch.chdir(trained[0])
    given = {name: one.format(run=trained[1]) if isinstance(one, str) else one for name, one in options.items()}
    with pytest.raises(UserError, match=line):
        prune.prune(program, config.load({"num_workers": 0, **given}, None, "prune"))


def test_the_other_prune_is_named():
    with pytest.raises(UserError, match="prune does not read --prune, .*`main.py prune --importance=l1`"):
        config.load({"prune": "l1"}, None, "prune")
