import json

import faiss
import numpy as np
import pytest
import torch
from models.tiny_clip import write_tiny_clip
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference import export
from mxmclr_plugin.inference.export import export_run
from mxmclr_plugin.inference.graph import why_no_onnx
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.inference.search import search
from mxmclr_plugin.run.command_line import main


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def trained(small_run):
    return load_run(small_run, device="cpu")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "small"
    export_run(trained, out)
    return out, json.loads((out / "export.json").read_text())


def test_embeddings(trained, exported):
    out, index = exported
    embedded = trained.embeddings(trained.searched("all"), ["text", "voxel"])
    assert list(index["embeddings"]) == ["text", "voxel"]
    for modality, entry in index["embeddings"].items():
        tensors = load_file(out / entry["safetensors"])
        assert torch.equal(tensors["z"], embedded[modality].z)
        assert torch.equal(tensors["ids"], embedded[modality].ids)
        assert (entry["rows"], entry["dim"]) == tuple(tensors["z"].shape)
        rows = [json.loads(line) for line in (out / entry["observations"]).open()]
        wanted = [
            {
                "id": int(data.ids[k]),
                "name": data.names[k],
                "split": split,
                "modality": modality,
                "file": None,
                "text": record if modality == "text" else None,
            }
            for split, data in trained.data.items()
            for k in range(len(data))
            for record in data[k].observations[modality]
        ]
        assert rows == wanted
        modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
        plain = out / "plain"
        plain.touch()
        assert modes == {plain.stat().st_mode & 0o777}
        plain.unlink()


def test_the_index(exported, small_run):
    _, index = exported
    assert index["checkpoint"] == str(small_run / "checkpoints" / "best.ckpt")
    assert index["data"]["classes"] == 24
    assert "regenerated" in index["notes"][0]
    assert index["towers"]["voxel"]["input"] == {"shape": [None, 4, 24, 24, 24], "dtype": "uint8"}


def test_the_text_tower(trained, exported):
    out, index = exported
    model = SentenceTransformer(
        str(out / index["towers"]["text"]["sentence_transformer"]["file"]), device="cpu"
    )
    texts = list(trained.data["test"].stores["text"])
    with torch.no_grad():
        wanted = trained.towers["text"](texts)
    torch.testing.assert_close(
        model.encode(texts, convert_to_tensor=True), wanted, rtol=0, atol=1e-5
    )


def test_the_shape_tower(trained, exported):
    out, index = exported
    store = trained.data["test"].stores["voxel"]
    grids = torch.stack([store[k] for k in range(7)])
    with torch.no_grad():
        wanted = trained.towers["voxel"](grids)
        parts = index["towers"]["voxel"]
        z = torch.export.load(out / parts["torch_export"]["file"]).module()(grids)
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-5)
    if why_no_onnx():
        pytest.skip(f"no ONNX, all else was tested: {why_no_onnx()}")
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(out / parts["onnx"]["file"]), providers=["CPUExecutionProvider"]
    )
    (z,) = session.run(None, {"observations": grids.numpy()})
    np.testing.assert_allclose(z, wanted.numpy(), rtol=0, atol=1e-5)


def test_parquet_by_the_command(trained, small_run, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "x"
    asked = ["export", f"ckpt={small_run}", f"out={out}", "format=parquet", "split=val"]
    status, said, _ = run(capsys, *asked, "towers=text", "trainer.accelerator=cpu")
    assert status == 0
    assert "largest difference" in said
    table = parquet.read_table(out / "val_text.parquet")
    embedded = trained.embeddings("val")["text"]
    assert table.column_names == ["id", "name", "split", "modality", "file", "text", "z"]
    assert set(table["split"].to_pylist()) == {"val"}
    np.testing.assert_array_equal(np.stack(table["z"].to_numpy()), embedded.z.numpy())
    assert table["id"].to_pylist() == embedded.ids.tolist()
    data = trained.data["val"]
    assert table["text"].to_pylist() == [
        t for k in range(len(data)) for t in data[k].observations["text"]
    ]
    assert parquet.read_table(out / "val_voxel.parquet")["text"].null_count == len(
        trained.embeddings("val")["voxel"].z
    )
    assert list(json.loads((out / "export.json").read_text())["towers"]) == ["text"]
    status, _, err = run(capsys, *asked)
    assert status == 2
    assert "is there already" in err


def test_how_images_are_read(tmp_path):
    for k in range(3):
        Image.new("RGBA", (9, 9), (k, 0, 0, 0)).save(tmp_path / f"{k}.png")
    lines = [json.dumps({"id": k, "image": f"{k}.png", "text": f"t {k}"}) for k in range(3)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    data = manifest(str(tmp_path / "my.jsonl"), size=8, background="red")
    recorded = export._preprocessing(data["train"], "image", "image")
    assert recorded["options"] == {"size": 8, "background": "red"}
    assert "short side resized to size" in recorded["steps"]
    assert export._preprocessing(data["train"], "text", "text") is None


def test_instances_of_one_modality_stay(tmp_path):
    lines = [{"id": k, "text:a": f"thing {k}", "text:b": f"a {k}"} for k in range(12)]
    lines += [{"id": "alone", "split": "test", "text:a": "thing alone"}]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, lines)))
    towers = [f"+towers/text@towers.{name}=bag_of_words" for name in "ab"]
    few = ["trainer.max_steps=1", f"data.path={tmp_path / 'my.jsonl'}"]
    lines[0]["split"] = "test"
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["manifest", *towers, *few, f"out={tmp_path / 'run'}"]) == 0
    trained = load_run(tmp_path / "run", device="cpu")
    assert len(trained.split("test")) == 1
    assert len(trained.searched("test")) == 2
    assert len(trained.searched("all")) == 13
    found = search(trained, "thing alone", k=13, modality="a")
    assert {hit.name for hit in found.hits} == {*map(str, range(12)), "alone"}
    index = export_run(trained, tmp_path / "x", formats=["faiss", "safetensors"], towers=[])
    assert [index["embeddings"][name]["rows"] for name in "ab"] == [13, 12]
    rows = [json.loads(line) for line in (tmp_path / "x" / "all_a.jsonl").open()]
    assert [(row["name"], row["split"]) for row in rows if row["name"] == "alone"] == [
        ("alone", "test")
    ]
    faiss_index = faiss.read_index(str(tmp_path / "x" / "all_a.faiss"))
    z = load_file(tmp_path / "x" / "all_a.safetensors")["z"].numpy()
    scores, numbers = faiss_index.search(z, 1)
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
    np.testing.assert_allclose(z[numbers[:, 0]], z, atol=1e-5)


def test_a_tower_for_two_kinds_is_written_once(tmp_path):
    clip = write_tiny_clip(tmp_path / "clip")
    torch.manual_seed(0)
    lines = []
    for k in range(12):
        grid = torch.randint(0, 256, (3, 32, 32)).to(torch.uint8).numpy()
        np.save(tmp_path / f"{k}.npy", grid)
        lines.append(json.dumps({"id": k, "image": [f"{k}.npy"], "text": f"image {k}"}))
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    towers = ["towers/image=sentence_transformer_image", f"towers.image.model={clip}"]
    towers += ["towers/text=same_as", "towers.text.same_as=image"]
    few = ["trainer.max_steps=1", "batch.instances=4", f"data.path={tmp_path / 'my.jsonl'}"]
    assert main(["manifest", *towers, *few, f"out={tmp_path / 'run'}"]) == 0
    trained = load_run(tmp_path / "run", device="cpu")
    index = export_run(trained, tmp_path / "x", towers=["image", "text"])
    assert index["towers"]["text"] == {"same_as": "image"}
    part = index["towers"]["image"]["sentence_transformer"]
    assert part["largest_difference"] <= 1e-5
    model = SentenceTransformer(str(tmp_path / "x" / part["file"]), device="cpu")
    texts = ["image 1", "something else"]
    torch.testing.assert_close(
        model.encode(texts, convert_to_tensor=True),
        trained.encode("text", texts),
        rtol=0,
        atol=1e-5,
    )


def test_a_difference_is_an_error(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ConfigError, match="text_sentence_transformer differs from the tower by"):
        export_run(trained, tmp_path / "x", towers=["text"])
    index = json.loads((tmp_path / "x" / "export.json").read_text())
    data = trained.searched("all")
    assert index["embeddings"]["text"]["rows"] == data.folds("text").sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out=x"], "needs ckpt="),
        (["ckpt={run}"], "needs out=OUT: New folder"),
        (["ckpt={run}", "out=x", "format=parket"], "did you mean 'parquet'"),
        (["ckpt={run}", "out=x", "towers=image"], "no tower of 'image'"),
        (["ckpt={run}", "out=x", "split=dev"], "no split 'dev'"),
        (["ckpt={run}", "out=x", "formt=parquet"], "did you mean 'format'"),
    ],
)
def test_what_cannot_be_done(small_run, capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "export", *(part.format(run=small_run) for part in arguments))
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists()
