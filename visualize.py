"""Shows a checkpoint's predictions on real images: true and predicted class, confidence, and with --explain where it looked.

    python visualize.py                              # one random batch of the test set, as in the lab
    python visualize.py --which errors               # the most confident mistakes
    python visualize.py --which class --count 8      # one row a class
    python visualize.py --images cat.jpg dog.png     # your own photos

Writes grids and predictions.json to runs/<id>/visualization/. A ✓ and a solid border mark what is right, a ✗ and a dashed
border what is wrong.
"""

import time
from typing import TYPE_CHECKING

from common.base.errors import report_errors
from common.cli import parse
from common.config import VisualizeConfig, as_dict

if TYPE_CHECKING:
    import torch

    from common.data.dataset import Dataset
    from common.model.load import Loaded

TITLES = {
    "random": "Random {split} images",
    "errors": "The most confident mistakes on the {split} images",
    "class": "Random {split} images of each class",
    "photos": "Your photos",
}


def main(config: VisualizeConfig) -> None:
    from common.analysis import gallery
    from common.base.device import choose_device
    from common.base.files import disk_errors, write_json
    from common.model.load import load_model
    from common.runs.folder import check_results
    from common.tracking.about import downloader, tracked

    # Everything that can be refused is, before anything is written.
    device = choose_device(config.device)
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    output = loaded.folder.visualization
    check_results(loaded.folder, output)
    data, chosen = choose(config, loaded, device)
    if len(chosen) == 0:
        print(f"{loaded.path} makes no mistake on the {config.split} images: there is nothing to show")
        return

    with tracked(loaded.folder, "visualize", as_dict(config), loaded.metadata, loaded.artifact) as run:
        name, title = name_and_title(config)
        predictions, pictures = gallery.look(loaded, data, chosen, device, config.explain)
        rows = gallery.records(predictions, data.classes, config.images, data.names)
        pages = gallery.pages(rows, pictures, title, by_class=config.which == "class" and not config.images)
        with disk_errors(output):
            files = gallery.save_pages(pages, output, name)
            figures = [file.name for file in files]
            shown = {"which": name, "created": time.time(), "figures": figures, "predictions": rows}
            write_json(loaded.folder.shown, shown)
        run.log_images({f"predictions/{file.stem}": file for file in files}, title)

    all_of_them = f"{loaded.path}: {gallery.in_words(rows, config.which, config.split)}{data.notes}"
    said = map(gallery.described, rows) if config.images else [all_of_them]
    print(*said, *files, *run.hint(), sep="\n")


def choose(config: VisualizeConfig, loaded: "Loaded", device: "torch.device") -> "tuple[Dataset, torch.Tensor]":
    """A dataset, and the indices of some of its images."""
    from common.analysis import gallery
    from common.analysis.inference import load_part

    if config.images:
        return gallery.own_photos(config.images, loaded.metadata)
    data, part = load_part(loaded, config.split, config.dataset, config.data_dir, config.unreadable)
    return data, gallery.choose(config.which, loaded, data, part, config.count, config.seed, config.split, device)


def name_and_title(config: VisualizeConfig) -> tuple[str, str]:
    """Of the pictures: their files' name, and what stands above them."""
    name = "photos" if config.images else config.which
    title = TITLES[name].format(split=config.split)
    if config.explain:
        return f"{name}-explained", f"{title}, and where the network looked (Grad-CAM)"
    return name, title


if __name__ == "__main__":
    with report_errors():
        main(parse(VisualizeConfig, description=__doc__))
