"""W&B's Registry: a version of the weights under a name that outlives projects."""

from dataclasses import replace

from common.base.files import disk_errors
from common.runs.folder import RunFolder
from common.runs.records import LoggedArtifact

DEFAULT = "model"  # W&B makes this registry for every organization


def registry_path(name: str) -> str:
    """Where `--register` leads: NAME in the registry of models, REGISTRY/NAME in another."""
    registry, _, collection = name.rpartition("/")
    return f"wandb-registry-{registry or DEFAULT}/{collection}"


def remember_registered(folder: RunFolder, artifact: LoggedArtifact) -> None:
    """So that it is linked once."""
    with disk_errors(folder.tracking), folder.changed_tracking() as tracking:
        done = replace(artifact, registered=True)
        tracking.artifacts = [done if known.identity == artifact.identity else known for known in tracking.artifacts]
