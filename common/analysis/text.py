"""A report as a person reads it: report.txt and what evaluate.py prints."""

from collections.abc import Sequence

from common.analysis.analyse import LONGEST_LIST
from common.analysis.classes import failing_lines
from common.analysis.predictions import Predictions
from common.analysis.report import Answers, Calibration, Comparison, Duplicates, Report, Threshold
from common.base.text import counted

PAIRS_SHOWN = 10


def as_text(report: Report, predictions: Predictions) -> str:
    """All that is printed of an evaluation."""
    parts = [
        classification_report(predictions, report.classes),
        headline(report),
        failing_lines(report),
        most_confused(report),
    ]
    return "\n\n".join(part for part in parts if part)


def classification_report(predictions: Predictions, classes: Sequence[str]) -> str:
    """scikit-learn's own, a line a class."""
    from sklearn.metrics import classification_report

    return classification_report(
        predictions.labels,
        predictions.predicted,
        labels=range(len(classes)),
        target_names=classes,
        digits=3,
        zero_division=0,
    )


def headline(report: Report) -> str:
    """The numbers in a few lines, most important first."""
    numbers = {key.partition("/")[2]: value for key, value in report.metrics.items()}
    low, high = report.accuracy_interval
    errors, calibration = report.errors, report.calibration
    total = sum(row.support for row in report.per_class)
    share = report.baseline[1]
    beaten = "" if report.beats_baseline else "; the accuracy is not surely above it"
    lines = [
        f"accuracy             {numbers['accuracy']:.4f}   95 % interval {low:.4f} to {high:.4f}; "
        f"{errors.total} of {counted(total, 'image')} wrong",
        f"baseline to beat     {share:.4f}   always {report.baseline_answer}{beaten}",
        *([f"top-5 accuracy       {numbers['top5_accuracy']:.4f}"] if len(report.classes) > 5 else []),
        f"macro F1             {numbers['macro_f1']:.4f}",
        f"balanced accuracy    {numbers['balanced_accuracy']:.4f}   the classes' mean recall",
    ]
    if report.superclasses:
        lines.append(
            f"superclass accuracy  {numbers['superclass_accuracy']:.4f}   {errors.inside_superclass} errors stay "
            f"inside the superclass, {errors.across_superclasses} leave it"
        )
    if report.duplicates:
        lines += _of_duplicates(report.duplicates)
    lines.append(f"calibration error    {numbers['ece']:.4f}   {_of_temperature(calibration)}")
    if report.answers:
        lines += _of_answers(report.answers)
    if report.label_issues and report.beats_chance:
        train = "" if report.split == "test" else "; fill in its column fix, and train with --label_fixes"
        count = len(report.label_issues)
        doubts = f"the {count} most doubtful" if count == LONGEST_LIST else f"{count}"  # which may not be all
        lines.append(f"labels in doubt      {doubts}, in label_issues.csv{train}")
    if report.tta == "flip":
        lines.append("--tta flip           the logits are means of those of an image and of its mirror image")
    if report.comparison:
        lines.append(_comparison_line(report.comparison, report.tta))
    return "\n".join(lines)


def _of_duplicates(found: Duplicates) -> list[str]:
    """The accuracy without the images that the training had seen, or why it is not known."""
    if found.note:
        return [f"honest accuracy      not known: {found.note}"]
    if not found.count:
        nearly = "" if found.near is None else ", and none nearly"
        return [f"honest accuracy      the same: none of the images is in train or validation{nearly}"]
    how = [f"{found.exact} pixel by pixel"] + ([] if found.near is None else [f"{found.near} nearly"])
    without, on_them = found.accuracy_without, found.accuracy_on_them
    lines = [
        f"honest accuracy      {'none' if without is None else f'{without:.4f}'}   without {counted(found.count, 'image')} that "
        f"{'is' if found.count == 1 else 'are'} in train or validation as well, {' and '.join(how)}; on {'that' if found.count == 1 else 'those'} it is {on_them:.4f}"
    ]
    if found.other_label:
        lines.append(
            f"                     {found.other_label} of them {'has' if found.other_label == 1 else 'have'} another label there"
        )
    return lines


def _of_temperature(calibration: Calibration) -> str:
    """What it is good for, which may be nothing."""
    if calibration.temperature is None:
        return calibration.note
    if not calibration.found:
        return f"no temperature was found, {calibration.note}"
    if calibration.improved:
        return f"{calibration.ece_after:.4f} with temperature {calibration.temperature:.2f}, {calibration.note}"
    return f"a temperature, {calibration.note}, does not improve it"


def _of_answers(answers: Answers) -> list[str]:
    """What it gives to answer only when it is sure, and how many images are unlike anything seen."""
    lines = [
        f"risk–coverage area   {answers.aurc:.4f}   of which {answers.excess_aurc:.4f} for the order of its confidences"
    ]
    if not answers.thresholds:
        return [*lines, f"                     {answers.note}"]
    lines += [f"right on {row.target:<12.0%}{_of_threshold(row)}" for row in answers.thresholds]
    lines.append(f"                     {answers.note}")
    if answers.energy_limit is not None and answers.unlike is not None:
        lines.append(
            f"unlike anything seen {answers.unlike:.4f}   share of the images whose energy is above {answers.energy_limit:.2f}, "
            "that of 5 % of those it was fitted on"
        )
    return lines


def _of_threshold(row: Threshold) -> str:
    if row.confidence is None or row.coverage is None:
        return "no confidence is enough for it on the images that it is fitted on"
    if row.accuracy is None:
        return f"answering from confidence {row.confidence:.4f} on, which none of these images has"
    return (
        f"answering {row.coverage:.1%} of the images, from confidence {row.confidence:.4f} on, it is right on {row.accuracy:.1%} of those "
        f"(95 % interval {row.accuracy_low:.1%} to {row.accuracy_high:.1%})"
    )


def _comparison_line(comparison: Comparison, tta: str) -> str:
    other = comparison.other + (f" (there --tta {comparison.other_tta})" if comparison.other_tta != tta else "")
    p_value = "below 0.0001" if comparison.p_value < 1e-4 else f"{comparison.p_value:.4f}"
    return (
        f"against {other}: {comparison.difference:+.4f} accuracy, 95 % interval "
        f"{comparison.difference_low:+.4f} to {comparison.difference_high:+.4f}, McNemar's p {p_value}; "
        f"{counted(comparison.only_this, 'image')} right only here, {comparison.only_other} only there"
    )


def most_confused(report: Report) -> str:
    """The most frequent errors, a line each."""
    if not report.confused:
        return "no errors"
    classes, pairs = report.classes, report.most_confused(PAIRS_SHOWN)
    if not pairs:
        most = report.confused[0].count
        return f"most confused: nothing stands out, no class is taken for another more than {counted(most, 'time')}"
    width = max(len(classes[pair.true]) for pair in pairs)
    lines = [
        f"  {classes[pair.true]:>{width}} taken for {classes[pair.predicted]}: {pair.count} "
        f"({pair.share:.0%} of its class)"
        for pair in pairs
    ]
    return "\n".join(["most confused", *lines])
