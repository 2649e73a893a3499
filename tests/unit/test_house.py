"""The house rules that a machine can hold: floors, start-up, size. Run: pytest tests/unit/test_house.py"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = Path(__file__).resolve().parents[2] / "python"
COMMANDS = sorted(PYTHON.glob("*.py"))
FLOORS = {
    "errors schema settings recipes options hardware process_memory hashing runs calling ranks orphans": 1,
    "data chat packing batches samples manifest": 2,
    "models model_files methods packed_model lean_attention lean_layers lean_rotary dropout_masks teamwork": 3,
    "recycled_memory frozen_linear footprint weights engine shapes random_model": 3,
}
FLOOR_OF = {room: floor for rooms, floor in FLOORS.items() for room in rooms.split()}
TOP = 4  # training, evaluation, and all that is not named above


def room_of(path: Path) -> str:
    return path.relative_to(PYTHON / "common").parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "common":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("common.")}
    return rooms


@pytest.mark.parametrize("path", sorted((PYTHON / "common").rglob("*.py")), ids=lambda p: str(p.relative_to(PYTHON)))
def test_imports_go_down_or_sideways(path):
    if path.parent == PYTHON / "common" and path.name == "__init__.py":
        return
    mine = FLOOR_OF.get(room_of(path), TOP)
    above = {room for room in imported_rooms(path) if FLOOR_OF.get(room, TOP) > mine}
    assert not above, f"{path.name} is on floor {mine} and imports from above: {above}"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.name)
def test_no_command_imports_another(path):
    names = {command.stem for command in COMMANDS}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not names & set(modules)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.name)
def test_help_needs_no_heavy_library(path):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'scipy', 'matplotlib', 'datasets', 'pyarrow', 'dspy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(path)]
    answer = subprocess.run(command, cwd=PYTHON, env={"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "usage:" in answer.stdout


def file_of(module: str) -> Path | None:
    """The file of a module of common/, or None when the name is of something else."""
    place = PYTHON / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported_files(path: Path) -> set[Path]:
    """The files of common/ that ``path`` imports, at its top or within a function."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "common":
            files |= {file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names}
        elif isinstance(node, ast.Import):
            files |= {file_of(alias.name) for alias in node.names if alias.name.startswith("common.")}
    return files - {None}


def test_no_two_modules_import_each_other_in_a_circle():
    imports = {path: imported_files(path) for path in (PYTHON / "common").rglob("*.py")}
    while leaves := [path for path, others in imports.items() if not others & imports.keys()]:
        for path in leaves:
            del imports[path]
    assert not imports, f"circle among {sorted(str(path.relative_to(PYTHON)) for path in imports)}"


def test_contributing_draws_every_room_on_its_floor():
    drawn, floor = {}, 0
    for line in (PYTHON.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[3].splitlines():
        floor = int(line[0]) if line[:1].isdigit() else floor
        drawn |= {room.split()[0]: floor for room in line[4:].split(" · ") if room}
    rooms = {room_of(path) for path in (PYTHON / "common").rglob("*.py")} - {"__init__"}
    assert drawn == {room: FLOOR_OF.get(room, TOP) for room in rooms}
