"""Folders as users of Text2Shape and of TriCoLo have them, with shapes made up."""

import csv
import hashlib
import json

import nrrd
import numpy as np
from PIL import Image

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 30, 220)}
SYNSETS = {"chair": "03001627", "table": "04379243"}


def shapes(count):
    """Ids, categories, captions and RGBA grids with the vertical axis first, as the files have it.

    A table is a low plate, a chair a high one, in one of three colours.
    """
    made = []
    for k in range(count):
        category = ("chair", "table")[k % 2]
        name = list(COLOURS)[k // 2 % 3]
        grid = np.zeros((4, 32, 32, 32), np.uint8)
        height, width = (28, 10) if category == "chair" else (12, 24)
        grid[:, : height + k % 3, : width - k % 5, :width] = np.array(
            [*COLOURS[name], 255], np.uint8
        )[:, None, None, None]
        model = hashlib.md5(str(k).encode()).hexdigest()
        captions = [f"a {name} {category}", f"it is a {category} , {name} in colour ."]
        made.append((model, category, captions, grid))
    return made


def write_csv(path, made):
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["id", "modelId", "description", "category", "topLevelSynsetId", "subSynsetId"]
        )
        for model, category, captions, _ in made:
            for caption in captions:
                synset = int(SYNSETS[category])
                rows.writerow([len(caption), model, caption, category.title(), synset, synset])


def original(root, count=24, resolution=32):
    """The original layout."""
    made = shapes(count)
    write_csv(root / "captions.tablechair.csv", made)
    for model, _, _, grid in made:
        folder = root / f"nrrd_256_filter_div_{resolution}_solid" / model
        folder.mkdir(parents=True)
        larger = resolution // 32
        grid = grid.repeat(larger, 1).repeat(larger, 2).repeat(larger, 3)
        nrrd.write(str(folder / f"{model}.nrrd"), grid, {"encoding": "gzip"})
    return made


def split_up(made):
    return {"train": made[:-8], "val": made[-8:-4], "test": made[-4:]}


def tricolo_2023(root, count=24):
    """What 3dlg-hcvc/tricolo's preprocessing makes."""
    folder = root / "preprocessed" / "exp_data"
    folder.mkdir(parents=True)
    made = shapes(count)
    for split, part in split_up(made).items():
        rows = [
            {"model_id": m, "category": SYNSETS[c], "caption": caption, "tokens": [1, 2, 0]}
            for m, c, captions, _ in part
            for caption in captions
        ]
        (folder / f"{split}_map.json").write_text(json.dumps(rows))
    for k, (model, category, _, grid) in enumerate(made):
        (folder / SYNSETS[category]).mkdir(exist_ok=True)
        images = np.full((12, 3, 64, 64), 10 * k % 250, np.uint8)
        images += np.arange(12, dtype=np.uint8)[:, None, None, None]
        np.savez_compressed(
            folder / SYNSETS[category] / f"{model}.npz",
            voxel32=grid,
            voxel64=grid.repeat(2, 1).repeat(2, 2).repeat(2, 3),
            images=images,
        )
    return made


def tricolo_2022(root, count=24):
    """What TriCoLo's first scripts made: word numbers without captions, sparse voxels, BGR."""
    made = shapes(count)
    words = sorted({word for _, _, captions, _ in made for c in captions for word in c.split()})
    numbers = {word: k + 2 for k, word in enumerate(words)}
    (root / "shapenet.json").write_text(
        json.dumps({"idx_to_word": {str(k): word for word, k in numbers.items()}})
    )
    for split, part in split_up(made).items():
        lines = [
            json.dumps(
                {
                    "model": m,
                    "category": SYNSETS[c],
                    "arrays": [numbers[word] for word in caption.split()] + [0] * 5,
                    "all_arrays": [],
                }
            )
            for m, c, captions, _ in part
            for caption in captions
        ]
        (root / f"{split}_map.jsonl").write_text("\n".join(lines))
    for model, category, _, grid in made:
        (root / "all_npz" / SYNSETS[category]).mkdir(parents=True, exist_ok=True)
        place = np.argwhere(grid[3])
        colours = grid[:3, grid[3] > 0].T / 255
        images = np.zeros((12, 3, 32, 32), np.float32)
        images[:, 2] = 1  # red, as OpenCV has it
        np.savez_compressed(
            root / "all_npz" / SYNSETS[category] / f"{model}.npz",
            voxel32=[place, colours],
            images=images,
        )
    return made


def write_images(folder, made, count, name="{}.png"):
    """Numbered images of each shape, number k in grey k."""
    for model, category, _, _ in made:
        (folder / SYNSETS[category] / model).mkdir(parents=True)
        for k in range(count):
            image = Image.new("RGB", (40, 40), (k, k, k))
            image.save(folder / SYNSETS[category] / model / name.format(k))
