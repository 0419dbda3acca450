"""The W&B run of a script that is about a checkpoint: evaluations and visualizations."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.base.files import cache_folder
from common.runs.folder import RunFolder, load_config
from common.runs.records import Metadata
from common.tracking.run import WandbRun, start
from common.tracking.server import download


def downloader(project: str | None, entity: str | None) -> Callable[[str], Path | None]:
    """Fetches an artifact's weights from W&B into the cache folder."""
    return lambda name: download(name, cache_folder() / "artifacts", project, entity)


@contextlib.contextmanager
def tracked(
    folder: RunFolder, job_type: str, config: dict[str, Any], metadata: Metadata, artifact: str | None
) -> Iterator[WandbRun]:
    """A W&B run of its own about the checkpoint of the run in `folder`, in that run's project and group; ends as the block ends.

    metadata: of the weights; artifact: what they are in W&B, where that was named.
    """
    group = load_config(folder).run.group if folder.config.exists() else None
    trained = next((run for run in folder.read_tracking().runs if run.id == metadata.run_id), None)
    run = start(
        folder,
        job_type,
        config,
        name=f"{folder.id}-{job_type}",
        project=config["project"] or metadata.project,
        entity=config["entity"] or metadata.entity,
        group=group or (trained.group if trained else None) or folder.id,
    )
    run.use_model(artifact, metadata.run_id)
    try:
        yield run
    except BaseException:
        run.finish(1)
        raise
    run.finish(0)
