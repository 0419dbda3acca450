"""Shows a checkpoint's predictions on real images: true and predicted class, confidence, and with --explain where it looked.

    python visualize.py                              # one random batch of the test set, as in the lab
    python visualize.py --which errors               # the most confident mistakes
    python visualize.py --which class --count 8      # one row a class
    python visualize.py --images cat.jpg dog.png     # your own photos

Writes grids and predictions.json to runs/<id>/visualization/. A ✓ and a solid border mark what is right, a ✗ and a dashed
border what is wrong.
"""

import time

from common.base.errors import report_errors
from common.cli import parse
from common.config import VisualizeConfig, as_dict

TITLES = {
    "random": "Random {split} images",
    "errors": "The most confident mistakes on the {split} images",
    "class": "Random {split} images of each class",
}


def main(config: VisualizeConfig) -> None:
    import torch

    from common.analysis import gallery
    from common.analysis.predictions import load_part
    from common.base import drawing
    from common.base.device import choose_device
    from common.base.files import disk_errors, write_json
    from common.model.load import load_model
    from common.runs.folder import check_writable
    from common.tracking.about import downloader, tracked

    # Everything that can be refused is, before anything is written.
    device = choose_device(config.device)
    loaded = load_model(config.checkpoint, config.runs_dir, device, downloader(config.project, config.entity))
    output = loaded.folder.visualization
    check_writable(output, "--runs_dir")

    name, title = config.which, TITLES[config.which].format(split=config.split)
    if config.images:
        name, title = "photos", "Your photos"
        data = gallery.own_photos(config.images, loaded.metadata["image_size"], loaded.metadata["classes"])
        indices = torch.arange(len(data.labels))
    else:
        data, part = load_part(loaded, config.split, config.dataset, config.data_dir)
        if config.which == "random":
            indices = gallery.random_images(part, config.count, config.seed)
        elif config.which == "class":
            indices = gallery.images_of_each_class(data.labels, part, config.count, config.seed)
        else:
            indices = gallery.confident_mistakes(loaded, data, part, config.count, config.split, device)
    if len(indices) == 0:
        print(f"{loaded.path} makes no mistake on the {config.split} images: there is nothing to show")
        return
    if config.explain:
        name, title = f"{name}-explained", f"{title}, and where the network looked (Grad-CAM)"

    with tracked(loaded.folder, "visualize", as_dict(config), loaded.metadata, loaded.artifact) as run:
        predictions, pictures = gallery.look(loaded, data, indices, device, config.explain)
        rows = gallery.records(predictions, data.classes, config.images)
        pages = gallery.pages(rows, pictures, title, by_class=config.which == "class" and not config.images)
        with disk_errors(output):
            for stale in (output / f"{name}.png", *output.glob(f"{name}-[0-9]*.png")):
                stale.unlink(missing_ok=True)
            numbers = [""] if len(pages) == 1 else [f"-{number:02d}" for number in range(1, len(pages) + 1)]
            files = [output / f"{name}{number}.png" for number in numbers]
            for page, file in zip(pages, files, strict=True):
                drawing.save(page, file)
            figures = [file.name for file in files]
            saved = {"which": name, "created": time.time(), "figures": figures, "predictions": rows}
            write_json(output / "predictions.json", saved)
        run.log_images({f"predictions/{file.stem}": file for file in files}, title)

    if config.images:
        for row in rows:
            print(f"{row['file']}: " + ", ".join(f"{label} ({probability:.1%})" for label, probability in row["top5"]))
    else:
        right = sum(row["true"] == row["predicted"] for row in rows)
        print(f"{loaded.path}: {right} of {len(rows)} images right")
    print("\n".join(map(str, files)))
    for line in run.hint():
        print(line)


if __name__ == "__main__":
    with report_errors():
        main(parse(VisualizeConfig, description=__doc__))
