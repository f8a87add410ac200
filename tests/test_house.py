"""What the README promises of the code: how long the loop is, who imports whom, and what adding a model takes."""

import ast
import re
import shutil
import subprocess
import sys

from conftest import FAST, ROOT

PARTS = {
    "main": {"config", "data", "models", "utils"},
    "config": set(),
    "data": {"utils"},
    "models": set(),
    "utils": set(),
}


def parsed():
    """(part of the house, path, syntax tree) of every file of ours."""
    for part in PARTS:
        paths = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).glob("*.py"))
        for path in paths:
            yield part, path, ast.parse(path.read_text())


def test_the_training_fits_on_a_screen():
    (tree,) = [tree for part, _, tree in parsed() if part == "main"]
    (train,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "train"]
    assert train.end_lineno - train.lineno + 1 <= 80
    epochs = [node for node in ast.walk(train) if isinstance(node, ast.For)][0]
    (steps,) = [node for node in epochs.body if isinstance(node, ast.For)]
    assert steps.end_lineno - steps.lineno + 1 <= 20


def test_arrows_run_one_way():
    for part, path, tree in parsed():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong = {name.split(".")[0] for name in names} & PARTS.keys() - PARTS[part] - {part}
            assert not wrong, f"{path} imports {wrong}"


def test_nothing_asks_which_model_or_data_set_it_is():
    for _, path, _ in parsed():
        asks = re.findall(
            r"^.*\b(?:model|data|dataset)(?:_name)?\s*(?:==|in)\s*[\[({]?['\"].*$", path.read_text(), re.MULTILINE
        )
        assert not asks, f"{path}: {asks}"


def test_a_model_and_a_data_set_are_one_file_and_one_line_each(tmp_path, pictures):
    """The README's model, word for word, and a data set of other file names, in a copy of the project."""
    for name in ("main.py", "config.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("models", "data", "utils"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("demo", "train", "test1", "__pycache__")
        )
    (snippet,) = re.findall(r"```python\n(from torch import nn\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "models" / "smallnet.py").write_text(snippet)
    with open(tmp_path / "models" / "__init__.py", "a") as file:
        file.write("from .smallnet import SmallNet\n")
    (tmp_path / "data" / "three.py").write_text(
        "from .pictures import PictureData, folder_files\n\n\n"
        "class Three(PictureData):\n"
        "    classes = ('even', 'odd', 'none')\n\n"
        "    def __init__(self, root, mode, image_size=224, **_):\n"
        "        paths = folder_files(root, 'give --train-data-root')[mode == 'val' :: 2]\n"
        "        super().__init__(paths, [int(p.name.split('.')[1]) % 2 for p in paths], mode, image_size)\n"
    )
    with open(tmp_path / "data" / "__init__.py", "a") as file:
        file.write("from .three import Three\n")
    fast = [option for option in FAST if "model" not in option]
    command = ["main.py", "train", "--model=SmallNet", "--dataset=Three", f"--train-data-root={pictures}", *fast]
    for arguments in ([*command, "--max-epoch=1"], ["main.py", "val"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "using checkpoints/SmallNet_" in done.stdout
    (matrix,) = tmp_path.glob("checkpoints/*/confusion.csv")
    assert matrix.read_text().splitlines()[0].endswith("even,odd,none")
