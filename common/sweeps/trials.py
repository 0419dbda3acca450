"""The trials of a sweep without a server: chosen by Optuna, run as processes, recorded in the sweep's folder.

The folder, `runs/sweeps/<sweep-id>/`, holds sweep.yaml (as it was at the start), study.db (Optuna's record, which several
processes may share), trials.json (the same for people and for the dashboard) and a log a trial. Trial 3 is the ordinary
run `runs/<sweep-id>-3/`.

Whether a trial is alive is asked of its log: the process that runs the sweep locks it, the trial inherits the lock with
its output, and the kernel lets go when the last of the two has ended, however that came about. Where no lock can be inherited, on
Windows and on some file systems, it is asked of the two processes' ids, which are in Optuna's record.
"""

import itertools
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, BinaryIO

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from common.base.errors import UserError
from common.base.files import write_atomic, write_json
from common.base.locks import lives, lock_for_heirs, locked
from common.base.records import as_json
from common.config import RUNS_DIR, TrainConfig
from common.runs.folder import RunFolder, read_metrics, run_state, sweep_folder
from common.runs.records import TrialRecord
from common.sweeps.file import Sweep, flags

# On Windows `terminate` would end the trial unsaved. Its Ctrl-Break reaches one process alone only if that began a group.
STOP = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
OWN_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
# In Optuna's record of a trial: the machine, and the ids of the sweep's process and of the trial's.
PROCESSES = "processes"
SEEDS = "seeds"  # of the sweep: runs a trial, where they are several


@dataclass
class LocalTrial:
    """A trial and the process that runs it."""

    trial: optuna.Trial
    runs: list[RunFolder]
    """one a seed"""
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

    @property
    def run(self) -> RunFolder:
        """The first seed's, by which poor trials are told from others."""
        return self.runs[0]

    @property
    def error(self) -> str | None:
        """What the newest of the runs says that it ended with."""
        return next((error for run in reversed(self.runs) if (error := run.read_summary().error)), None)

    def stop(self) -> None:
        self.stops += 1
        try:
            self.process.send_signal(STOP)
        except OSError:  # on Windows without a console
            self.process.terminate()


class LocalSweep:
    """A sweep file, its folder and its study. Several of them, in several processes, may share a folder."""

    def __init__(self, sweep: Sweep, runs_dir: Path, sweep_id: str, seeds: int | None = None) -> None:
        """Begins the sweep, or goes on with it. seeds: runs a trial; None: as it was begun, or one.

        Errors: `UserError` when it was begun with another sweep file, or other seeds."""
        self.sweep, self.runs_dir, self.id = sweep, runs_dir, sweep_id
        self.folder = sweep_folder(runs_dir, sweep_id)
        with locked(self.folder.lock):
            copy = self.folder.settings
            if not copy.exists():
                write_atomic(copy, sweep.text)
            elif yaml.safe_load(copy.read_text(encoding="utf-8")) != yaml.safe_load(sweep.text):
                raise UserError(
                    f"--sweep_id {sweep_id} was begun with other settings: go on with {copy}, or choose another id"
                )
            self.study = self._open_study()
            begun_with = self.study.user_attrs.get(SEEDS, 1 if self.study.get_trials(deepcopy=False) else seeds or 1)
            if seeds not in (None, begun_with):
                raise UserError(
                    f"--seeds is {seeds}, but sweep {sweep_id} was begun with {begun_with}: leave --seeds out, or choose another --sweep_id"
                )
            self.seeds: int = begun_with
            if begun_with > 1:
                self.study.set_user_attr(SEEDS, begun_with)

    def _open_study(self) -> optuna.Study:
        bayes = self.sweep.method == "bayes"  # the grid needs no sampler: its points are put in Optuna's queue
        sampler = optuna.samplers.TPESampler(constant_liar=True) if bayes else optuna.samplers.RandomSampler()
        database = self.folder.study.resolve()
        try:
            return optuna.create_study(
                # Opened by hand: in SQLAlchemy's URL a path's own ?, # and % would mean something else.
                storage=optuna.storages.RDBStorage(
                    "sqlite:///study.db",
                    engine_kwargs={"creator": partial(sqlite3.connect, database, timeout=60, check_same_thread=False)},
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

    def runs(self, number: int, values: dict[str, Any]) -> list[RunFolder]:
        """A trial's: its own, or with several seeds one a seed, as train.py's --seeds names them."""
        if self.seeds == 1:
            return [self.run_folder(number)]
        first, name = values.get("seed", TrainConfig().compute.seed), self.run_folder(number).id
        return [RunFolder(self.runs_dir / f"{name}-seed{seed}") for seed in range(first, first + self.seeds)]

    def best_values(self, runs: Sequence[RunFolder]) -> list[float] | None:
        """Each run's best of the metric; None where one has none."""
        histories = [self.history(run) for run in runs]
        return [self.sweep.best(history) for history in histories] if all(histories) else None

    def history(self, run: RunFolder) -> list[float]:
        """The metric each time that the run logged it."""
        logged = [row.get(self.sweep.metric) for row in read_metrics(run)]
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
            trial.set_user_attr(PROCESSES, [socket.gethostname(), os.getpid()])
        values = self.sweep.values(trial.params)
        runs = self.runs(trial.number, values)
        process = subprocess.Popen(
            self._command_line(values),
            env=self._environment(trial.number),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the sweep, which tells its trials once
            creationflags=OWN_GROUP,  # the same on Windows
        )
        trial.set_user_attr(PROCESSES, [socket.gethostname(), os.getpid(), process.pid])
        return LocalTrial(trial, runs, values, process, log)

    def _command_line(self, values: dict[str, Any]) -> list[str]:
        elsewhere = [] if str(self.runs_dir) == RUNS_DIR else [f"--runs_dir={self.runs_dir}"]
        several = [f"--seeds={self.seeds}"] if self.seeds > 1 else []
        return self.sweep.command_line(values) + several + elsewhere

    def _environment(self, number: int) -> dict[str, str]:
        """The run's id and group. WANDB_SWEEP_ID must not be set: for a sweep that its server doesn't know, the W&B client
        drops the run's project and id."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")}
        name = self.run_folder(number).id  # seeds are a group of their own, as evaluate.py and compare.py take it
        ours = {"WANDB_RUN_ID": name, "WANDB_RUN_GROUP": self.id if self.seeds == 1 else name}
        return {**self.sweep.environment, **inherited, **ours}

    def _claim(self, number: int, processes: Sequence[Any] = ()) -> BinaryIO | None:
        """The trial's log, locked for as long as it or a process that inherits it is open. None: the trial is alive.

        Args:
            processes: what Optuna's record says of them, for where there are no such locks.
        """
        log = open(self.folder.log(number), "ab")
        free = lock_for_heirs(log)
        if free is None:
            free = not _alive(processes)
        if not free:
            log.close()
            return None
        return log

    def _settle_the_dead(self) -> None:
        """Trials whose sweep process has died: done where the run finished by itself, else to be run again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            log = self._claim(trial.number, trial.user_attrs.get(PROCESSES, ()))
            if log is not None:
                with log:
                    if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                        continue  # settled by its own process before that let go of the log
                    runs = self.runs(trial.number, self.sweep.values(trial.params))
                    values = self.best_values(runs)
                    if values and all(run_state(run) == "finished" for run in runs):
                        self.study.tell(trial.number, fmean(values))
                    else:  # what was enqueued comes first: it may have died before it drew all parameters
                        self._retry(trial.number, {**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def _retry(self, number: int, drawn: dict[str, Any]) -> None:
        """Gives the trial up, and enqueues its parameters for another."""
        self.study.enqueue_trial(drawn, user_attrs={"retry_of": number})
        self.study.tell(number, state=TrialState.FAIL)

    def look_at(self, running: LocalTrial) -> list[tuple[int, float]]:
        """Tells Optuna what the trial has logged since, and stops it when Optuna says so. Returns the (step, value)s; the
        steps count how often the metric was logged, as W&B's Hyperband does: epochs, for the metric of a validation."""
        news = list(enumerate(self.history(running.run), start=1))[len(running.history) :]
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
            values = self.best_values(running.runs)
            if status == 0 and values:
                self.study.tell(running.trial, fmean(values))
                return "complete"
            if running.pruned:
                self.study.tell(running.trial, state=TrialState.PRUNED)
                return "pruned"
            if running.stops:
                self._retry(running.number, running.trial.params)
                return "interrupted"
            error = f"never logged {self.sweep.metric}"
            if status != 0:
                said = running.error or _last_error(self.folder.log(running.number))
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
        return [self._record(trial, again) for trial in trials if trial.state != TrialState.WAITING]

    def _record(self, trial: FrozenTrial, again: dict[int, int]) -> TrialRecord:
        parameters, complete = self.sweep.values(trial.params), trial.state == TrialState.COMPLETE
        runs = self.runs(trial.number, parameters)
        values = self.best_values(runs) if complete and self.seeds > 1 else None
        logged = (trial.values or []) if complete else trial.intermediate_values.values()
        return TrialRecord(
            number=trial.number,
            run_id=runs[0].id,
            state=trial.state.name.lower(),
            value=self.sweep.best(logged, default=None),
            parameters=parameters,
            error=f"interrupted, run again as trial {again[trial.number]}"
            if trial.number in again
            else trial.user_attrs.get("error"),
            sd=stdev(values) if values else None,
            runs=[run.id for run in runs] if self.seeds > 1 else None,
        )

    def save_records(self) -> None:
        write_json(self.folder.trials, [as_json(record) for record in self.records()])

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
            value = "" if r.value is None else f"{r.value:.4f}" + ("" if r.sd is None else f" ± {r.sd:.4f}")
            error = f"  ({r.error})" if r.error else ""
            lines.append(f"{r.number:>5}  {r.state:<8}  {value:<{len(metric)}}  {self.searched(r.parameters)}{error}")
        return "\n".join(lines)

    def best_command(self, record: TrialRecord) -> str:
        """What trains the trial's model again, to be pasted."""
        return self.run_folder(record.number).command(self.sweep.program, *flags(record.parameters))


def _retried(trials: list[FrozenTrial]) -> dict[int, int]:
    """The number of a trial that was interrupted → of the one that takes its place."""
    return {trial.user_attrs["retry_of"]: trial.number for trial in trials if "retry_of" in trial.user_attrs}


def _alive(processes: Sequence[Any]) -> bool:
    """Whether a trial's processes live, the sweep's included; on another machine nobody can tell, so that they count as alive."""
    host, *pids = processes or [None]
    return bool(pids) and (host != socket.gethostname() or any(map(lives, pids)))


def _last_error(log: Path) -> str:
    """The last line that reads as an error, else the last line. Progress bars end theirs with a carriage return."""
    lines = [line for line in re.split(r"[\r\n]+", log.read_text("utf-8", "replace")) if line.strip()]
    errors = [line for line in lines if re.match(r"(error|[\w.]*(Error|Exception)): ", line)]
    return (errors or lines or ["no output"])[-1].strip()[:500]
