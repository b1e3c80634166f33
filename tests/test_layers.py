"""The order of the rooms: imports point down only."""

import ast
from pathlib import Path

import pytest

import torchlogreg

PACKAGE = Path(torchlogreg.__file__).parent
# From top to bottom. Rooms of one line do not know each other.
LAYERS = [
    {"__init__", "_conversion", "_cv", "_search"},
    {"callbacks", "distributed"},
    {"_displays", "datasets"},
    {"_model_selection", "_launchers"},
    {"_estimators"},
    {"_export", "_monitoring"},
    {"_solvers"},
    {"_objective"},
    {"_data"},
    {"_runtime"},
]
HEIGHT = {room: -number for number, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    """The folder, or the file at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def statements(node):
    """All statements in it; `ast.walk` would visit ten times as many expressions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child
            yield from statements(child)


def imported(path):
    """The parts of the names of the package's own modules that a file imports anywhere."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "torchlogreg":
            yield [*node.module.split(".")[1:], *(["__init__"] if node.module == "torchlogreg" else [])]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1:] for name in node.names if name.name.startswith("torchlogreg."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    for module in imported(path):
        assert module[0] == room or HEIGHT[module[0]] < HEIGHT[room], f"{path} imports {'.'.join(module)}"


def test_nothing_below_the_solvers_knows_the_name_of_one():
    names = {"lbfgs", "newton-cholesky", "sgd"}
    for path in FILES:
        if HEIGHT[room_of(path)] < HEIGHT["_solvers"]:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            assert not names & {
                node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
