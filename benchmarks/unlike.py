"""How often photos of other things are found to be unlike anything seen, by their energy, as a Markdown table.

    python -m benchmarks.unlike --checkpoint RUN digits/test other-photos …

Needs an evaluation of that run. For each folder: the share of its photos that predict.py flags, and the AUROC of the energy between them
and the test images, of which the first row has the share that is flagged without cause.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from annotated_types import Ge
from numpy.typing import NDArray

from benchmarks.timing import machine, table
from common.base.checked import Checked, PathText
from common.base.errors import UserError, report_errors
from common.cli import parse

if TYPE_CHECKING:
    from common.analysis.predicting import Predictor


@dataclass(frozen=True)
class UnlikeConfig(Checked):
    folders: Annotated[tuple[PathText, ...], tyro.conf.Positional]
    """Folders of photos, with those within."""
    checkpoint: PathText | None = None
    """A run. None: the newest."""
    photos: Annotated[int, Ge(1)] = 10_000
    """Of a folder at most."""
    batch_size: Annotated[int, Ge(1)] = 64
    device: str = "auto"
    runs_dir: PathText = "runs"


def main(config: UnlikeConfig) -> None:
    from sklearn.metrics import roc_auc_score

    from common.analysis.answers import energies
    from common.analysis.fitted import fitted_for
    from common.analysis.predicting import Predictor
    from common.analysis.predictions import Predictions
    from common.base.device import choose_device
    from common.data.stream import check_words
    from common.model.load import load_model

    check_words(config.folders)
    device = choose_device(config.device)
    loaded = load_model(config.checkpoint, config.runs_dir, device)
    fitted = fitted_for(loaded)
    limit = fitted.energy_limit
    if limit is None:
        raise UserError(f"{loaded.path} has no limit of the energy: {fitted.notes[-1]}")
    predictor = Predictor(loaded, fitted, device, None, config.batch_size, 1)
    seen = energies(Predictions.load(loaded.folder.evaluated().predictions).logits)
    rows = [["its test images", len(seen), f"{np.mean(seen > limit):.1%}", ""]]
    for folder in config.folders:
        others = energies(logits_of(predictor, folder, config.photos))
        auroc = roc_auc_score(np.repeat([0, 1], [len(seen), len(others)]), np.concatenate([seen, others]))
        rows.append([folder, len(others), f"{np.mean(others > limit):.1%}", f"{auroc:.3f}"])
    print(f"### unlike anything seen: {loaded.folder.id}\n\n{machine()}\n")
    print(table(["photos", "number", "flagged", "AUROC"], rows), flush=True)


def logits_of(predictor: "Predictor", folder: str, most: int) -> NDArray:
    """Of the photos in the folder that can be read. Errors: `UserError` where there are none."""
    from itertools import islice

    from common.analysis.predicting import decoded_photos
    from common.data.pixels import Decoding
    from common.data.stream import find_photos_of

    about = predictor.loaded.metadata
    found = islice(find_photos_of([folder], Counter(), None), most)
    chunks = decoded_photos(found, Decoding(about.decoded_size, about.fit))
    logits = [predictor.logits(images) for _, images, _ in chunks if len(images)]
    if not logits:
        raise UserError(f"{folder} has no photos that can be read")
    return np.concatenate(logits)


if __name__ == "__main__":
    with report_errors():
        main(parse(UnlikeConfig, description=__doc__))
