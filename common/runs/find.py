"""Finding a run: by id, by path, by artifact name, or as the newest. Imports no torch."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from common.base.errors import UserError
from common.base.files import direct, lies_in
from common.runs.folder import SWEEPS, RunFolder
from common.runs.records import LoggedArtifact


def is_run(path: Path) -> bool:
    """Whether the folder is a run's, also of one that was killed before it had weights. The folder of the sweeps is not."""
    folder = RunFolder(path)
    left = (folder.config, folder.metrics, folder.summary, folder.checkpoints)
    try:
        return path.name != SWEEPS and any(entry.exists() for entry in left)
    except OSError:  # closed to us, or a name that no file can have
        return False


def is_file(path: str | Path) -> bool:
    """Whether it is a file, or a link to one; a name that no file can have is none."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).is_file()
    return False


def is_folder(path: Path) -> bool:
    """As `is_file`."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def list_runs(runs_dir: str | Path) -> list[RunFolder]:
    """The runs in `runs_dir`, oldest first."""
    root = direct(Path(runs_dir))
    try:
        return sorted((RunFolder(path) for path in root.iterdir() if is_run(path)), key=_age) if root.is_dir() else []
    except OSError as error:
        raise UserError(f"{root} can't be listed: {error.strerror or error}; see --runs_dir") from None


def _age(folder: RunFolder) -> tuple[float, str]:
    try:
        return folder.read_summary().started or 0.0, folder.id
    except UserError:  # damaged: it may be the newest all the same
        with contextlib.suppress(OSError):
            return folder.summary.lstat().st_mtime, folder.id
        return 0.0, folder.id


def run_named(runs_dir: str | Path, reference: str) -> RunFolder | None:
    """A run by id or folder; None where there is none."""
    for path in (Path(runs_dir) / reference, Path(reference)):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # links in a circle, a name that no file can have
            if is_run(path.resolve()):
                return RunFolder(path.resolve() if path.name in ("", "..") else direct(path))
    return None


def find_run(runs_dir: str | Path, reference: str, flag: str) -> RunFolder:
    """As `run_named`. Errors: `UserError` naming `flag` and the ids there are."""
    if folder := run_named(runs_dir, reference):
        return folder
    known = [folder.id for folder in list_runs(runs_dir)][-5:]
    there = f"the newest there: {', '.join(reversed(known))}" if known else "there are no runs in it"
    raise UserError(f"{flag} {reference} is no run in {runs_dir} and no run's folder; {there}")


def logged_artifacts(runs_dir: str | Path) -> list[tuple[RunFolder, LoggedArtifact]]:
    """All that the runs in `runs_dir` logged, the oldest first; a record that can't be read is passed over, and so is what names
    files elsewhere."""
    logged: list[tuple[RunFolder, LoggedArtifact]] = []
    for folder in list_runs(runs_dir):
        with contextlib.suppress(UserError):
            artifacts = folder.read_tracking().artifacts
            own = [
                a for a in artifacts if a.files and all(lies_in(folder.path / file, folder.path) for file in a.files)
            ]
            logged += [(folder, artifact) for artifact in own]
    return sorted(logged, key=lambda entry: (entry[1].time, entry[0].id))


def find_artifact(runs_dir: str | Path, reference: str) -> tuple[RunFolder, LoggedArtifact] | None:
    """`[entity/project/]name[:alias]` among the artifacts that the runs in `runs_dir` logged, as W&B would resolve it: versions
    count up in order of logging, and an alias is with the version that had it last. None: no such artifact."""
    name, _, alias = reference.rpartition("/")[2].partition(":")
    logged = [(folder, artifact) for folder, artifact in logged_artifacts(runs_dir) if artifact.name == name]
    versions: dict[str, tuple[RunFolder, LoggedArtifact]] = {}
    for folder, artifact in logged:  # bytes that were logged before are no new version, as with W&B
        versions.setdefault(artifact.digest, (folder, artifact))
    aliases = {f"v{number}": version for number, version in enumerate(versions.values())}
    for folder, artifact in logged:
        for given in (*artifact.aliases, "latest"):
            aliases[given] = (folder, artifact)
    return aliases.get(alias or "latest")


def resolve_checkpoint(
    reference: str | None,
    runs_dir: str | Path,
    download: Callable[[str], Path | None] | None = None,
    flag: str = "--checkpoint",
) -> tuple[Path, str | None]:
    """The weights that `--checkpoint` names, and the artifact they are, if it was named.

    A file; a run's id or folder; an artifact, looked up by `download` in W&B and, where that gives None, among the local runs.
    None is the newest run that has weights. Errors: `UserError` that says what there is.
    """
    if reference is None:
        runs = [folder for folder in list_runs(runs_dir) if folder.best.exists()]
        if not runs:
            raise UserError(f"no run with weights in {runs_dir}; train one with train.py, or give {flag} or --runs_dir")
        return runs[-1].best, None
    if is_file(reference):
        return Path(reference), None
    if any(is_folder(root / reference) for root in (Path(runs_dir), Path())):
        folder = find_run(runs_dir, reference, flag)
        if not folder.best.exists():
            raise UserError(f"{flag} {reference}: {folder.best} does not exist; the run has not finished an epoch")
        return folder.best, None
    looks_like_file = "." in reference.rpartition("/")[2]
    if download and not looks_like_file and (path := download(reference)):
        return path, reference
    if found := find_artifact(runs_dir, reference):
        folder, artifact = found
        return folder.path / artifact.files[0], reference
    names = {f"{artifact.name}:latest" for _, artifact in logged_artifacts(runs_dir) if artifact.type == "model"}
    there = [folder.id for folder in list_runs(runs_dir)][-3:] + sorted(names)[:3]
    known = f"; there are {', '.join(there)}" if there else "; there are no runs"
    raise UserError(f"{flag} {reference} is no file, and no run or artifact in {runs_dir}{known}")
