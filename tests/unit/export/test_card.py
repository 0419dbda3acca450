"""The model card: what it says, what it says that it does not know, and that no name in it becomes markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from dashboard_runs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from common.analysis.report import Duplicates, Report
from common.export.card import about_run, card, card_of_run, code, escaped, front_matter
from common.runs.folder import RunFolder
from common.runs.records import Metadata

ODD = ["<script>alert(1)</script>", "![x](http://evil)", "[a](b)", "# head", "- list", "1. one", "`code`", "**bold**", "a|b",
       "&amp;", "_it_", "</details>", "www.evil.com", "a@b.c", "\\*", "~~gone~~", "$x$", "---", "+ plus", "===", ":smile:", "aquarium_fish"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return RunFolder(make_run(tmp_path_factory.mktemp("runs"), "first", lr=0.25, weights="IMAGENET1K_V2"))


@pytest.fixture(scope="module")
def report(folder) -> Report:
    return Report.load(folder.evaluated().report)


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_card_has_the_report_s_numbers_and_the_run_s_flags(folder, report):
    text = card(about_run(folder), folder, report)
    low, high = report.accuracy_interval
    quality = section(text, "How good it is")
    assert f"**{report.metrics['test/accuracy']:.4f}**" in quality and f"{low:.4f} to {high:.4f}" in quality
    assert f"{report.baseline[1]:.4f}, always {report.baseline_answer}" in quality
    assert "not known, this was not looked for" in quality
    assert "`--lr 0.25`" in section(text, "Recipe") and "momentum" not in section(text, "Recipe")
    assert "whether its images are new to it" in section(text, "What it was not tested on")
    assert "ImageNet" in section(text, "Licence") and "BSD-3-Clause" in section(text, "Licence")
    assert section(text, "Classes").split("\n\n")[0].strip() == ", ".join(report.classes)


def test_the_honest_accuracy_and_the_temperature_are_said_where_they_are_known(folder, report):
    found = Duplicates(exact=3, near=2, accuracy_without=0.5, accuracy_without_low=0.4, accuracy_without_high=0.6)
    calibration = replace(report.calibration, temperature=1.5, ece_after=0.01, nll_after=0.0)
    text = card(about_run(folder), folder, replace(report, duplicates=found, calibration=calibration))
    assert "**0.5000** (95 % interval 0.4000 to 0.6000), with 5 left out" in text
    assert "divided by 1.5" in text and "(image[None]) / 1.5)" in text
    mirrored = card(about_run(folder), folder, replace(report, calibration=calibration, tta="flip"))
    assert "(image[None]) / 1)" in mirrored, "the temperature is of other logits"


def test_what_is_not_known_is_said(folder, tmp_path):
    nowhere = RunFolder(tmp_path / "nowhere")
    text = card(about_run(folder), nowhere, None)
    for said in (
        "not known: the weights came without",
        "Not known: the run's settings",
        "Not known: it was not evaluated",
    ):
        assert said in text
    assert "- any test set" in text and "not known, nor is its licence" in text
    assert card_of_run(nowhere) is None
    assert "validation accuracy 0.1250" in card(about_run(folder), nowhere, None, accuracy=0.125)


@pytest.mark.parametrize(
    "weights, said", [("none", "random weights"), ("/home/me/secret/own.pth", "`own.pth`, whose licence is not known")]
)
def test_the_licence_is_that_of_what_the_training_started_from(tmp_path, weights, said):
    folder = RunFolder(make_run(tmp_path, "run", weights=weights))
    text = card(about_run(folder), folder, None)
    assert said in section(text, "Licence") and "secret" not in text
    head = yaml.safe_load(front_matter(about_run(folder), folder).strip("-\n"))
    assert head["license"] == "unknown"


def test_many_classes_are_folded_away(folder):
    about = replace(about_run(folder), classes=[f"c{i}" for i in range(31)])
    assert "<details><summary>31 classes</summary>" in card(about, folder, None)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.text = list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)

    def handle_data(self, data):
        self.text += data


def unescaped(text: str) -> str:
    """As a reader of CommonMark sees it."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", Tags(text).text)


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_itself_and_no_markup(name):
    text = escaped(name)
    assert not Tags(text).found and unescaped(text) == name
    plain = re.sub(r"\\.", "x", text)
    assert not re.search(r"[`*\[\]|~$@]|^[#+=-]|^\d+[.)]|(?<!\w)_|www\.", plain)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.text(max_size=40))
def test_any_name_stays_in_its_line_and_in_its_place(name):
    text, span = escaped(name), code(name)
    assert "\n" not in text + span and not Tags(text).found
    ticks = re.match("`+", span)[0]
    assert span.endswith(ticks) and ticks not in span.strip("`") + "`" * (len(ticks) - 1) or "`" not in name


def test_odd_names_add_no_heading_tag_or_link_to_the_card_and_nothing_to_its_head(folder, report):
    plain = card(about_run(folder), folder, report)
    kinds = [ODD[i] for i in range(len(report.classes))]
    odd = replace(
        report,
        classes=kinds,
        per_class=[replace(row, name=name) for row, name in zip(report.per_class, kinds, strict=True)],
    )
    about = Metadata(**{**vars(about_run(folder)), "classes": kinds, "dataset": "<b>`x`", "model": "resnet50"})
    text = card(about, folder, odd)
    assert Tags(re.sub(r"(`+)(?!`).*?[^`]\1(?!`)", "", text)).found == Tags(plain).found
    headings = re.compile("^#+ .*", re.MULTILINE)
    assert [line for line in headings.findall(text) if line.startswith("##")] == headings.findall(plain)[1:]
    assert "(http://evil)" not in re.sub(r"\\.", "", text)
    head = yaml.safe_load(front_matter(about, folder).strip("-\n"))
    assert head["library_name"] == "timm" and head["license"] == "other"


def test_a_damaged_config_or_split_is_no_card_of_the_run_and_no_traceback(tmp_path):
    folder = RunFolder(make_run(tmp_path, "run"))
    folder.config.write_text("lr: [")
    assert card_of_run(folder) is None
    folder.split.write_text(json.dumps({"classes": ["\n"], "digest": "", "validation": []}))
    assert card_of_run(folder) is None
