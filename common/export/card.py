"""The model card: Markdown, from a run's folder and its report. Imports no torch: the dashboard shows it as well.

Names, paths and settings may be a stranger's: what goes into the text is escaped, so that none of it is Markdown, HTML or YAML.
"""

import html
import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from common.analysis.classes import failing_classes
from common.analysis.report import Calibration, Duplicates, Report
from common.base.errors import UserError
from common.base.text import printable
from common.config import SETS_APART, TrainConfig, as_dict
from common.data.pixels import MEAN, PAD_COLOUR, STD
from common.runs.folder import RunFolder, load_config
from common.runs.records import Metadata
from common.runs.rules import OF_HEAD, is_of_head_alone

CLASSES_SHOWN = 30  # more are folded away
FEW_IMAGES = 20  # of a class: its recall is known to a fifth at best
LONGEST = 200  # characters of a name
REPOSITORY = "resnext-finetuning"
PUBLISHED = ("IMAGENET1K_V1", "IMAGENET1K_V2")
WEIGHTS_FILE = "best.safetensors"


# --- text of others ---------------------------------------------------------------------------------------------------


def escaped(text: object) -> str:
    """`text` in one line, as itself in Markdown and HTML, also where a line begins with it: no emphasis, link, list, heading or tag. What
    would mean nothing where it stands stays, so that `aquarium_fish` can be read."""
    line = html.escape(printable(text, LONGEST), quote=False)
    marked = re.sub(r"[\\`*\[\]#|~$@!:]|(?<!\w)_|_(?!\w)|^[-+=]|(?<=[wW]{3})\.", r"\\\g<0>", line)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", marked)


def code(text: object) -> str:
    """`text` in one line as a code span, in which nothing but its end has a meaning."""
    line = printable(text, LONGEST)
    ticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


# --- what is known ----------------------------------------------------------------------------------------------------


def about_run(folder: RunFolder, config: TrainConfig | None = None) -> Metadata:
    """What its best weights say of themselves, without reading them. config: the run's, where it is read already. Errors: `UserError`
    naming the file that can't be read."""
    config, split = config or load_config(folder), folder.read_split()
    images = config.images
    try:
        return Metadata(
            model=config.model.model,
            classes=list(split.classes),
            dataset=split.dataset,
            image_size=images.image_size,
            decode_size=images.decode_size,
            fit=images.fit,
            run_id=folder.id,
            epoch=folder.read_summary().best_epoch,
        )
    except ValueError as error:
        raise UserError(f"{folder.split} can't be used: {error}") from None


def card(
    about: Metadata,
    folder: RunFolder,
    report: Report | None,
    file: str = WEIGHTS_FILE,
    accuracy: float | None = None,
    config: TrainConfig | None = None,
) -> str:
    """All that is known of the weights that `about` describes, of the run in `folder`, which may be missing.

    report: of these very weights; None: they were not evaluated. file: what the lines that load them read.
    accuracy: on the validation images, where summary.json does not say it yet. config: the run's, where it is read already.
    """
    config = config or _config(folder)
    parts = [
        _what(about),
        _data(about, folder, report),
        _classes(about.classes),
        _recipe(config, about.epoch),
        _quality(_validation_accuracy(folder) if accuracy is None else accuracy, report),
        _limits(about, report),
        _licence(config),
        _loading(about, report, file),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def card_of_run(
    folder: RunFolder,
    report: Report | None = None,
    accuracy: float | None = None,
    settings: dict[str, Any] | None = None,
) -> str | None:
    """The card of a run's best weights; None where the run's folder does not say enough. settings: what config.yaml holds, where it is
    read already."""
    try:
        config = load_config(folder, settings)
        return card(about_run(folder, config), folder, report, accuracy=accuracy, config=config)
    except UserError:
        return None


def front_matter(about: Metadata, folder: RunFolder) -> str:
    """The YAML at the head of a README.md on the Hub. Every value is JSON, which is YAML that no text can leave."""
    config = _config(folder)
    published = config is not None and config.model.weights in PUBLISHED
    values: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "pytorch", "safetensors"],
        "license": "other" if published else "unknown",
        **({"license_name": "see-model-card", "license_link": "README.md"} if published else {}),
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _config(folder: RunFolder) -> TrainConfig | None:
    try:
        return load_config(folder) if folder.config.exists() else None
    except UserError:
        return None


# --- its parts --------------------------------------------------------------------------------------------------------


def _what(about: Metadata) -> list[str]:
    epoch = "" if about.epoch is None else f", after epoch {about.epoch:g}"
    return [
        f"# {escaped(about.run_id)}: an image classifier of {len(about.classes)} classes",
        "",
        f"torchvision's {code(about.model)}, fine-tuned on {_dataset(about)} at {about.image_size} px by {REPOSITORY}: the weights of run "
        f"{code(about.run_id)}{epoch}. To every image it gives one of its classes, whatever the image shows.",
    ]


def _dataset(about: Metadata) -> str:
    return "photos in folders" if about.dataset == "folder" else code(about.dataset)


def _data(about: Metadata, folder: RunFolder, report: Report | None) -> list[str]:
    lines = ["## Data", ""]
    try:
        split = folder.read_split() if folder.split.exists() else None
    except UserError:
        split = None
    if split is None:
        lines.append("- How many images it was trained on is not known: the weights came without their run's folder.")
    else:
        lines.append(f"- {split.train_size} images to train on, {len(split.validation)} to choose the epoch by.")
    if report:
        lines.append(f"- {report.dataset.size} {report.split} images to evaluate on.")
        if report.dataset.skipped:
            lines.append(f"- {len(report.dataset.skipped)} photos could not be read, and were not evaluated.")
    whole = "the centre square of a photo" if about.fit == "crop" else "all of a photo, with grey beside"
    lines.append(f"- It sees {whole}, at {about.image_size} px.")
    return lines


def _classes(classes: Sequence[str]) -> list[str]:
    names = ", ".join(map(escaped, classes))
    if len(classes) <= CLASSES_SHOWN:
        return ["## Classes", "", names]
    summary = f"<details><summary>{len(classes)} classes</summary>"
    return ["## Classes", "", summary, "", names, "", "</details>"]


def _recipe(config: TrainConfig | None, epoch: float | None) -> list[str]:
    lines = ["## Recipe", ""]
    if config is None:
        return [*lines, "Not known: the run's settings did not come with the weights."]
    usual, own = as_dict(TrainConfig()), as_dict(config)
    apart = [name for name in own if name in SETS_APART and own[name] != usual[name]]
    head = f" The best epoch is {OF_HEAD}" * is_of_head_alone(epoch, config.model.head_epochs)
    if not apart:
        return [*lines, f"The defaults of train.py.{head}"]
    shown = {name: _without_folders(own[name]) for name in apart}
    told = ", ".join(code(f"--{name} {value}") for name, value in shown.items())
    return [*lines, f"The defaults of train.py, but for {told}.{head}"]


def _without_folders(value: Any) -> Any:
    """A file's name without where it lay: a card is read by others."""
    return PurePath(value.replace("\\", "/")).name if isinstance(value, str) and re.search(r"[/\\]", value) else value


def _quality(accuracy: float | None, report: Report | None) -> list[str]:
    lines = ["## How good it is", ""]
    if report is None:
        if accuracy is None:
            return [*lines, "- Not known: it was not evaluated."]
        return [
            *lines,
            "- It was not evaluated on a test set.",
            f"- validation accuracy {accuracy:.4f}, which the epoch may have been chosen by: expect less elsewhere.",
        ]
    numbers = {key.partition("/")[2]: value for key, value in report.metrics.items()}
    (low, high), (_, share) = report.accuracy_interval, report.baseline
    beaten = "" if low > share else ", which it does not surely beat"
    lines += [
        f"- accuracy **{numbers['accuracy']:.4f}** on the {report.split} images (95 % interval {low:.4f} to {high:.4f}); "
        f"{report.errors.total} of {report.dataset.size} wrong",
        f"- without the images that the training had seen: {_honest(report.duplicates)}",
        f"- baseline to beat: {share:.4f}, always {escaped(report.baseline_answer)}{beaten}",
        f"- macro F1 {numbers['macro_f1']:.4f}"
        + (f", top-5 accuracy {numbers['top5_accuracy']:.4f}" if "top5_accuracy" in numbers else ""),
        f"- which classes fail: {failing_classes(report, escaped)}",
        f"- confidence: {_calibration(report.calibration)}",
    ]
    if report.tta != "none":
        lines.append("- Each image was seen with its mirror image (--tta flip), which the lines below don't do.")
    return lines


def _validation_accuracy(folder: RunFolder) -> float | None:
    try:
        return folder.read_summary().best_validation_accuracy
    except UserError:
        return None


def _honest(found: Duplicates | None) -> str:
    if found is None:
        return "not known, this was not looked for"
    if found.note:
        return f"not known, {escaped(found.note)}"
    if not found.count:
        return "the same, there are none"
    if found.accuracy_without is None:
        return f"nothing to measure on, all {found.count} had been seen"
    low, high = found.accuracy_without_low, found.accuracy_without_high
    interval = "" if low is None or high is None else f" (95 % interval {low:.4f} to {high:.4f})"
    return f"**{found.accuracy_without:.4f}**{interval}, with {found.count} left out"


def _calibration(calibration: Calibration) -> str:
    off = f"off by {calibration.ece:.4f} on average (expected calibration error)"
    if calibration.temperature is None or calibration.ece_after is None:
        return f"{off}; {escaped(calibration.note)}"
    better = "" if calibration.improved else ", which is no improvement"
    return f"{off}; {calibration.ece_after:.4f} once the logits are divided by {calibration.temperature:.4g}{better}"


def _limits(about: Metadata, report: Report | None) -> list[str]:
    source = "photos from elsewhere" if about.dataset == "folder" else f"images that are not from {_dataset(about)}"
    lines = [
        f"- {source}: other cameras, light, places and times than those of its images",
        "- anything that is of none of its classes: it names one all the same, and may be sure of it",
        "- images that were changed to deceive it",
    ]
    if report is None:
        lines.insert(0, "- any test set")
    else:
        if report.split != "test":
            lines.insert(
                0, "- any test set: the numbers are of the validation images, which the epoch may have been chosen by"
            )
        if report.duplicates is None or report.duplicates.note:
            lines.append("- whether its images are new to it: duplicates of training images are not known")
        elif report.duplicates.near is None:
            lines.append("- nearly equal images: only those that are the same pixel by pixel were looked for")
        few = sum(row.support < FEW_IMAGES for row in report.per_class)
        if few:
            lines.append(
                f"- {few} of the {len(report.classes)} classes with {FEW_IMAGES} images or more: they have fewer"
            )
    return ["## What it was not tested on", "", *lines]


def _licence(config: TrainConfig | None) -> list[str]:
    """Source: torchvision's LICENSE and README ("Pre-trained Model License"), ImageNet's terms of access."""
    if config is None:
        known = "What the training started from is not known, nor is its licence."
    elif config.model.weights in PUBLISHED:
        known = (
            f"The training started from torchvision's {code(config.model.weights)}. torchvision's code is under BSD-3-Clause; of its "
            "weights it says that they may have terms that derive from their data, and that permission is one's own to determine. That "
            "data is ImageNet, whose terms allow research and education without commercial use."
        )
    elif config.model.weights == "none":
        known = "The training started from random weights: no one else's licence comes from there."
    else:
        known = f"The training started from a file, {code(_without_folders(config.model.weights))}, whose licence is not known."
    return ["## Licence", "", f"{known} What the images that it learned from allow is not known here."]


def _loading(about: Metadata, report: Report | None, file: str) -> list[str]:
    """Ten lines without this repository: torch, torchvision, Pillow, safetensors."""
    temperature = report.calibration.temperature if report and report.tta == "none" else None
    size = about.decode_size or about.image_size
    square = f"ImageOps.{'pad' if about.fit == 'pad' else 'fit'}(photo, ({size}, {size}), 2"
    square += f", {PAD_COLOUR})" if about.fit == "pad" else ")"
    if size != about.image_size:
        square += f".resize(({about.image_size}, {about.image_size}), 2)"
    # `model` is a name that this code knows, or nothing would be loaded; a stranger's must not become code all the same.
    name = about.model if about.model.isidentifier() else "unknown"
    lines = [
        "import json, torchvision",
        "from PIL import Image, ImageOps",
        "from safetensors import safe_open",
        f'weights = safe_open("{file}", "pt")',
        'classes = json.loads(weights.metadata()["classes"])',
        f"model = torchvision.models.{name}(num_classes=len(classes)).eval()",
        "model.load_state_dict({key: weights.get_tensor(key) for key in weights.keys()})",
        'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        f"image = torchvision.transforms.functional.normalize(torchvision.transforms.functional.to_tensor({square}), {MEAN}, {STD})",
        f"print(max(zip((model(image[None]) / {temperature or 1.0:.6g}).softmax(1)[0].tolist(), classes)))",
    ]
    note = (
        "It prints the confidence and the class. The logits are divided by the temperature that was fitted on validation images."
        if temperature
        else "It prints the confidence, which is not calibrated, and the class."
    )
    return ["## Loading it", "", "```python", *lines, "```", "", note]
