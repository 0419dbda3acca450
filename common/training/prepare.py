"""From a config to a run that is open. Whatever can be refused is refused here, before anything is written."""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import ResNet

from common.base.console import Console, kept_console
from common.base.device import choose_amp, choose_device, memory_errors
from common.base.errors import UserError
from common.base.files import disk_errors, write_atomic
from common.base.monitor import monitored
from common.base.processes import Processes, process_group
from common.base.signals import Interrupt, interruptible
from common.base.text import one_line
from common.config import PRESETS, TrainConfig, as_dict
from common.data.augment import mixing
from common.data.batches import Batches
from common.data.dataset import Dataset, dataset_digest
from common.data.duplicates import contradictions, of_contradictions
from common.data.fixes import NONE, LabelFixes, read_label_fixes
from common.data.folder import NOTHING, Known
from common.data.load import load_dataset
from common.data.split import split_train
from common.export.card import card_of_run
from common.model.build import build_model, set_trainable
from common.model.device import on_device
from common.model.weights import load_weights, read_metadata
from common.runs.find import find_run
from common.runs.folder import RunFolder, create_run, mark_running, plan_run, require_free, save_config
from common.runs.records import Metadata, Split
from common.runs.rules import epochs_on_features
from common.tracking.run import start
from common.training.facts import (
    description,
    early,
    ending,
    run_facts,
    say_what_changed,
    split_record,
    weights_metadata,
)
from common.training.log import Log, saved_rows
from common.training.run import Run
from common.training.state import Diverged, TrainState


@contextlib.contextmanager
def open_run(config: TrainConfig) -> Iterator[Run]:
    """A new run, or one to go on with: prepared, locked, tracked, and ended as the block ends. A signal that comes in the block is
    noted in `run.interrupt`, as is the end of --max_minutes; an error is in summary.json and in W&B.

    Errors: `UserError` for whatever does not fit: flags, data, weights, a run that is taken.
    """
    device = choose_device(config.place.device)
    seconds = 60 * (config.run.max_minutes or math.inf)
    with process_group(device) as processes, interruptible(seconds=seconds) as interrupt, kept_console() as console:
        with memory_errors(config.images.batch_size, device):  # another program may have the GPU's
            run = prepare(config, processes, device, interrupt)
        if processes.main:
            print(description(run), flush=True)
        with run.folder.locked() if processes.main else contextlib.nullcontext():
            if config.run.resume:
                run.state.load(run.folder.last, processes)
                other_best = take_stock(run)
                finished = has_finished(run)
                if run.ended and other_best:
                    keep_weights(run)
                if finished:
                    yield run
                    return
                say_what_is_other(run)
            elif processes.main:
                require_free(run.folder)  # asked again: while this process prepared, another may have trained the run
            with recorded(run, console), memory_errors(config.images.batch_size, device, config.compute.accumulate):
                yield run
                end(run)


def prepare(config: TrainConfig, processes: Processes, device: torch.device, interrupt: Interrupt) -> Run:
    """All that a run trains with; nothing is written yet. Errors: as `open_run`."""
    amp = choose_amp(config.compute.amp, device, config.images.progressive_from or config.images.image_size)
    folder = processes.agree(lambda: run_folder(config))
    with processes.main_first():
        recorded = folder.read_split() if config.run.resume else None
        data = load_data(config, recorded)
        train_part, validation_part = split_data(config, data, recorded, folder)
        digest = recorded.digest if recorded else None
        split = split_record(config, data, validation_part, digest)  # of the labels as they were
        fixes, same = label_fixes(config, data, folder), data.digests if data.photos else []
        data, train_part, validation_part = fixes.applied(data), fixes.kept(train_part), fixes.kept(validation_part)
        used = torch.cat([train_part, validation_part]).tolist() if same else []
        doubles = of_contradictions(contradictions(same, data.labels.tolist(), used), data.names or ())
        shrunk = check_batch_size(config, len(train_part), processes)
        check_validation(config, len(validation_part))
        # A resumed run's weights are in its last.pt.
        weights = "none" if config.run.resume else config.model.weights
        model = build_model(config.model.model, len(data.classes), weights, config.compute.seed)
    model = on_device(set_trainable(model, config.model.finetune), device)
    batches = training_batches(config, data, train_part, processes, device)
    return Run(
        config=config,
        folder=folder,
        device=device,
        processes=processes,
        interrupt=interrupt,
        amp=amp,
        batches=batches,
        validation=validation_batches(config, data, validation_part, processes, device),
        state=first_state(config, model, amp, device),
        log=Log(folder, processes),
        facts=run_facts(config, data, split, model, amp, device, processes)
        | {"train_size": len(train_part), "validation_size": len(validation_part)},
        split=split,
        about=weights_metadata(config, data, folder),
        photos=data.photos,
        notes=(*data.said(), *doubles, *([fixes.in_words()] if fixes.content else []), *shrunk),
        fixes=fixes,
    )


def run_folder(config: TrainConfig) -> RunFolder:
    """The folder of a new run, or of the one to go on with. Errors: as `plan_run` and `find_run`."""
    place = config.run
    if place.resume is None:
        return plan_run(place.runs_dir, config.identity.run_id)
    return find_run(place.runs_dir, place.resume, "--resume")


def load_data(config: TrainConfig, recorded: Split | None) -> Dataset:
    """What is trained and validated on. recorded: of a run to go on with, which used a validation folder or, begun by an earlier
    version, may not have."""
    known = Known(test_files=recorded.test_files) if recorded else NOTHING
    images, place, unreadable = config.images, config.place.data_dir, config.data.unreadable
    data = load_dataset(config.data.dataset, place, "train", images.decoded_size, images.fit, unreadable, known)
    return data.train_alone() if recorded and recorded.validation_folder is None else data


def split_data(config: TrainConfig, data: Dataset, recorded: Split | None, folder: RunFolder) -> tuple[Tensor, Tensor]:
    """Indices of what is trained on and of what is validated on: as recorded, of a run to go on with. Errors: `UserError` when that was
    trained on other data."""
    if recorded is None:
        return split_train(data, config.data.validation_fraction, config.compute.seed)
    check_same_data(folder, dataset_digest(data))
    count = len(data.labels)
    validation = torch.tensor(sorted(recorded.validation_of(count, folder.split)), dtype=torch.int64)
    train = torch.ones(count, dtype=torch.bool).index_fill(0, validation, False).nonzero().flatten()
    return train, validation


def check_validation(config: TrainConfig, images: int) -> None:
    """What asks how good an epoch was needs images to ask. Errors: `UserError` when there are none."""
    patience, best_by = config.duration.patience, config.recipe.best_by
    given = f"--patience is {patience}" if patience else f"--best_by is {best_by}" if best_by != "accuracy" else None
    if given and not images:
        raise UserError(f"{given}, but there are no validation images to ask: give --validation_fraction, such as 0.1")


def check_same_data(folder: RunFolder, digest: str) -> None:
    """Errors: `UserError` when a run to go on with was trained on other data."""
    if folder.read_split().digest != digest:
        raise UserError(f"--resume {folder.id}: the training data has changed since; restore it, or begin a new run")


def label_fixes(config: TrainConfig, data: Dataset, folder: RunFolder) -> LabelFixes:
    """--label_fixes, which a run to go on with has a copy of. data: train, with the labels as they are. Errors: `UserError`."""
    if config.data.label_fixes is None:
        return NONE
    path = folder.label_fixes if config.run.resume else Path(config.data.label_fixes)
    return read_label_fixes(path, data, "--resume" if config.run.resume else "--label_fixes")


def check_batch_size(config: TrainConfig, images: int, processes: Processes) -> list[str]:
    """BatchNorm needs two images a process. A preset's batch shrinks to a small set → a note that says so. Errors: `UserError`."""
    batch_size, least = config.images.batch_size, 2 * processes.world
    if images < least:
        raise UserError(f"{images} training images are too few: {least} are needed at least; add images")
    is_default = batch_size == PRESETS[config.start.preset].images.batch_size
    if not least <= batch_size or (batch_size > images and not is_default):
        raise UserError(
            f"--batch_size is {batch_size}, but must be from {least} to the number of training images, {images}"
        )
    return [f"--batch_size {batch_size} shrinks to the {images} training images: a step takes all"] * (
        batch_size > images
    )


def training_batches(
    config: TrainConfig, data: Dataset, indices: Tensor, processes: Processes, device: torch.device
) -> Batches:
    images = config.images
    return Batches(
        data.images,
        data.labels,
        indices,
        images.batch_size,
        images.image_size,
        device,
        augment=images.augment,
        flip=data.flip,
        seed=config.compute.seed,
        training=True,
        mix=mixing(images.mixup_alpha, images.cutmix_alpha, len(data.classes)),
        progressive_from=images.progressive_from,
        epochs=range(config.model.head_epochs, config.model.head_epochs + config.duration.epochs),
        balanced=config.recipe.balance == "sampling",
        rank=processes.rank,
        world=processes.world,
    )


def validation_batches(
    config: TrainConfig, data: Dataset, indices: Tensor, processes: Processes, device: torch.device
) -> Batches:
    size, batch_size = config.images.image_size, config.images.batch_size
    rank, world = processes.rank, processes.world
    return Batches(data.images, data.labels, indices, batch_size, size, device, rank=rank, world=world)


def first_state(config: TrainConfig, model: ResNet, amp: torch.dtype | None, device: torch.device) -> TrainState:
    """Before the first step."""
    on_features = epochs_on_features(as_dict(config))
    return TrainState(model, config.recipe, on_features, amp, sums=torch.zeros(3, device=device))


# --- its beginning and its end ----------------------------------------------------------------------------------------


def has_finished(run: Run) -> bool:
    """Whether a run to go on with has nothing left to do, and then says so. Errors: `UserError` when it is further than asked for."""
    folder, step = run.folder, run.state.step
    if step > run.total_steps:
        raise UserError(
            f"--resume {folder.id}: the run is at step {step} already, and with these --epochs and --max_steps would "
            f"end after {run.total_steps}; leave them out, or make them larger"
        )
    finished = run.ended and folder.read_summary().status == "finished"
    if finished and run.processes.main:
        if run.out_of_patience:
            said = f"has ended {early(run.state)}; to train longer, add --patience with more than before, or None"
        else:
            said = (
                f"has finished all its {run.total_steps} steps; to train longer, add --epochs "
                "with more than before, or --max_steps where that was the end"
            )
        print(f"nothing is left to train: {folder.id} {said}")
    return finished


def say_what_is_other(run: Run) -> None:
    """Where a run goes on elsewhere than it began: what it computes is then the same to rounding, which training amplifies."""
    before = run.folder.read_summary()
    known = {"device": before.device, "amp": before.amp, "processes": before.processes}
    other = [
        f"{name} {run.facts[name]} (was {was})" for name, was in known.items() if was not in (None, run.facts[name])
    ]
    if other and run.processes.main:
        print(f"note     goes on with {', '.join(other)}: the same to rounding, no longer bit for bit", flush=True)


def take_stock(run: Run) -> bool:
    """Compares a run to go on with, its folder and what last.pt says is in it. What is gone is named, and no longer counted on
    → whether the best weights are others."""
    state = run.state
    before = state.best_epoch
    state.rows, best = run.processes.agree(lambda: (rows_left(run), best_left(run)))
    state.best_epoch, state.best_accuracy, state.best_score, state.best_loss = best
    return state.best_epoch != before


def rows_left(run: Run) -> int:
    """How many rows metrics.jsonl has of those that last.pt counts on; fewer are said."""
    state, file = run.state, run.folder.metrics
    rows = saved_rows(run.folder, state)
    has_last = not state.measured or any(row["step"] == state.measured and "train/loss" in row for row in rows)
    lost = (state.rows or 0) - len(rows)
    if lost > 0 or not has_last:
        what = f"{lost} of {state.rows} rows" if lost > 0 else f"the row of step {state.measured}"
        print(f"{file} lacks {what} that last.pt counts on: the run's curves lack them, too", file=sys.stderr)
    return len(rows)


def best_left(run: Run) -> tuple[float | None, float | None, float | None, float | None]:
    """Epoch, validation accuracy, score and loss of what best.safetensors holds, which is said when it is not what last.pt says; None
    when there are no such weights."""
    state, file = run.state, run.folder.best
    if state.best_epoch is None:
        return None, None, None, None
    try:
        about = load_weights(file)[1]
        epoch, step, metrics = about["epoch"], about["step"], about["metrics"]
        accuracy, loss = metrics.get("validation/accuracy"), metrics.get("validation/loss")
        score = state.score_of(metrics)
    except (UserError, KeyError, TypeError, AttributeError) as error:
        instead = "the weights that the run ended with" if run.ended else "the best of the epochs that follow"
        print(
            f"{file}: the best weights, of epoch {state.best_epoch:g}, are gone or damaged ({one_line(error, 200)}); {instead} "
            "will take their place",
            file=sys.stderr,
        )
        return None, None, None, None
    if epoch == state.best_epoch or step > state.measured:  # of an epoch that was not saved any more, which comes again
        return state.best_epoch, state.best_accuracy, state.best_score, state.best_loss
    print(
        f"{file} is of epoch {epoch}, not of {state.best_epoch:g} as last.pt says: it counts as the best",
        file=sys.stderr,
    )
    return epoch, accuracy, score, loss


def keep_weights(run: Run) -> None:
    """Where the best weights are gone, those that a run ended with take their place: it is never without weights to evaluate."""
    if run.state.best_epoch is None:
        run.keep(run.processes.agree(lambda: last_row(run)))
    run.save()
    if run.processes.main:
        with disk_errors(run.folder.summary):
            run.folder.update_summary(**run.state.best)


def last_row(run: Run) -> dict[str, float]:
    """What is known of the weights as they are, after the last epoch."""
    state = run.state
    measured = [row for row in saved_rows(run.folder, state) if row["step"] == state.measured and "train/loss" in row]
    return {"epoch": state.step / len(run.batches), **(measured[-1] if measured else {})}


@contextlib.contextmanager
def recorded(run: Run, console: Console) -> Iterator[None]:
    """Around the training: makes the run's folder and W&B run, or takes them up again; console.log and system.jsonl go on meanwhile.
    Of several processes, the main one does."""
    if not run.processes.main:
        yield
        return
    config, folder = run.config, run.folder
    with disk_errors(folder.path):
        if config.run.resume is None:
            run.state.save(folder.last, run.state.sums)  # first, so that whatever can be seen can be resumed
            if run.fixes.content:  # a copy: to go on, and to evaluate, takes no file that may have changed since
                write_atomic(folder.label_fixes, run.fixes.content)
            create_run(folder, config, run.split)
        else:
            save_config(folder, config)
            mark_running(folder)
        folder.update_summary(**run.facts, class_counts=run.class_counts.tolist())
    console.write_to(folder.console)
    tracked = start(
        folder,
        "train",
        as_dict(config.replace(resume=None, max_minutes=None)),  # the command line, so that its flags repeat the run
        run_id=folder.id,
        project=config.tracking.project,
        entity=config.tracking.entity,
        group=config.run.group,
        tags=config.tracking.tags,
    )
    try:
        tracked.set_summary(run.facts)
        with disk_errors(folder.summary):
            folder.update_summary(wandb_url=tracked.url)
        tracked.use_dataset(f"{config.data.dataset}-split", folder.split)
        run.log.tracked = tracked
        if run.facts["version"] is None:
            tracked.log_code(Path(__file__).parents[2])
        run.log.rewind(run.state)
        tracked.set_summary(run.state.best)  # of a run to go on with, whose earlier log may be another
        with monitored(folder.system, run.device if run.device.type == "cuda" else None):
            yield
    except BaseException as error:
        with contextlib.suppress(OSError, UserError):  # what ended the run is what must be seen
            folder.update_summary(status="failed", error=one_line(error, 500) or type(error).__name__)
        if isinstance(error, Diverged) or config.tracking.alert:
            what = "has diverged" if isinstance(error, Diverged) else "has failed"
            tracked.alert(f"Training {what}", f"{folder.id}: {one_line(error, 500) or type(error).__name__}", "ERROR")
        tracked.finish(1)
        print("\n".join(tracked.hint()), file=sys.stderr)
        raise


def end(run: Run) -> None:
    """Ends the run: its summary, its weights as an artifact, its W&B run. Says where everything is."""
    tracked, state, folder = run.log.tracked, run.state, run.folder
    if tracked is None:
        return
    stopped, seconds = run.exit_status != 0, state.seconds
    if not stopped and not folder.best.exists():
        print(f"{folder.best} is gone: the weights that the run ends with take its place", file=sys.stderr)
        run.keep(last_row(run))
    status, best = "interrupted" if stopped else "finished", state.best
    best["stopped_early"] = not stopped and run.stopped_early
    tracked.set_summary({**best, "status": status})
    if run.config.tracking.log_weights and folder.best.exists():
        header = read_metadata(folder.best)
        about = Metadata.of(header, folder.best)
        tracked.log_artifact(
            f"{about.model}-{about.dataset}",
            "model",
            [folder.best],
            ["best", "latest"],
            header,
            card_of_run(folder, accuracy=state.best_accuracy),
            None if stopped else run.config.tracking.register,
        )
    if run.config.tracking.alert:
        told = "".join(f", {key} {value}" for key, value in best.items() if key != "stopped_early")
        tracked.alert(f"Training {status}", f"{folder.id}{told}", "WARN" if stopped else "INFO")
    tracked.finish(run.exit_status)
    with disk_errors(
        folder.summary
    ):  # last: a run that was killed before this has not ended, and --resume does it again
        folder.update_summary(status=status, seconds=seconds, **best, epoch=state.epoch, step=state.step)
    say_what_changed(run.photos)
    print("\n".join([*ending(run, seconds), *tracked.hint()]), flush=True)
