"""The rooms of `common` and the walls between them, read from the imports: see CONTRIBUTING.md for the tour."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a room may import of ours. `config` and `cli` are rooms of one file.
MAY_IMPORT = {
    "base": set(),
    "config": {"base"},
    "runs": {"base", "config"},
    "cli": {"base", "config", "runs"},
    "data": {"base"},
    "model": {"base", "data", "runs"},
    "tracking": {"base", "runs"},
    "training": {"base", "config", "data", "export", "model", "runs", "tracking"},
    "analysis": {"base", "data", "model", "runs"},
    "export": {"analysis", "base", "config", "data", "model", "runs"},
    "sweeps": {"base", "cli", "config", "runs"},
    "dashboard": {"analysis", "base", "config", "export", "runs"},
}
ONLY_FOR_THE_SCRIPT = {  # beside the road: the one script that may import it
    "common.sweeps": "sweep",
    "common.dashboard": "dashboard",
    "common.tracking.sync": "sync",
    "common.training.seeds": "train",
    "common.training.soup": "soup",
}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(file): file
    for file in [
        *ROOT.glob("*.py"),
        *ROOT.glob("common/**/*.py"),
        *ROOT.glob("tools/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]
}


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of ours that `module` imports, at its top or in a function; a package's names by the module they are in."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports relative to itself: write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(found & MODULES.keys())


def room_of(module: str) -> str:
    """`common.data.cifar` → `data`; a script or a tool → its own name."""
    parts = module.split(".")
    return parts[1] if parts[0] == "common" and len(parts) > 1 else module


def in_common() -> list[str]:
    return [module for module in MODULES if module.startswith("common.")]


def test_every_room_is_on_the_plan():
    assert {room_of(module) for module in in_common()} == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", in_common())
def test_no_room_imports_from_beyond_its_walls(module):
    allowed = MAY_IMPORT[room_of(module)] | {room_of(module)}
    beyond = {name for name in imports_of(module) if name != "common" and room_of(name) not in allowed}
    assert not beyond, f"{module} imports {sorted(beyond)}; {room_of(module)} may import of ours: {sorted(allowed)}"


@pytest.mark.parametrize("street, script", ONLY_FOR_THE_SCRIPT.items())
def test_what_stands_beside_the_road_is_imported_by_its_script_alone(street, script):
    def inside(module: str) -> bool:
        return module == street or module.startswith(f"{street}.")

    importers = {module for module in MODULES if not inside(module) and any(map(inside, imports_of(module)))}
    assert importers == {script}


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in imports_of(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_only_tracking_imports_wandb():
    for module, file in MODULES.items():
        if module.startswith("benchmarks."):  # one measures what the client alone takes
            continue
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert "wandb" not in names or room_of(module) == "tracking", f"{module} imports wandb"


LINES = {  # of a script at most, its docstring and flags included
    "train": 90,
    "evaluate": 90,
    "compare": 50,
    "visualize": 90,
    "predict": 90,
    "soup": 50,
    "sweep": 50,
    "sync": 50,
    "dashboard": 50,
    "export": 90,
}


@pytest.mark.parametrize("script", LINES)
def test_a_script_reads_like_a_recipe(script):
    text = MODULES[script].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES[script]
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            imports = sum(isinstance(node, ast.ImportFrom) for node in function.body)
            length = (function.end_lineno or 0) - function.lineno + 1 - imports
            longest = 20 if script == "train" else 35
            assert length <= longest, f"{script}.{function.name} has {length} lines, its imports aside"


def test_no_test_imports_from_another_test():
    for file in (ROOT / "tests").glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.rpartition(".")[2].startswith("test_") for name in names), f"{file} imports {names}"


def test_the_tests_lie_in_the_rooms_of_what_they_test():
    rooms = {folder.name for folder in (ROOT / "tests" / "unit").iterdir() if folder.is_dir()} - {"__pycache__"}
    assert rooms <= MAY_IMPORT.keys()
    assert not list((ROOT / "tests").glob("test_*.py"))
