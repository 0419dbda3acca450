"""What the documentation says exists: links, anchors, flags, functions, and the table of layers."""

import ast
import dataclasses
import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

from common.cli import parse
from common.config import GROUPS, PRESETS, TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
LAB, LAB_RU = ROOT / "docs" / "lab.md", ROOT / "docs" / "lab.ru.md"

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
FILE_SUFFIXES = ("py", "yaml", "toml", "txt", "md")
CODE_REFERENCE = re.compile(rf"([\w./-]+\.(?:{'|'.join(FILE_SUFFIXES)}))(?::(\w+))?")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def code_blocks(page: Path) -> list[str]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets within the project: paths, with or without an anchor."""
    text = CODE_SPAN.sub("code", prose(page))
    found = [first or second for first, second in LINK.findall(text)]
    return [target for target in found if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, hyphens for spaces, letters and digits kept, repeated ones counted."""
    seen: dict[str, int] = {}
    result = set()
    for _, title in HEADING.findall(prose(page)):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


@functools.cache
def defined_names(path: Path) -> set[str]:
    """Functions, classes and variables at the top of a Python file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every `python X.py …`, `python -m x.y …` and `torchrun … X.py …`: the script's path and its arguments."""
    found = []
    spans = CODE_SPAN.findall(prose(page))
    lines = [line for block in code_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + spans:
        for part in re.split(r"&&|;|\|", line) if "-c " not in line else []:
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a sentence with an apostrophe, no command
                continue
            while words and (re.match(r"\w+=", words[0]) or words[0] == "$"):
                words.pop(0)
            if not words or words[0] not in ("python", "torchrun"):
                continue
            if words[1:2] == ["-m"] and words[2] not in ("pip", "pytest"):
                path = words[2].replace(".", "/")
                found.append((path + ("/__main__.py" if (ROOT / path).is_dir() else ".py"), words[3:]))
                continue
            script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
            if script is not None:
                found.append((words[script], words[script + 1 :]))
    return found


@functools.cache
def config_class(script: str) -> type | None:
    """The dataclass that is the command line of a script at the top, or of `tools.layers`; the others' are not imported."""
    if "/" in script and script != "tools/layers.py":
        return None
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    return getattr(module, f"{Path(script).stem.title()}Config")


def flags_in_source(script: str) -> set[str]:
    """Fields of the classes named …Config in a script, read without importing it, and the flags of an `ArgumentParser`. A package
    that is run has them in any of its files."""
    files = sorted((ROOT / script).parent.glob("*.py")) if Path(script).name == "__main__.py" else [ROOT / script]
    tree = ast.parse("\n".join(file.read_text(encoding="utf-8") for file in files))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith("Config")]
    fields = {field.target.id for node in classes for field in node.body if isinstance(field, ast.AnnAssign)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return fields | {text[2:] for text in texts if re.fullmatch(r"--[\w-]+", text)}


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pages
def test_every_link_within_the_project_leads_somewhere(page):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{target}: no such heading; there are {sorted(anchors(file))}")
    assert not broken, "\n".join(broken)


@pages
def test_every_file_and_function_named_in_the_text_exists(page):
    missing = []
    for span in CODE_SPAN.findall(prose(page)):
        reference = CODE_REFERENCE.fullmatch(span)
        if not reference or "/" not in reference[1] and not reference[1].endswith(".py"):
            continue  # files of a run, such as `report.json`, or no file at all
        path, name = ROOT / reference[1], reference[2]
        if reference[1].startswith("runs/"):
            continue
        if not path.exists():
            missing.append(f"{span}: no such file")
        elif name and name not in defined_names(path):
            missing.append(f"{span}: {reference[1]} defines no {name}")
    assert not missing, "\n".join(missing)


@pages
def test_a_link_whose_text_is_a_code_reference_leads_to_that_file(page):
    for path, target in re.findall(r"\[`([\w./-]+\.\w+)(?::\w+)?`\]\(([^)#\s]+)", prose(page)):
        assert (page.parent / target).resolve() == (ROOT / path).resolve(), f"`{path}` links to {target}"


@pages
def test_every_command_shown_is_accepted_by_its_script(page, capsys):
    wrong = []
    for script, arguments in commands(page):
        arguments = [argument for argument in arguments if argument not in ("…", "...")]
        shown = f"python {script} {' '.join(arguments)}"
        if not (ROOT / script).exists():
            wrong.append(f"{shown}: there is no {script}")
            continue
        if cls := config_class(script):
            default = None
            if cls is TrainConfig:
                given = dict(zip(arguments, arguments[1:], strict=False)).get("--preset", "lab")
                default = PRESETS.get(given, PRESETS["lab"])
            try:
                if "--help" not in arguments:
                    parse(cls, default, arguments)
            except SystemExit:
                wrong.append(f"{shown}: {capsys.readouterr().err}")
        else:
            used = {word[2:].partition("=")[0] for word in arguments if word.startswith("--")} - {"help"}
            known = flags_in_source(script)
            wrong += [
                f"{shown}: no flag --{flag}"
                for flag in used
                if flag not in known and flag.replace("-", "_") not in known
            ]
    assert not wrong, "\n".join(wrong)


def test_the_readme_shows_the_two_commands_that_do_everything():
    blocks = [block.strip() for block in code_blocks(ROOT / "README.md")]
    assert blocks[:2] == [
        "pip install -r requirements.txt && python train.py --preset digits",
        "pip install -r requirements-dev.txt && pytest",
    ]


def test_the_readmes_table_of_flags_is_that_of_the_groups():
    section = prose(ROOT / "README.md").partition("\n## Flags\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    expected = [
        [
            name,
            ", ".join(f"`{field.name}`" for field in dataclasses.fields(group)),
            group.__doc__.rstrip("."),
            "may change" if group.may_change_on_resume else "stays",
        ]
        for name, group in GROUPS.items()
    ]
    assert rows[2:] == expected, "\n".join("| " + " | ".join(row) + " |" for row in expected)


@functools.cache
def layers_table() -> str:
    from tools.layers import layers, table

    return table({name: layers(name) for name in ("resnext50_32x4d", "resnet50")})


@pytest.mark.parametrize("page", [LAB, LAB_RU], ids=name_of)
def test_the_labs_table_of_layers_is_what_the_command_prints(page):
    assert f"\n\n{layers_table()}\n\n" in page.read_text(encoding="utf-8"), (
        "paste the output of: python -m tools.layers"
    )


def test_both_languages_of_the_lab_have_the_same_structure():
    english, russian = ([len(level) for level, _ in HEADING.findall(prose(page))] for page in (LAB, LAB_RU))
    assert english == russian


def test_both_languages_of_the_lab_have_the_same_code_links_and_numbers_of_sections():
    assert code_blocks(LAB) == code_blocks(LAB_RU)
    mine, theirs = ([link for link in links(page) if link not in ("lab.md", "lab.ru.md")] for page in (LAB, LAB_RU))
    assert sorted(mine) == sorted(theirs)
    english, russian = (
        re.findall(r"^## (\d+)\. ", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (LAB, LAB_RU)
    )
    assert english == russian == [str(number) for number in range(1, len(english) + 1)]


def test_both_languages_of_the_lab_have_the_same_commands_and_code_in_the_text():
    def spans(page: Path) -> list[str]:
        return sorted(CODE_SPAN.findall(prose(page)))

    assert spans(LAB) == spans(LAB_RU)


@pages
def test_no_number_is_left_to_be_measured(page):
    # A marker stands where a number belongs: run the command beside it and write what it printed.
    left = [line.strip() for line in page.read_text(encoding="utf-8").splitlines() if "TODO-MEASURE" in line]
    assert not left, f"{len(left)} numbers to measure in {name_of(page)}:\n" + "\n".join(left)


def test_the_pages_say_the_presets_own_numbers():
    rows = re.findall(r"^\| `(\w+)`[^|]*(\|.+)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = [(name, text) for name, text in rows if name in PRESETS]
    assert [name for name, _ in told] == list(PRESETS)
    numbers = [(name, *found) for name, text in told for found in re.findall(r"(head alone, )?(\d+) (epochs|px)", text)]
    assert len(numbers) >= len(PRESETS)
    for name, of_the_head, number, what in numbers:
        preset = PRESETS[name]
        epochs = preset.model.head_epochs if of_the_head else preset.duration.epochs
        assert int(number) == (epochs if what == "epochs" else preset.images.image_size), name
    lr = PRESETS["digits"].recipe.lr
    assert f"`--preset digits` uses {lr}." in LAB.read_text(encoding="utf-8")
    assert f"`--preset digits` он равен {lr}." in LAB_RU.read_text(encoding="utf-8")
