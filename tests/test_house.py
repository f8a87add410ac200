"""What the README promises of the code: how long the loop is, who imports whom, and what adding a part takes."""

import ast
import re
import shutil

import mutants
import pytest
from conftest import FAST, ROOT, server

from utils import VERSION

PARTS = {
    "main": {"config", "data", "models", "utils"},
    "config": {"utils"},
    "data": {"utils"},
    "models": {"utils"},
    "utils": set(),
}


def parsed():
    """(part of the house, path, syntax tree) of every file of ours."""
    for part in PARTS:
        paths = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).rglob("*.py"))
        for path in paths:
            yield part, path, ast.parse(path.read_text())


HOUSE = list(parsed())


def imported(tree):
    """Every module that a file imports by its full name, and (level, module) where it is relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def length(node):
    return node.end_lineno - node.lineno + 1


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_the_training_fits_on_a_screen_and_its_loop_in_a_head():
    (tree,) = [tree for part, _, tree in HOUSE if part == "main"]
    (train,) = [node for node in functions(tree) if node.name == "train"]
    assert length(train) <= 60
    (epochs,) = [
        node for node in ast.walk(train) if isinstance(node, ast.For) and "run.epochs" in ast.unparse(node.iter)
    ]
    (steps,) = [node for node in epochs.body if isinstance(node, ast.For)]
    assert length(steps) <= 16
    assert len({node.id for node in ast.walk(steps) if isinstance(node, ast.Name)}) <= 18
    assert sum(isinstance(node, ast.Call) for node in ast.walk(steps)) <= 14


def test_no_function_and_no_file_is_long():
    assert [f"{path}: {node.name}" for _, path, tree in HOUSE for node in functions(tree) if length(node) > 60] == []
    long = {path.name for _, path, _ in HOUSE if len(path.read_text().splitlines()) > 300}
    assert long <= {"main.py", "config.py"}  # a list: every option takes a line, every preset a few


def test_utils_are_rooms():
    assert len(list((ROOT / "utils").glob("*.py"))) <= 5


def test_arrows_run_one_way():
    for part, path, tree in HOUSE:
        wrong = {name.split(".")[0] for name in imported(tree)} & PARTS.keys() - PARTS[part] - {part}
        assert not wrong, f"{path} imports {wrong}"


def test_config_needs_no_more_than_the_options():
    (tree,) = [tree for part, _, tree in HOUSE if part == "config"]
    ours = {name for name in imported(tree) if name.split(".")[0] == "utils"}
    assert all(
        name in ("utils.UserError", "utils.notices.note_once") or name.startswith("utils.options.") for name in ours
    )


def test_the_contract_of_data_sets_knows_no_pictures():
    (contract,) = [tree for _, path, tree in HOUSE if path == ROOT / "data" / "base.py"]
    assert not [name for name in imported(contract) if name.startswith("data.")]


def test_every_public_name_has_a_docstring():
    silent = []
    for _, path, tree in HOUSE:
        outer = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
        for node in (node for one in outer for node in one.body):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith(("_", "on_")):
                if not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert silent == []


def test_nothing_asks_which_model_or_data_set_it_is():
    for _, path, _ in HOUSE:
        asks = re.findall(
            r"^.*\b(?:model|data|dataset)(?:_name)?\s*(?:==|in)\s*[\[({]?['\"].*$", path.read_text(), re.MULTILINE
        )
        assert not asks, f"{path}: {asks}"


def test_there_is_one_version():
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_every_line_that_make_mutants_breaks_is_still_there_and_so_are_its_tests():
    assert len(mutants.ALL) >= 60
    assert [str(one) for one in mutants.ALL if one.misplaced(ROOT)] == []
    for file, _, name in (test.partition(":") for one in mutants.ALL for test in one.tests.split()):
        assert re.search(rf"^def test_\w*{name}", (ROOT / "tests" / file).read_text(), re.MULTILINE), (file, name)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, to change."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("main.py", "config.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("models", "data", "utils"):
        ignore = shutil.ignore_patterns("demo", "train", "test1", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore if name == "data" else None)
    return folder


def test_a_model_and_a_data_set_are_one_file_and_one_line_each(copy, pictures):
    """The README's model, word for word, and a data set of other file names."""
    (snippet,) = re.findall(r"```python\n(from torch import nn\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (copy / "models" / "smallnet.py").write_text(snippet)
    with open(copy / "models" / "__init__.py", "a") as file:
        file.write("from .smallnet import SmallNet\n")
    (copy / "data" / "three.py").write_text(
        "from .pictures.labelled import PictureData\n"
        "from .pictures.split import folder_files\n\n\n"
        "class Three(PictureData):\n"
        "    classes = ('even', 'odd', 'none')\n\n"
        "    def __init__(self, root, mode, image_size=224, **_):\n"
        "        paths = folder_files(root, 'give --train-data-root')[mode == 'val' :: 2]\n"
        "        super().__init__(paths, [int(p.name.split('.')[1]) % 2 for p in paths], mode, image_size)\n"
    )
    with open(copy / "data" / "__init__.py", "a") as file:
        file.write("from .three import Three\n")
    fast = [option for option in FAST if "model" not in option]
    command = ["train", "--model=SmallNet", "--dataset=Three", f"--train-data-root={pictures}", *fast]
    # Of what the fork server has loaded, that of this house is loaded again, from the copy.
    ours = f"[name for name in sys.modules if name.split('.')[0] in {[*PARTS]}]"
    again = f"import sys\nfor name in {ours}:\n    del sys.modules[name]"
    for arguments in ([*command, "--max-epoch=1"], ["val"]):
        code = server().run(*arguments, cwd=copy, first=again, program=copy / "main.py")
        assert code == 0, (copy / "output").read_text()
    assert "using checkpoints/SmallNet_" in (copy / "output").read_text()
    (matrix,) = copy.glob("checkpoints/*/confusion.csv")
    assert matrix.read_text().splitlines()[0].endswith("even,odd,none")
