"""The trials of a sweep without a server: chosen by Optuna, run as processes, recorded in the sweep's folder.

The folder, `runs/sweeps/<sweep-id>/`, holds sweep.yaml (as it was at the start), study.db (Optuna's record, which several
processes may share), trials.json (the same for people and for the dashboard) and a log a trial. Trial 3 is the ordinary
run `runs/<sweep-id>-3/`.

Whether a trial is alive is asked of its log: the process that runs the sweep locks it, the trial inherits the lock with
its output, and the kernel lets go when the last of the two has ended, however that came about.
"""

import itertools
import math
import os
import re
import sqlite3
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from common.base.errors import UserError
from common.base.files import write_atomic, write_json
from common.base.locks import locked
from common.config import RUNS_DIR
from common.runs.folder import RunFolder, read_metrics, run_state, sweep_folder
from common.runs.records import TrialRecord
from common.sweeps.file import Sweep, flags


@dataclass
class LocalTrial:
    """A trial and the process that runs it."""

    trial: optuna.Trial
    run: RunFolder
    values: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: BinaryIO
    history: list[float] = field(default_factory=list)
    pruned: bool = False
    stops: int = 0
    """How often it was told to stop; the second time it stops without saving."""

    @property
    def number(self) -> int:
        return self.trial.number

    def stop(self) -> None:
        self.stops += 1
        self.process.terminate()


class LocalSweep:
    """A sweep file, its folder and its study. Several of them, in several processes, may share a folder."""

    def __init__(self, sweep: Sweep, runs_dir: Path, sweep_id: str) -> None:
        """Begins the sweep, or goes on with it. Errors: `UserError` when it was begun with another sweep file."""
        self.sweep, self.runs_dir, self.id = sweep, runs_dir, sweep_id
        self.folder = sweep_folder(runs_dir, sweep_id)
        with locked(self.folder.lock):
            copy = self.folder.settings
            if not copy.exists():
                write_atomic(copy, sweep.text)
            elif yaml.safe_load(copy.read_text()) != yaml.safe_load(sweep.text):
                raise UserError(
                    f"--sweep_id {sweep_id} was begun with other settings: go on with {copy}, or choose another id"
                )
            self.study = self._open_study()

    def _open_study(self) -> optuna.Study:
        bayes = self.sweep.method == "bayes"  # the grid needs no sampler: its points are put in Optuna's queue
        sampler = optuna.samplers.TPESampler(constant_liar=True) if bayes else optuna.samplers.RandomSampler()
        database = self.folder.study.resolve()
        try:
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    "sqlite:///study.db",  # the kind alone: in a URL, `?` and `%` of the path would mean something
                    engine_kwargs={"creator": lambda: sqlite3.connect(database, timeout=60, check_same_thread=False)},
                ),
                study_name=self.id,
                direction=self.sweep.goal,
                sampler=sampler,
                pruner=self.sweep.pruner,
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy's and Optuna's own have no common class
            raise UserError(
                f"{database} can't be opened: {type(error).__name__}: {error}; choose another --sweep_id"
            ) from error

    def run_folder(self, number: int) -> RunFolder:
        return RunFolder(self.runs_dir / f"{self.id}-{number}")

    def history(self, number: int) -> list[float]:
        """The metric each time that the trial logged it."""
        logged = [row.get(self.sweep.metric) for row in read_metrics(self.run_folder(number))]
        return [float(value) for value in logged if isinstance(value, (int, float)) and math.isfinite(value)]

    def begin_trial(self, count: float) -> LocalTrial | None:
        """The next trial, running. None: the sweep has `count` already, or the whole grid."""
        with locked(self.folder.lock):  # one process at a time chooses and claims trials
            self._settle_the_dead()
            trials = self.study.get_trials(deepcopy=False)
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            begun = len(trials) - len(waiting) - len(_retried(trials))  # one that was interrupted counts once
            if begun >= min(count, self.sweep.size()):
                return None
            if self.sweep.method == "grid" and not waiting:
                self.study.enqueue_trial(next(itertools.islice(self.sweep.grid(), begun, None)))
            trial = self.study.ask({name: parameter.distribution for name, parameter in self.sweep.parameters.items()})
            log = self._claim(trial.number)
            assert log is not None, "a new trial's log is nobody's"
        values = self.sweep.values(trial.params)
        process = subprocess.Popen(
            self._command_line(values),
            env=self._environment(trial.number),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the sweep, which tells its trials once
        )
        return LocalTrial(trial, self.run_folder(trial.number), values, process, log)

    def _command_line(self, values: dict[str, Any]) -> list[str]:
        elsewhere = [] if str(self.runs_dir) == RUNS_DIR else [f"--runs_dir={self.runs_dir}"]
        return self.sweep.command_line(values) + elsewhere

    def _environment(self, number: int) -> dict[str, str]:
        """The run's id and group. WANDB_SWEEP_ID must not be set: for a sweep that its server doesn't know, the W&B client
        drops the run's project and id."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")}
        ours = {"WANDB_RUN_ID": self.run_folder(number).id, "WANDB_RUN_GROUP": self.id}
        return {**self.sweep.environment, **inherited, **ours}

    def _claim(self, number: int) -> BinaryIO | None:
        """The trial's log, locked for as long as it or a process that inherits it is open. None: the trial is alive."""
        try:
            import fcntl  # by hand, since no library hands a lock on to a child process
        except ImportError:
            raise UserError("sweep.py needs Linux or macOS; on Windows use WSL, or `wandb sweep`") from None
        log = open(self.folder.log(number), "ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            return None
        return log

    def _settle_the_dead(self) -> None:
        """Trials whose sweep process has died: done where the run finished by itself, else to be run again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            log = self._claim(trial.number)
            if log is not None:
                with log:
                    history = self.history(trial.number)
                    if history and run_state(self.run_folder(trial.number)) == "finished":
                        self.study.tell(trial.number, self.sweep.best(history))
                    else:  # what was enqueued comes first: it may have died before it drew all parameters
                        self._retry(trial.number, {**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def _retry(self, number: int, drawn: dict[str, Any]) -> None:
        """Gives the trial up, and enqueues its parameters for another."""
        self.study.enqueue_trial(drawn, user_attrs={"retry_of": number})
        self.study.tell(number, state=TrialState.FAIL)

    def look_at(self, running: LocalTrial) -> list[tuple[int, float]]:
        """Tells Optuna what the trial has logged since, and stops it when Optuna says so. Returns the (step, value)s; the
        steps count how often the metric was logged, as W&B's Hyperband does: epochs, for the metric of a validation."""
        news = list(enumerate(self.history(running.number), start=1))[len(running.history) :]
        for step, value in news:
            running.history.append(value)
            running.trial.report(value, step)
            if not running.stops and running.trial.should_prune():
                running.pruned = True
                running.stop()
        return news

    def settle(self, running: LocalTrial) -> str:
        """Records how an ended trial ended. Returns it in words."""
        status = running.process.wait()
        with running.log:
            if status == 0 and running.history:
                self.study.tell(running.trial, self.sweep.best(running.history))
                return "complete"
            if running.pruned:
                self.study.tell(running.trial, state=TrialState.PRUNED)
                return "pruned"
            if running.stops:
                self._retry(running.number, running.trial.params)
                return "interrupted"
            error = f"never logged {self.sweep.metric}"
            if status != 0:
                said = running.run.read_summary().error or _last_error(self.folder.log(running.number))
                error = f"exit status {status}: {said}"
            running.trial.set_user_attr("error", error)
            self.study.tell(running.trial, state=TrialState.FAIL)
            return f"failed, {error}"

    def busy_elsewhere(self) -> bool:
        """Whether trials run that are other processes', or outlived theirs; asked while this process runs none."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def records(self) -> list[TrialRecord]:
        """The trials that have begun, as trials.json has them."""
        trials = self.study.get_trials(deepcopy=False)
        again = _retried(trials)
        return [
            TrialRecord(
                number=trial.number,
                run_id=self.run_folder(trial.number).id,
                state=trial.state.name.lower(),
                value=self.sweep.best([*trial.intermediate_values.values(), *(trial.values or [])], default=None),
                parameters=self.sweep.values(trial.params),
                error=f"interrupted, run again as trial {again[trial.number]}"
                if trial.number in again
                else trial.user_attrs.get("error"),
            )
            for trial in trials
            if trial.state != TrialState.WAITING
        ]

    def save_records(self) -> None:
        write_json(self.folder.trials, [asdict(record) for record in self.records()])

    def best_record(self) -> TrialRecord | None:
        complete = [record for record in self.records() if record.state == "complete"]
        return self.sweep.best(complete, key=lambda record: record.value, default=None)

    def searched(self, values: dict[str, Any]) -> str:
        """Those that differ between trials, as short flags."""
        several = {k: v for k, v in values.items() if not self.sweep.parameters[k].distribution.single()}
        return " ".join(flags({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in several.items()}))

    def table(self) -> str:
        """The trials, the best first."""
        metric, sign = self.sweep.metric, -1 if self.sweep.goal == "maximize" else 1
        lines = [f"trial  state     {metric}  parameters"]
        for r in sorted(self.records(), key=lambda r: (r.value is None, sign * (r.value or 0), r.number)):
            value = "" if r.value is None else f"{r.value:.4f}"
            error = f"  ({r.error})" if r.error else ""
            lines.append(f"{r.number:>5}  {r.state:<8}  {value:<{len(metric)}}  {self.searched(r.parameters)}{error}")
        return "\n".join(lines)

    def best_command(self, record: TrialRecord) -> str:
        """What trains the trial's model again, to be pasted."""
        return self.run_folder(record.number).command(self.sweep.program, *flags(record.parameters))


def _retried(trials: list[FrozenTrial]) -> dict[int, int]:
    """The number of a trial that was interrupted → of the one that takes its place."""
    return {trial.user_attrs["retry_of"]: trial.number for trial in trials if "retry_of" in trial.user_attrs}


def _last_error(log: Path) -> str:
    """The last line that reads as an error, else the last line. Progress bars end theirs with a carriage return."""
    lines = [line for line in re.split(r"[\r\n]+", log.read_text(errors="replace")) if line.strip()]
    errors = [line for line in lines if re.match(r"(error|[\w.]*(Error|Exception)): ", line)]
    return (errors or lines or ["no output"])[-1].strip()[:500]
