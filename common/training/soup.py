"""What `soup.py` does: from several runs to one more, whose weights are the mean of theirs."""

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import ResNet

from common.base.device import choose_amp, choose_device, device_name, memory_errors
from common.base.errors import UserError
from common.base.files import append_line, disk_errors, write_atomic
from common.base.processes import Processes
from common.base.text import counted
from common.config import SoupSettings, TrainConfig, as_dict
from common.data.batches import Batches
from common.data.dataset import Dataset, dataset_digest
from common.data.fixes import recorded_fixes
from common.data.folder import Known
from common.data.load import load_dataset
from common.export.card import card_of_run
from common.model.build import set_trainable
from common.model.device import on_device
from common.model.load import network_for
from common.model.predict import predict
from common.model.soup import State, greedy_soup, unlike_statistics, with_statistics
from common.model.weights import load_into, load_weights, read_metadata, save_weights
from common.runs.find import find_run
from common.runs.folder import RunFolder, create_run, load_config, new_run_id, plan_run, require_free
from common.runs.records import Metadata, Split, best_in_summary
from common.tracking.run import start
from common.training.facts import run_facts, weights_metadata

IN_COMMON = ("model", "classes", "image_size", "mean", "std")  # what the weights' headers must agree in
STATISTICS_IMAGES = 2048  # to measure BatchNorm's statistics on: with 640 and 1,200 the accuracies were within a point; more was not tried


@dataclass(frozen=True)
class Member:
    """A run whose weights may go into the soup."""

    folder: RunFolder
    config: TrainConfig
    split: Split
    about: dict[str, Any]
    """the header of its weights"""

    @property
    def id(self) -> str:
        return self.folder.id

    def weights(self) -> State:
        """Errors: `UserError` naming the file."""
        return load_weights(self.folder.best)[0]


def open_members(references: Sequence[str], runs_dir: str) -> list[Member]:
    """The runs, which fit together. Errors: `UserError` that says what does not."""
    if len(references) < 2:
        raise UserError(f"a soup is of two runs or more, and here are {len(references)}: python soup.py RUN RUN …")
    members: list[Member] = []
    for reference in references:
        folder = find_run(runs_dir, reference, "run")
        if folder.path.resolve() in (member.folder.path.resolve() for member in members):
            raise UserError(f"run {reference} is given twice; name each run once")
        if not folder.best.exists():
            raise UserError(f"run {reference}: {folder.best} does not exist; the run has not finished an epoch")
        members.append(Member(folder, load_config(folder), folder.read_split(), read_metadata(folder.best)))
    first, *others = members
    if not first.split.validation:
        raise UserError(
            f"run {first.id} has --validation_fraction 0, so there are no images to choose the soup's runs by"
        )
    for other in others:
        if apart := differences(first, other):
            raise UserError(f"run {other.id} can't be averaged with {first.id}: they differ in {', '.join(apart)}")
    return members


def differences(one: Member, other: Member) -> list[str]:
    """What keeps two runs from being averaged. With another split, one's validation images are what the other was trained on."""
    apart = [name for name in IN_COMMON if one.about.get(name) != other.about.get(name)]
    if one.split.digest != other.split.digest:
        apart.append("the training images")
    elif one.split.validation != other.split.validation:
        apart.append("the validation images (--seed, --validation_fraction)")
    return apart


def open_soup(settings: SoupSettings) -> "Soup":
    """The runs, and what is needed to average them; nothing is written yet. Errors: `UserError` for whatever does not fit."""
    device = choose_device(settings.device)
    amp = choose_amp(settings.amp, device)
    members = open_members(settings.runs, settings.runs_dir)
    folder = plan_run(settings.runs_dir, settings.run_id or f"soup-{new_run_id()}")
    require_empty(folder)
    first, config = members[0], members[0].config
    place, images, size = settings.data_dir or config.place.data_dir, config.images, config.images.image_size
    known = Known(test_files=first.split.test_files)
    unreadable = config.data.unreadable
    data = load_dataset(config.data.dataset, place, "train", images.decoded_size, images.fit, unreadable, known)
    if first.split.validation_folder is None:
        data = data.train_alone()
    if dataset_digest(data) != first.split.digest:
        raise UserError(f"the training images are not those of run {first.id}: give their folder with --data_dir")
    model = on_device(network_for(Metadata.of(first.about, first.folder.best), first.folder.best), device)
    validation = torch.tensor(first.split.validation_of(len(data.labels), first.folder.split))
    training = torch.from_numpy(np.setdiff1d(np.arange(len(data.labels)), validation.numpy()))
    fixes = recorded_fixes(first.folder.label_fixes, data)
    if any(recorded_fixes(other.folder.label_fixes, data).content != fixes.content for other in members):
        raise UserError(
            f"the runs were trained with different --label_fixes, and {first.id} with its own; average others"
        )
    data, training, validation = fixes.applied(data), fixes.kept(training), fixes.kept(validation)
    batches = Batches(data.images, data.labels, validation, settings.batch_size, size, device)
    shuffled = Batches(data.images, data.labels, training, settings.batch_size, size, device, training=True)
    return Soup(members, folder, data, place, model, batches, shuffled, device, amp)


@dataclass
class Soup:
    """Runs that fit together, and the mean of the weights of those that were taken."""

    members: list[Member]
    folder: RunFolder
    """the soup's, not made yet"""
    data: Dataset
    data_dir: str | None
    model: ResNet
    """the network that weights are tried in"""
    validation: Batches
    training: Batches
    """images that BatchNorm's statistics are measured on"""
    device: torch.device
    amp: torch.dtype | None
    began: float = field(default_factory=time.time)
    """seconds since 1970"""
    taken: list[Member] = field(default_factory=list)
    """the best run first"""
    best: float = 0.0
    """validation accuracy of the best run alone"""
    unlike: set[str] = field(default_factory=set)
    """the BatchNorms whose statistics are not the same in all runs"""
    weights: State = field(default_factory=dict)
    """the mean"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """of metrics.jsonl: the soup's validation accuracy after each run that was tried"""

    @property
    def description(self) -> str:
        """What is printed before."""
        images, device = len(self.validation.indices), device_name(self.device)
        return f"{len(self.members)} runs, {counted(images, 'validation image')} of {self.data.name}, on {device}{self.data.notes}"

    @property
    def accuracy(self) -> float:
        return self.rows[-1]["validation/accuracy"]

    @property
    def helped(self) -> bool:
        """Whether there is more in it than the best run."""
        return len(self.taken) > 1

    def fill(self) -> Iterator[str]:
        """Tries the runs, the best first, in whatever order they were named → a line about each."""
        (self.best, first), *others = self.ranking()
        self.taken, self.weights, start = [first], first.weights(), self.best
        line = f"{first.id}: {self.best:.4f} alone, the best"
        if self.unlike:  # else what this gains would pass for the others' merit
            settled = self.settled(self.weights)
            accuracy = self.accuracy_of(settled, "soup")
            line += f"; {accuracy:.4f} with BatchNorm's statistics measured anew, as they are in what follows"
            if accuracy >= self.best:
                self.weights, start = settled, accuracy
        self.add_row(start)
        yield line
        states = (member.weights() for _, member in others)
        tries = greedy_soup(
            self.weights, start, states, self.settled, lambda weights: self.accuracy_of(weights, "soup")
        )
        for (accuracy, member), tried in zip(others, tries, strict=True):
            self.weights = tried.soup
            self.taken += [member] if tried.taken else []
            self.add_row(tried.accuracy)
            verdict = "taken" if tried.taken else "left out"
            yield f"{member.id}: {accuracy:.4f} alone, {tried.accuracy_with:.4f} averaged with those before: {verdict}"

    def ranking(self) -> list[tuple[float, Member]]:
        """Each run's accuracy, the best first. Finds the BatchNorms whose statistics differ."""
        alone, one = [], self.members[0].weights()
        for member in self.members:
            weights = member.weights()
            alone.append((self.accuracy_of(weights, member.id), member))
            self.unlike |= unlike_statistics(one, weights)
        return sorted(alone, key=lambda entry: (-entry[0], entry[1].id))

    def settled(self, weights: State) -> State:
        """With statistics of their own, where these are not the same in all runs."""
        if not self.unlike:
            return weights
        load_into(self.model, weights, "soup")
        batches = islice(self.training.epoch(0), math.ceil(STATISTICS_IMAGES / self.training.batch_size))
        with memory_errors(self.training.batch_size, self.device):
            return with_statistics(self.model, self.unlike, batches, self.amp)

    def accuracy_of(self, weights: State, name: str) -> float:
        """On the validation images. Errors: `UserError` when the weights don't fit or give no numbers."""
        load_into(self.model, weights, name)
        batches = self.validation
        with memory_errors(batches.batch_size, self.device):
            logits, labels = predict(self.model, batches.epoch(0), self.device, self.amp, len(batches), name)
        if not logits.isfinite().all():
            raise UserError(f"{name} gives numbers that are not finite; leave it out, or try --amp none")
        return float((logits.argmax(dim=1) == labels).double().mean())

    def add_row(self, accuracy: float) -> None:
        self.rows.append({"step": len(self.rows) + 1, "time": time.time(), "validation/accuracy": accuracy})

    def save(self) -> list[str]:
        """Makes the soup's run, in its folder and in W&B → what to say of W&B. Errors: `RunError` when the disk is full."""
        best, averaged = self.taken[0], [member.id for member in self.taken]
        # A soup is no trial, and no repetition with another seed: it belongs to no group.
        config = best.config.replace(
            run_id=self.folder.id, runs_dir=str(self.folder.path.parent), data_dir=self.data_dir, group=None
        )
        model = set_trainable(self.model, config.model.finetune)
        facts = run_facts(config, self.data, best.split, model, self.amp, self.device, Processes())
        facts |= {**best_in_summary(None, self.accuracy), "averaged": averaged}
        about = weights_metadata(config, self.data, self.folder) | {
            **{"epoch": None, "step": None, "metrics": {"validation/accuracy": self.accuracy}, "averaged": averaged}
        }
        with disk_errors(self.folder.path), whole_or_absent(self.folder) as draft:
            if best.folder.label_fixes.exists():
                write_atomic(draft.label_fixes, best.folder.label_fixes.read_bytes())
            create_run(draft, config, best.split)
            save_weights(draft.best, self.weights, about)
            for row in self.rows:
                append_line(draft.metrics, json.dumps(row))
            seconds = time.time() - self.began
            draft.update_summary(**facts, job_type="soup", status="finished", started=self.began, seconds=seconds)
        return self.track(config, facts, about)

    def track(self, config: TrainConfig, facts: dict[str, Any], about: dict[str, Any]) -> list[str]:
        """Tells W&B of the run → what to say of that."""
        tracked = start(
            self.folder,
            "soup",
            as_dict(config) | {"averaged": facts["averaged"]},
            run_id=self.folder.id,
            project=config.tracking.project,
            entity=config.tracking.entity,
            tags=config.tracking.tags,
        )
        try:
            self.folder.update_summary(wandb_url=tracked.url)
            tracked.use_dataset(f"{config.data.dataset}-split", self.folder.split)
            for member in self.taken:
                tracked.use_model(None, member.id)
            for row in self.rows:
                tracked.log({"validation/accuracy": row["validation/accuracy"]}, row["step"])
            tracked.set_summary({**facts, "status": "finished"})
            if config.tracking.log_weights:
                name = f"{about['model']}-{about['dataset']}"
                tracked.log_artifact(
                    name, "model", [self.folder.best], ["best", "latest"], about, card_of_run(self.folder)
                )
        except BaseException:
            tracked.finish(1)
            raise
        tracked.finish(0)
        return tracked.hint()

    def ending(self) -> list[str]:
        """What is printed at the end: whether it helped, where it is, what to do next."""
        best = self.taken[0]
        if not self.helped:
            return [
                f"no other run helps: {best.id} is the best by itself, and nothing was written",
                f"next: {best.folder.evaluate_command()}",
            ]
        count = f"{len(self.taken)} of {len(self.members)} runs"
        return [
            f"the mean of {count} has validation accuracy {self.accuracy:.4f}; {best.id} alone has {self.best:.4f}",
            f"everything is in {self.folder.path}",
            f"next: {self.folder.evaluate_command()}",
        ]


@contextlib.contextmanager
def whole_or_absent(folder: RunFolder) -> Iterator[RunFolder]:
    """A run folder to fill, which takes `folder`'s place when the block ends well, and is removed when not."""
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    # Within a folder that is no run's: until it is whole, no other program sees it.
    with tempfile.TemporaryDirectory(prefix=".soup-", dir=folder.path.parent) as place:
        draft = RunFolder(Path(place) / folder.id)
        yield draft
        try:
            os.replace(draft.path, folder.path)
        except OSError:
            require_empty(folder)  # it may have been taken meanwhile, and that is why
            raise


def require_empty(folder: RunFolder) -> None:
    """Errors: `UserError` when a run, or anything else, lies in the folder."""
    require_free(folder)
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise UserError(f"--run_id {folder.id} is taken: {folder.path} holds other files; choose another id")
