import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mxmclr_plugin.data.images import image_of, without_border
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.run import Run, load_run
from mxmclr_plugin.inference.search import search

QUERY = "a tall red cone"


@pytest.fixture(scope="module")
def shapes(small_run):
    return load_run(small_run, device="cpu")


def unit(vector):
    return vector / np.linalg.norm(vector)


def vectors(trained, modality, instance):
    """Of all observations of an instance, one by one, float64."""
    records = instance.observations[modality]
    with torch.no_grad():
        tower = trained.towers[modality]
        return [
            tower([record] if isinstance(record, str) else record[None])[0].double().numpy()
            for record in records
        ]


def ranked(trained, items):
    """By a loop: items are (name, vector); the best first."""
    with torch.no_grad():
        query = trained.towers["text"]([QUERY])[0].double().numpy()
    return sorted(((float(unit(z) @ query), name) for name, z in items), reverse=True)


def once(items):
    """The best item of each instance."""
    return [item for k, item in enumerate(items) if item[1] not in {n for _, n in items[:k]}]


def assert_found(found, wanted):
    assert [hit.name for hit in found.hits] == [name for _, name in wanted]
    scores = [hit.score for hit in found.hits]
    np.testing.assert_allclose(scores, [score for score, _ in wanted], rtol=0, atol=1e-5)


def test_single_observations(shapes):
    data = shapes.data["train"]
    items = [
        (data.names[k], z) for k in range(len(data)) for z in vectors(shapes, "voxel", data[k])
    ]
    found = search(shapes, QUERY, k=7, split="train")
    assert (found.by, found.among, found.items) == ("text", "voxel", len(items))
    assert_found(found, once(ranked(shapes, items))[:7])
    for hit in found.hits:
        place = data.names.index(hit.name)
        assert hit.id == data.ids[place]
        assert hit.caption == data[place].observations["text"][0]
        drawn = [
            without_border(image_of(grid, "voxel")) for grid in data[place].observations["voxel"]
        ]
        assert any(hit.image.tobytes() == image.tobytes() for image in drawn)


def test_texts_are_hits_themselves(shapes):
    own = shapes.data["test"][1].observations["text"][2]
    hit = search(shapes, own, k=1, modality="text", split="test").hits[0]
    assert hit.caption == own
    assert hit.score == pytest.approx(1)
    assert hit.image is not None


def test_fused_observations(images_run):
    trained = load_run(images_run, device="cpu")
    data = trained.data["train"]
    items = [(data.names[k], sum(vectors(trained, "image", data[k]))) for k in range(len(data))]
    found = search(trained, QUERY, k=5, split="train")
    assert (found.among, found.items) == ("image", len(data))
    assert_found(found, ranked(trained, items)[:5])
    for hit in found.hits:
        first = data[data.names.index(hit.name)].observations["image"][0]
        assert hit.image.tobytes() == without_border(image_of(first, "image")).tobytes()


def test_joined_modalities(joined_run):
    trained = load_run(joined_run, device="cpu")
    data = trained.data["train"]
    items, drawn = [], {}
    for k in range(len(data)):
        pairs = zip(vectors(trained, "views", data[k]), vectors(trained, "voxel", data[k]))
        for number, (views, voxel) in enumerate(pairs):
            items.append((f"{data.names[k]} {number}", views + voxel))
            record = data[k].observations["views"][number]
            shown = without_border(image_of(record, "views"))
            drawn[f"{data.names[k]} {number}"] = shown.tobytes()
    found = search(trained, QUERY, k=6, split="train")
    assert found.among == "views and voxel"
    wanted, seen = [], set()
    for score, name in ranked(trained, items):
        if name.rpartition(" ")[0] not in seen:
            seen.add(name.rpartition(" ")[0])
            wanted.append((score, name))
    wanted = wanted[:6]
    assert_found(found, [(score, name.rpartition(" ")[0]) for score, name in wanted])
    assert [hit.image.tobytes() for hit in found.hits] == [drawn[name] for _, name in wanted]


def test_an_image_finds_itself(images_run, tmp_path):
    trained = load_run(images_run, ["eval.fuse=[]"], device="cpu")
    data = trained.data["test"]
    own = data[1].observations["image"][4]
    image_of(own, "image").save(tmp_path / "query.png")
    found = search(trained, str(tmp_path / "query.png"), modality="image")
    assert found.by == "image"
    assert found.hits[0].name == data.names[1]
    assert found.hits[0].score == pytest.approx(1)
    assert found.hits[0].image.tobytes() == without_border(image_of(own, "image")).tobytes()
    assert search(trained, str(tmp_path / "query.png")).among == "text"


def test_a_grid_finds_itself(shapes, tmp_path):
    data = shapes.data["test"]
    np.save(tmp_path / "query.npy", data[1].observations["voxel"][0].numpy())
    hit = search(shapes, str(tmp_path / "query.npy"), modality="voxel", k=1).hits[0]
    assert hit.name == data.names[1]
    assert hit.score == pytest.approx(1)


def test_the_second_search_encodes_the_query_alone(shapes, small_run, monkeypatch):
    first = search(shapes, QUERY)
    encoded = []

    def embeddings(self, split, modalities=None, progress=True):
        encoded.append((len(split), modalities))
        return original(self, split, modalities, progress)

    original = Run.embeddings
    monkeypatch.setattr(Run, "embeddings", embeddings)
    again = search(load_run(small_run, device="cpu"), QUERY)
    assert [(hit.name, hit.score) for hit in again.hits] == [
        (hit.name, hit.score) for hit in first.hits
    ]
    assert encoded == []
    # Other weights, other data, another split.
    search(load_run(small_run, checkpoint="last", device="cpu"), QUERY)
    search(load_run(small_run, ["data.noise=0.3"], device="cpu"), QUERY)
    search(shapes, QUERY, split="val")
    every, some = sum(map(len, shapes.data.values())), len(shapes.data["val"])
    assert encoded == [(every, ["voxel"]), (every, ["voxel"]), (some, ["voxel"])]


def test_a_damaged_file_of_embeddings(small_run):
    first = search(load_run(small_run, device="cpu"), QUERY)
    for file in (small_run / "embeddings").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged"):
        again = search(load_run(small_run, device="cpu"), QUERY)
    assert [hit.score for hit in again.hits] == [hit.score for hit in first.hits]
    shutil.rmtree(small_run / "embeddings")  # others in it are damaged still


def test_words_that_are_not_known(shapes):
    assert search(shapes, "a red flurb cone").unknown == ("flurb",)
    with pytest.raises(ConfigError, match="knows no word of 'flurb blorg'"):
        search(shapes, "flurb blorg")


def test_a_text_may_begin_as_the_name_of_a_user(shapes):
    assert search(shapes, "~10 cm tall cone").query == "~10 cm tall cone"


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        (" ", {}, "the query is empty"),
        ("none.png", {}, "there is no file none.png"),
        (QUERY, {"modality": "image"}, "no tower of 'image'"),
        (QUERY, {"modality": "voxels"}, "did you mean 'voxel'"),
        (QUERY, {"by": "voxel"}, "the tower of 'voxel' takes voxel, the query is a text"),
        (QUERY, {"by": "views"}, "no tower of 'views'"),
        (QUERY, {"split": "dev"}, "no split 'dev'"),
        ("{file}.png", {}, "is for a tower of image, the run has towers of text, voxel"),
        ("{file}.nrrd", {}, "query.nrrd"),
        ("{file}.npy", {"by": "text"}, "takes text, the query is the file"),
        (QUERY, {"modality": ["voxel", "text"]}, "are fused one observation to one"),
    ],
)
def test_what_cannot_be_searched(shapes, tmp_path, query, options, words):
    Image.new("RGB", (8, 8)).save(tmp_path / "query.png")
    (tmp_path / "query.nrrd").write_bytes(b"nothing")
    np.save(tmp_path / "query.npy", np.zeros(3))
    with pytest.raises(ConfigError) as error:
        search(shapes, query.format(file=tmp_path / "query"), **options)
    assert words in str(error.value)
