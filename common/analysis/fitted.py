"""What evaluate.py has fitted on the validation images, for those who use a network's answers: a temperature, thresholds, a limit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.analysis.answers import confidence_for, most_reached
from common.analysis.report import Point, Report
from common.base.errors import UserError
from common.base.text import path_word
from common.model.load import Loaded


@dataclass(frozen=True)
class Fitted:
    """Of weights by themselves, or with `--tta flip`."""

    temperature: float | None = None
    """that logits are divided by; None: it is not known"""
    points: Sequence[Point] = field(default_factory=list)
    """calibrated confidences and how often they are right, as in `Answers.fitted`; empty: not known"""
    energy_limit: float | None = None
    notes: Sequence[str] = ()
    """what is not known and why, a line each"""

    def confidence_for(self, accuracy: float) -> tuple[float | None, str]:
        """From which confidence on it is right on that share, and a line about it; None where no confidence is enough.

        Errors: `UserError` where nothing is known."""
        if not self.points:
            raise UserError(
                f"--min_accuracy is {accuracy:g}, but nothing says how sure is sure enough: {self.notes[-1]}"
            )
        least, images = confidence_for(self.points, accuracy), self.points[-1].count
        if least is None:
            return None, (
                f"no confidence is enough to be right on {accuracy:.1%}, so every answer is unsure: on {images} validation images "
                f"at most {most_reached(self.points):.1%} can be vouched for"
            )
        answered = next(point for point in self.points if point.confidence == least)
        return least, (
            f"answering from confidence {least:.4f} on: of {images} validation images {answered.count / images:.1%}, of which it is right "
            f"on {answered.correct / answered.count:.1%}"
        )


def report_of(loaded: Loaded) -> tuple[Report | None, str]:
    """The report in the run's folder that is of these very weights, at the `tta` that they are used with: that of the test set, or else
    that of the validation images; or None, and why."""
    why = f"there is no evaluation of {loaded.path}"
    for split in ("test", "validation"):
        path = loaded.folder.evaluated(split).report
        if not path.exists():
            continue
        try:
            report = Report.load(path)
        except UserError as error:
            why = str(error)
            continue
        if report.checkpoint.sha256 != loaded.sha256:
            why = f"{path} is of other weights than {loaded.path}"
        elif report.tta != loaded.tta:
            why = f"{path} was made with --tta {report.tta}"
        else:
            return report, ""
    return None, f"{why}; run {_evaluate(loaded)}"


def temperature_of(loaded: Loaded) -> tuple[float | None, str]:
    """What the logits are divided by for calibrated probabilities; or None, and why."""
    report, why = report_of(loaded)
    if report is None:
        return None, why
    temperature = report.calibration.temperature
    return temperature, report.calibration.note if temperature is None else ""


def fitted_for(loaded: Loaded) -> Fitted:
    """What `report_of` the weights says."""
    report, why = report_of(loaded)
    return Fitted(notes=[f"confidences are not calibrated: {why}"]) if report is None else _of(report, loaded)


def _of(report: Report, loaded: Loaded) -> Fitted:
    temperature, notes = report.calibration.temperature, []
    if temperature is None:
        notes.append(f"confidences are not calibrated: {report.calibration.note}")
    if report.answers is None:
        notes.append(f"the report of {loaded.path} was made before there were thresholds; run {_evaluate(loaded)}")
        return Fitted(temperature, notes=notes)
    if not report.answers.fitted:
        notes.append(report.answers.note)
    return Fitted(temperature, report.answers.fitted, report.answers.energy_limit, notes)


def _evaluate(loaded: Loaded) -> str:
    """The command."""
    folder, own = loaded.folder, loaded.path == loaded.folder.best
    weights = [folder.id if own else path_word(loaded.path), *(["--tta", loaded.tta] if loaded.tta != "none" else [])]
    try:
        return folder.evaluate_command(*weights)
    except UserError:  # its split.json can't be read
        return folder.command("evaluate.py", "--checkpoint", *weights)
