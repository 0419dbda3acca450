"""What installs, checks and describes the project agrees with itself: requirements, versions, and the commands that CI runs."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.11's")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {path.stem for path in ROOT.glob("*.py")} | {"common", "tools", "benchmarks"}
FAKES = {path.stem for path in (ROOT / "tests" / "fakes").glob("**/*.py")}
CHECKS = ["ruff check .", "ruff format --check .", "mypy"]


def lines_of(name: str) -> list[str]:
    """Without comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def requirements(name: str) -> dict[str, Requirement]:
    """By the distribution's name; lines that are options for pip are left out."""
    found = [Requirement(line) for line in lines_of(name) if not line.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def distributions_imported_by(*patterns: str) -> set[str]:
    """Of all imports in these files that are neither ours nor the standard library's, at the top or in a function."""
    names = set()
    for file in (file for pattern in patterns for file in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    foreign = names - OURS - FAKES - sys.stdlib_module_names
    known = packages_distributions()
    return {canonicalize_name(known[name][0] if name in known else name) for name in foreign}


# requirements


def test_what_the_scripts_import_is_required_of_users():
    imported = distributions_imported_by("*.py", "common/**/*.py", "tools/*.py", "benchmarks/*.py")
    assert {"torch", "pyyaml", "scikit-learn"} < imported  # the names of distributions, not of modules
    optional = requirements("requirements-export.txt").keys()
    assert imported <= requirements("requirements.txt").keys() | optional
    assert imported & optional == optional - {"onnxscript"}, "which torch's exporter imports"


def test_what_the_tests_import_is_required_of_developers():
    imported = distributions_imported_by("tests/**/*.py")
    names = ("requirements.txt", "requirements-export.txt", "requirements-dev.txt")
    assert imported <= {name for file in names for name in requirements(file)}


def test_one_who_only_trains_installs_no_tool_of_tests_or_checks():
    assert {"-r requirements.txt", "-r requirements-export.txt"} <= set(lines_of("requirements-dev.txt"))
    users, developers = requirements("requirements.txt"), requirements("requirements-dev.txt")
    assert not users.keys() & developers.keys()
    assert {"pytest", "playwright", "ruff", "mypy", "pre-commit"} <= developers.keys()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-export.txt", "requirements-dev.txt"])
def test_every_requirement_has_a_lower_bound_and_no_upper_one(name):
    for requirement in requirements(name).values():
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement


def test_the_tested_versions_are_exact_allowed_and_name_no_place():
    tested = requirements("requirements-tested.txt")
    for name, requirement in tested.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "+" not in specifier.version and requirement.url is None, name
    assert not re.search(r"://|^-|file:|@", "\n".join(lines_of("requirements-tested.txt")), re.MULTILINE)
    asked = (requirements(f"requirements{of}.txt") for of in ("", "-export", "-dev"))
    for name, requirement in (entry for file in asked for entry in file.items()):
        (specifier,) = tested[name].specifier
        assert requirement.specifier.contains(specifier.version), f"{requirement}, but {specifier.version} was tested"


# the package


def test_the_version_is_the_newest_of_the_changelog():
    versions = re.findall(r"^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["version"] == versions[0]
    assert versions == sorted(versions, key=lambda version: [int(part) for part in version.split(".")], reverse=True)


def test_every_script_at_the_top_belongs_to_the_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert sorted(setuptools["py-modules"]) == sorted(path.stem for path in ROOT.glob("*.py"))
    assert setuptools["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


def test_one_oldest_python_everywhere():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert workflow_jobs()["tests"]["strategy"]["matrix"]["python"][0] == oldest


# the checks


def workflow_jobs() -> dict[str, dict]:
    return yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))["jobs"]


def make_words() -> dict[str, list[str]]:
    """The Makefile's words → their commands."""
    words: dict[str, list[str]] = {}
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if line.startswith("\t"):
            words[next(reversed(words))].append(line.strip())
        elif found := re.match(r"(\w+):", line):
            words[found[1]] = []
    return words


def test_ci_runs_the_checks_with_the_versions_that_were_tested():
    assert 'PIP_CONSTRAINT="$PWD/requirements-tested.txt"' in (ROOT / ".ci/run").read_text(encoding="utf-8")
    install, *_ = [step["run"] for step in workflow_jobs()["checks"]["steps"] if "run" in step]
    assert install == "pip install -r requirements-dev.txt -c requirements-tested.txt"


def test_ci_runs_the_tests_as_the_readme_says_and_then_the_checks():
    commands = lines_of(".ci/run")
    (found,) = [re.search(r"'(.*)' README.md", line) for line in commands if "README.md" in line]
    assert found[1] in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert commands[-len(CHECKS) :] == CHECKS


def test_make_has_five_words_each_with_a_line_of_help():
    assert list(make_words()) == ["check", "test", "slow", "browser", "bench"]
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f".PHONY: {' '.join(make_words())}\n" in text
    assert all(re.search(rf"^{word}: # \w", text, re.MULTILINE) for word in make_words())


def test_make_the_hooks_and_the_workflow_run_the_checks_of_ci():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert make_words()["check"] == CHECKS
    assert [hook["entry"] for repository in hooks for hook in repository["hooks"]] == CHECKS
    assert [step["run"] for step in workflow_jobs()["checks"]["steps"] if "run" in step][1:] == CHECKS


def test_the_hooks_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {repository["repo"] for repository in hooks} == {"local"}


def test_the_workflow_covers_three_systems_and_pins_what_it_uses():
    jobs = workflow_jobs()
    assert jobs["tests"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "windows-latest", "macos-latest"]
    assert "pytest" in [step.get("run") for step in jobs["tests"]["steps"]]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w/-]+@v\d+", action) for action in used)
