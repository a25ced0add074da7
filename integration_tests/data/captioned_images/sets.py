"""Small sets of photos in every form in which Flickr30K, Flickr8K and COCO are handed round."""

import json

from PIL import Image

CAPTIONS = ["A man, a dog", 'She says "hi"', "three", "four", "five #2"]


def image(path, shade):
    """An image of one shade of gray, by which it can be known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 12), (shade,) * 3).save(path, quality=100)


def shade(record):
    return round(float(record.float().mean()))


def names(count):
    return [f"{1000 + k}_ab{k}.jpg" for k in range(count)]


def captions_of(k):
    return [f"{caption} {k}" for caption in CAPTIONS]


def karpathy(root, splits, folder="images", filepath=None):
    """``dataset_x.json`` with a photo for each split named."""
    entries = []
    for k, (name, split) in enumerate(zip(names(len(splits)), splits)):
        place = filepath[k % len(filepath)] if filepath else None
        image(root / folder / (place or "") / name, k)
        entries.append(
            {
                "filename": name,
                "split": split,
                "sentences": [{"raw": text, "tokens": text.split()} for text in captions_of(k)],
                **({"filepath": place} if place else {}),
            }
        )
    file = root / "dataset_x.json"
    file.write_text(json.dumps({"dataset": "x", "images": entries}))
    return file


def tokens(root, count, name="results_20130124.token", folder="flickr30k-images"):
    """name#k TAB caption."""
    lines = []
    for k, photo in enumerate(names(count)):
        image(root / folder / photo, k)
        lines += [f"{photo}#{c}\t{text}" for c, text in enumerate(captions_of(k))]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def kaggle(root, count, folder="Images", quoted=True):
    """captions.txt: image,caption, with commas in captions."""
    lines = ["image,caption"]
    for k, photo in enumerate(names(count)):
        image(root / folder / photo, k)
        for text in captions_of(k):
            inner = text.replace('"', '""')
            lines.append(
                f'{photo},"{inner}"' if quoted and set(text) & set(',"') else f"{photo},{text}"
            )
    (root / "captions.txt").write_text("\n".join(lines) + "\n")
    return root / "captions.txt"


def coco(root, train, val, year="2017"):
    """annotations/captions_{train,val}2017.json and the folders train2017, val2017."""
    start = 0
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for k in range(start, start + count):
            image(root / f"{split}{year}" / f"{k:012d}.jpg", k)
            images.append({"id": 7 * k, "file_name": f"{k:012d}.jpg", "license": 1})
            annotations += [
                {"image_id": 7 * k, "id": 10 * k + c, "caption": text}
                for c, text in enumerate(captions_of(k))
            ]
        start += count
        file = root / "annotations" / f"captions_{split}{year}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        # As in COCO's, captions are not in the order of the photos.
        file.write_text(json.dumps({"images": images, "annotations": annotations[::-1]}))


def content(dataset):
    """What a data set holds of each photo: its shade by name of the file, and its captions."""
    return {
        name: (shade(item.observations["image"][0]), list(item.observations["text"]))
        for name, item in zip(dataset.names, map(dataset.__getitem__, range(len(dataset))))
    }
