"""Artifacts: how they are made, and how one is recognized on the server."""

import base64
import hashlib
import io
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from common.base.files import lies_in, sha256_of
from common.runs.folder import RunFolder
from common.runs.records import LoggedArtifact


@dataclass(frozen=True)
class LocalFiles:
    """Files that are logged as an artifact, and where they lie."""

    logged: LoggedArtifact
    paths: list[Path]

    @property
    def aliases(self) -> list[str]:
        return self.logged.aliases

    def is_among(self, on_server: frozenset[tuple[str, frozenset[str]]]) -> bool:
        """Whether a version of that name holds these very files. on_server: names, and digests of the files."""
        return (self.logged.name, frozenset(map(content_digest, self.paths))) in on_server

    def made(self) -> wandb.Artifact:
        """The files are referred to where they lie, not copied: a run keeps one copy of its weights."""
        artifact = wandb.Artifact(
            self.logged.name, self.logged.type, description=self.logged.description, metadata=self.logged.metadata
        )
        for path in self.paths:
            artifact.add_file(str(path.resolve()), name=path.name, policy="immutable", skip_cache=True)
        return artifact


@dataclass(frozen=True)
class LocalTable:
    """A Table that was logged, as the run folder holds it. The client makes an artifact of it by itself."""

    name: str
    key: str
    path: Path

    @property
    def aliases(self) -> list[str]:
        return []

    def is_among(self, on_server: frozenset[tuple[str, frozenset[str]]]) -> bool:
        """Whether there is one of that name at all."""
        return self.name in {name for name, _ in on_server}

    def made(self) -> wandb.Artifact:
        artifact = wandb.Artifact(self.name, "table")  # the client keeps its own type, run_table, to itself
        table = json.loads(self.path.read_text(encoding="utf-8"))
        artifact.add(table_of(table), self.key)
        return artifact


def as_text(picture: bytes) -> str:
    """A JPEG as a table in the run folder has it."""
    return base64.b64encode(picture).decode()


def table_of(table: dict[str, Any]) -> wandb.Table:
    """What a table in the run folder says, as W&B's. `pictures`: how many columns, the first ones, are JPEGs in base64."""
    count = table.get("pictures", 0)
    rows = [[*map(_picture, row[:count]), *row[count:]] for row in table["rows"]]
    return wandb.Table(columns=table["columns"], data=rows)


def _picture(text: str) -> wandb.Image:
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["JPEG"]) as picture:
        return wandb.Image(picture.convert("RGB"), file_type="jpg")


@dataclass(frozen=True)
class LostFiles:
    """Files that were logged as an artifact and are gone from the run folder: only the server may have them."""

    logged: LoggedArtifact

    def is_among(self, on_server: frozenset[tuple[str, frozenset[str]]]) -> bool:
        """Whether there is one of that name at all."""
        return self.logged.name in {name for name, _ in on_server}


SendableArtifact = LocalFiles | LocalTable
LocalArtifact = SendableArtifact | LostFiles


def local_artifacts(folder: RunFolder, run_id: str) -> list[LocalArtifact]:
    """What the W&B run logged. Weights that later ones of the same run have replaced are not there to be sent, and not missed; what lies
    elsewhere is not the run's."""
    tracking, found = folder.read_tracking(), list[LocalArtifact]()
    logged = [artifact for artifact in tracking.artifacts if artifact.run_id == run_id]
    newest = {artifact.name: artifact for artifact in logged}
    for artifact in logged:
        paths = [folder.path / file for file in artifact.files]
        if not all(lies_in(path, folder.path) for path in paths):
            continue
        if all(path.is_file() for path in paths):
            if sha256_of(*paths) == artifact.digest:
                found.append(LocalFiles(artifact, paths))
        elif artifact is newest[artifact.name]:
            found.append(LostFiles(artifact))
    for table in tracking.tables:
        path = folder.path / table.file
        if table.run_id == run_id and path.is_file() and lies_in(path, folder.path):
            found.append(LocalTable(table_artifact_name(run_id, table.key), table.key, path))
    return found


def content_digest(path: Path) -> str:
    """As W&B names a file's content: base64 of its MD5."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.md5(file.read(), usedforsecurity=False).digest()).decode()


def table_artifact_name(run_id: str, key: str) -> str:
    """The artifact that the client makes of a Table logged as `key`; with a checksum where an artifact may not be named so."""
    name = f"run-{run_id}-{key}"
    allowed = re.sub(r"[^a-zA-Z0-9_.-]+", "", name)
    if allowed == name:
        return name
    checksum = base64.urlsafe_b64encode(zlib.crc32(name.encode()).to_bytes(4, "big"))
    return f"{allowed}-{checksum.decode().rstrip('=')}"
