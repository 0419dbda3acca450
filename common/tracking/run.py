"""A script's W&B run. W&B's trouble never stops the script: it is said once, and the run folder has everything.

A W&B run lives beside what it is about: its own logs in `runs/<id>/wandb` (unless `WANDB_DIR` says otherwise), and what it was
told in `runs/<id>/tracking.json`, from which artifacts are found offline and `sync.py` checks what the server has.
"""

import contextlib
import functools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from common.base.errors import RunError, UserError
from common.base.files import direct, disk_errors, sha256_of, write_atomic, write_json
from common.base.text import command_line, one_line, path_word, printable
from common.runs.folder import RunFolder
from common.runs.records import LoggedArtifact, LoggedTable, TrackedRun
from common.tracking.artifacts import LocalFiles, as_text, table_of
from common.tracking.axes import define_axes
from common.tracking.logs import logged_rows
from common.tracking.mode import PROJECT, SETTINGS, Mode, choose_mode, client_settings, server_answers
from common.tracking.registry import registry_path, remember_registered

# At most in W&B's own charts: its matrix draws every cell, of K² rows, and its curves a line a class.
CHART_CLASSES = 25

Curves = tuple[tuple[str, str], tuple[str, str], list[list[Any]]]
"""(name, title) of x and of y, and rows of class, x, y"""


def _safely(method: Callable[..., Any]) -> Callable[..., Any]:
    """W&B's errors are said once a run, and the program goes on; a full disk is not W&B's."""

    @functools.wraps(method)
    def call(self: "WandbRun", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except RunError:
            raise
        except Exception as error:
            self._trouble(f"{method.__name__.lstrip('_')} failed: {error}")

    return call


class WandbRun:
    """One W&B run: online, offline, or with `run` None nothing but the records in the run folder."""

    def __init__(self, folder: RunFolder, record: TrackedRun, run: wandb.Run | None, last_step: int = -1) -> None:
        """last_step: of the rows that W&B holds already."""
        self.folder, self._record, self._run, self._last_step = folder, record, run, last_step
        self.id, self.mode = record.id, record.mode
        self.url = run.url if run is not None and self.mode == "online" else None
        self._model: wandb.Artifact | None = None
        self._said: set[str] = set()
        self._logged: set[str] = set()
        self._sent_all = True

    def _trouble(self, what: str) -> None:
        self._sent_all = False
        what = one_line(what, 300)
        if what not in self._said:
            self._said.add(what)
            print(f"W&B: {what}; going on, {self.folder.path} keeps everything", file=sys.stderr)

    @_safely
    def log(self, row: dict[str, float], step: int | None = None, images: dict[str, Path] | None = None) -> None:
        """One row of history. A row that W&B holds already, as after a resume, is left out."""
        if self._run is None or (step is not None and step <= self._last_step):
            return
        pictures = {key: wandb.Image(str(path)) for key, path in (images or {}).items()}
        self._run.log({**row, **pictures}, step=step, commit=True)
        if step is not None:
            self._last_step = step

    @_safely
    def log_images(self, pictures: Mapping[str, Path], caption: str | None = None) -> None:
        """Each under its key, a panel of its own: W&B shows those of one key in one size."""
        if self._run is not None:
            self._record.rows += 1
            self._run.log({key: wandb.Image(str(path), caption=caption) for key, path in pictures.items()})

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A W&B Table, and the same as JSON in the run folder, since W&B's offline viewer shows no Tables."""
        table = {"columns": list(columns), "rows": [list(row) for row in rows]}
        self._keep_table(key, table)
        self._log_media(key, lambda: table_of(table))

    def _keep_table(self, key: str, table: dict[str, Any]) -> None:
        file = self.folder.tables / f"{key.replace('/', '-')}.json"
        write_json(file, table)
        with disk_errors(self.folder.tracking), self.folder.changed_tracking() as tracking:
            tracking.tables.append(LoggedTable(key, self.id, self._relative(file), time.time()))

    def log_confusion_matrix(self, key: str, labels: Any, predictions: Any, classes: Sequence[str]) -> None:
        """W&B's own, where the classes are few."""
        if len(classes) > CHART_CLASSES:
            return
        self._log_media(
            key,
            lambda: wandb.plot.confusion_matrix(
                y_true=[int(label) for label in labels],
                preds=[int(prediction) for prediction in predictions],
                class_names=list(classes),
            ),
        )

    def log_curves(self, key: str, title: str, classes: int, curves: Callable[[], Curves]) -> None:
        """A line a class, as `wandb.plot.roc_curve` draws them, which would need pandas; where the classes are few."""
        if classes > CHART_CLASSES or self._run is None:
            return
        (x, x_title), (y, y_title), rows = curves()
        self._log_media(
            key,
            lambda: wandb.plot_table(
                "wandb/area-under-curve/v0",
                wandb.Table(columns=["class", x, y], data=rows),
                {"x": x, "y": y, "class": "class"},
                {"title": title, "x-axis-title": x_title, "y-axis-title": y_title},
            ),
        )

    def log_pictures(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A W&B Table whose first column is pictures, bytes of JPEGs. The run folder keeps it for `sync.py`, and where W&B is off not at all."""
        if self._run is None:
            return
        table = {
            "columns": list(columns),
            "pictures": 1,
            "rows": [[as_text(picture), *cells] for picture, *cells in rows],
        }
        self._keep_table(key, table)
        self._log_media(key, lambda: table_of(table))

    @_safely
    def alert(self, title: str, text: str, level: str = "INFO") -> None:
        """A message to whoever the run belongs to, as their W&B settings say: e-mail or Slack."""
        if self._run is not None:
            self._run.alert(title, text, level=level)

    @_safely
    def _log_media(self, key: str, make: Callable[[], Any]) -> None:
        if self._run is not None:
            self._record.rows += 1
            self._run.log({key: make()})

    @_safely
    def define_axes(self) -> None:
        if self._run is not None:
            define_axes(self._run)

    @_safely
    def set_summary(self, values: dict[str, Any]) -> None:
        if self._run is not None:
            self._run.summary.update(values)

    def log_artifact(
        self,
        name: str,
        type: str,
        files: Sequence[Path],
        aliases: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
        description: str | None = None,
        register: str | None = None,
    ) -> None:
        """Logs files as an artifact; `description` is Markdown, `register` a collection of W&B's Registry that it is linked into: now, or
        offline by sync.py. After a resume it may be logged already: an offline log then has it, but a server may not, and recognizes what
        it has."""
        artifact = self._describe(name, type, files, aliases, metadata, description=description, register=register)
        if self._remember_once(artifact) or self.mode == "online":
            self._log_artifact(LocalFiles(artifact, list(files)))

    def log_code(self, root: Path) -> None:
        """Keeps this program's source files in the run folder and has W&B's client log them: for where there is no git to say
        which code it was. root: the folder of the scripts."""
        if self._run is None:
            return
        with disk_errors(self.folder.code):
            for source in sources(root):
                write_atomic(self.folder.code / source.relative_to(root), source.read_bytes())
        self._log_code()

    @_safely
    def _log_code(self) -> None:
        if self._run is not None:
            self._run.log_code(str(self.folder.code.resolve()), include_fn=lambda path: True)

    def _describe(
        self,
        name: str,
        type: str,
        files: Sequence[Path],
        aliases: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
        used: bool = False,
        description: str | None = None,
        register: str | None = None,
    ) -> LoggedArtifact:
        return LoggedArtifact(
            name=name,
            type=type,
            aliases=list(aliases),
            digest=sha256_of(*files),
            files=[self._relative(file) for file in files],
            time=time.time(),
            run_id=self.id,
            metadata=metadata or {},
            used=used,
            description=description,
            register=register,
        )

    def _remember_once(self, artifact: LoggedArtifact) -> bool:
        """→ whether it is new."""
        with disk_errors(self.folder.tracking), self.folder.changed_tracking() as tracking:
            new = all(artifact.identity != known.identity for known in tracking.artifacts)
            if new:
                tracking.artifacts.append(artifact)
        return new

    @_safely
    def _log_artifact(self, local: LocalFiles) -> None:
        if self._run is not None:
            artifact = local.made()
            self._run.log_artifact(artifact, aliases=local.aliases)
            self._logged.add(artifact.digest)
            if local.logged.register and self.mode == "online":
                self._register(artifact, local.logged)

    @_safely
    def _register(self, artifact: wandb.Artifact, logged: LoggedArtifact) -> None:
        assert self._run is not None and logged.register is not None
        artifact.wait(timeout=SETTINGS["finish_timeout"])  # else linking would wait for a server that hangs without end
        self._run.link_artifact(artifact, registry_path(logged.register))
        remember_registered(self.folder, logged)

    @_safely
    def use_dataset(self, name: str, file: Path) -> None:
        """Says that the run trains on this data: lineage reads dataset → model. Offline the client can't say `uses`, so the
        artifact is logged."""
        if self.mode == "online" and self._run is not None:
            artifact = self._describe(name, "dataset", [file], used=True)
            self._remember_once(artifact)
            self._run.use_artifact(LocalFiles(artifact, [file]).made())
        else:
            self.log_artifact(name, "dataset", [file])

    @_safely
    def use_model(self, artifact: str | None, run_id: str) -> None:
        """Says that this run is about a model: the artifact named, or else the one that run `run_id` logged."""
        if self.mode != "online" or self._run is None:
            return
        if artifact is None or ":" not in artifact:
            path = f"{self._run.entity}/{self._run.project}/{run_id}"
            models = [logged for logged in wandb.Api().run(path).logged_artifacts() if logged.type == "model"]
            if not models:
                return
            self._model = self._run.use_artifact(models[-1])
        else:
            self._model = self._run.use_artifact(artifact)

    @_safely
    def describe_model(self, card: str) -> None:
        """Gives the artifact that `use_model` found this description, Markdown, in the place of its earlier one. Offline there is none."""
        if self._model is not None:
            self._model.description = card
            self._model.save()

    def finish(self, exit_code: int) -> None:
        """Ends the W&B run; waits for uploads no longer than `WANDB_FINISH_TIMEOUT`. The client says nothing of what the server
        refused for good, so the server is asked."""
        if self._run is None:
            return
        self._record.exit_code = exit_code  # so that sync.py can end the run on the server as it ended here
        with contextlib.suppress(OSError, UserError):  # a full disk must not hide why a run ends
            _write_record(self.folder, self._record)
        try:
            self._run.finish(exit_code=exit_code)
            if self.mode == "online" and not self._arrived(self._run.path):
                self._trouble("the server has refused a part of the run")
        except Exception as error:
            self._trouble(f"not everything was sent ({error})")

    def _arrived(self, path: str) -> bool:
        """Whether the server has the last row and the artifacts of this process. It may count them a moment late."""
        run = wandb.Api(timeout=20).run(path)
        for wait in (0, 1, 2, 4):
            time.sleep(wait)
            if run.lastHistoryStep < self._last_step:
                continue
            if self._logged <= {artifact.digest for artifact in run.logged_artifacts()}:
                return True
        return False

    def hint(self) -> list[str]:
        """Lines that say where to look at the run, and what is left to send."""
        if self._run is None:
            return []
        if self.mode == "online" and self._sent_all:
            return [f"W&B: {self.url}"]
        logs = [path_word(direct(self.folder.path / directory)) for directory in self._record.dirs]
        view = command_line(["wandb", "leet", logs[-1]])
        check = self.folder.command("sync.py", path_word(Path(self.folder.id)))
        if self.mode == "online":  # `wandb sync` passes over runs that were online
            return [
                f"W&B: {self.url}, where something is missing",
                f"     view: {view}",
                f"     send the rest: {check}",
            ]
        send = command_line(["wandb", "sync", *logs])
        return [
            f"W&B (offline) view: {view}",
            f"W&B (offline) send: {send}",
            f"           or, checked afterwards: {check}",
        ]

    def _relative(self, path: Path) -> str:
        """Relative to the run folder where possible, so that the folder can be moved."""
        return os.path.relpath(path.resolve(), self.folder.path.resolve())


def sources(root: Path) -> list[Path]:
    """The program's own source files, and none that a user has beside them."""
    scripts = [*root.glob("*.py"), *root.glob("requirements*.txt")] if (root / "train.py").is_file() else []
    return sorted([*scripts, *(root / "common").rglob("*.py"), *(root / "common").rglob("*.js")])


def start(
    folder: RunFolder,
    job_type: str,
    config: dict[str, Any],
    *,
    run_id: str | None = None,
    name: str | None = None,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> WandbRun:
    """Begins the W&B run `run_id` (None: a new one, of no one's choice), or goes on with it. Never raises for W&B's trouble: a server that can't be
    reached makes an offline run."""
    # What W&B stages for an upload lies with the run, not in the user's data folder; it reads this once, at its start.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.staging.resolve()))
    # Not WANDB_RUN_ID: in a shell that has it, it is the training's, and an evaluation's rows would end up there, or nowhere.
    run_id = run_id or secrets.token_hex(4)
    project = project or os.environ.get("WANDB_PROJECT") or PROJECT
    told = folder.read_tracking()
    for line in told.damaged:
        print(f"W&B: {printable(line, 500)}; it stays as it is", file=sys.stderr)
    earlier = next((run for run in told.runs if run.id == run_id), None)
    dirs = list(earlier.dirs) if earlier else []
    # Without a name of its own the group is the training's, so that its evaluations, which are in that, stand beside it.
    group = group or os.environ.get("WANDB_RUN_GROUP") or (earlier.group if earlier else None) or folder.id
    run, mode = _begin(
        choose_mode(),
        {
            "id": run_id,
            "name": name or os.environ.get("WANDB_NAME") or run_id,
            "project": project,
            "entity": entity or None,
            "group": group,
            "tags": list(tags) or None,
            "job_type": job_type,
            "config": config,
            "dir": os.environ.get("WANDB_DIR") or str(folder.path),
            "resume": "allow",
        },
    )
    record = TrackedRun(run_id, job_type, project, entity, mode, time.time(), dirs, group=group)
    last_step = -1
    if run is not None:
        if dirs:
            last_step = (
                run.step - 1 if mode == "online" else max(logged_rows(folder.path / d for d in dirs), default=-1)
            )
        directory = Path(run.settings.sync_dir).resolve()
        record.dirs = [*dirs, os.path.relpath(directory, folder.path.resolve())]
        # Under W&B's agent, the sweep says which run and project it is.
        record.id, record.project, record.entity = run.id, run.project, run.entity or entity
    with disk_errors(folder.tracking):
        _write_record(folder, record)
    tracked = WandbRun(folder, record, run, last_step)
    if job_type == "train":
        tracked.define_axes()
    return tracked


def _write_record(folder: RunFolder, record: TrackedRun) -> None:
    """Puts what is known of a W&B run into tracking.json, in its earlier record's place."""
    with folder.changed_tracking() as tracking:
        tracking.runs = [other for other in tracking.runs if other.id != record.id] + [record]


def _begin(mode: Mode, options: dict[str, Any]) -> tuple[wandb.Run | None, Mode]:
    """The W&B run and the mode it came to be in; none when not even an offline run can be made."""
    if mode == "disabled":
        return None, mode
    logs, its_own = Path(options["dir"]) / "wandb", f"*run-*-{options['id']}"
    earlier = set(logs.glob(its_own))
    attempts: list[Mode] = [mode] if mode == "offline" else ["online", "offline"] if server_answers() else ["offline"]
    for attempt in attempts:
        try:
            run = wandb.init(mode=attempt, settings=wandb.Settings(**client_settings()), **options)
            if attempt != mode:
                print("W&B: the server can't be reached; this run is offline", file=sys.stderr)
            return run, attempt
        except Exception as error:
            print(f"W&B: no {attempt} run ({one_line(error, 200)})", file=sys.stderr)
            # Else the id would stay taken in this process, and an empty log would be offered to `wandb sync`.
            wandb.teardown()
            for left in set(logs.glob(its_own)) - earlier:
                shutil.rmtree(left, ignore_errors=True)
    return None, "disabled"
