from __future__ import annotations

import torch
from experiment.small_training import Batchy, fit, retrieval_module
from torch import nn

from mxmclr_plugin.experiment.config.run_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction


def module_of(towers):
    return RetrievalModule(
        towers,
        MultimodalLoss(MultifoldHybridLoss(learnable_temperature=True), list(towers)),
        {"a2b": Direction("a", "b")},
        OptimizerConfig(lr=0.1, weight_decay=0.2),
        EvalConfig(),
    )


def rules(module):
    """Learning rate and weight decay of each parameter, by name; each is there once."""
    optimizer = torch.optim.AdamW(module._parameter_groups(0.1), lr=0.1, weight_decay=0.2)
    names = {p: name for name, p in module.named_parameters()}
    found = [
        (names[p], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_each_backbone_has_its_rate_and_weight_decay_keeps_its_rules():
    towers = {"a": Tower(Batchy(), 4, lr_scale=0.5), "b": Tower(Batchy(), 4)}
    module = module_of(towers)
    found = rules(module)
    assert set(found) == {name for name, p in module.named_parameters() if p.requires_grad}
    for name, (lr, decay) in found.items():
        assert lr == (0.05 if name.startswith("towers.a.backbone") else 0.1), name
        normalises = ".body.1." in name or "head.1." in name
        kept = normalises or name.endswith("bias")
        assert decay == (0.0 if kept else 0.2), name


def test_a_frozen_backbone_is_no_business_of_the_optimizer_unless_it_is_unfrozen_later():
    for options, expected in (({}, 0), ({"unfreeze_at": 3}, 6)):
        towers = {"a": Tower(Batchy(), 4, frozen=True, **options), "b": Tower(Batchy(), 4)}
        found = rules(module_of(towers))
        assert len([name for name in found if name.startswith("towers.a.backbone")]) == expected


def test_a_tower_of_two_modalities_is_optimized_and_saved_once(tmp_path):
    shared = Tower(Batchy(), 4, lr_scale=0.5)
    module = module_of({"a": shared, "b": shared})
    own = module_of({"a": Tower(Batchy(), 4), "b": Tower(Batchy(), 4)})
    assert len(rules(own)) - len(rules(module)) == len(list(shared.parameters()))
    fit(module, tmp_path, 3)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    a, b = (state[f"towers.{name}.backbone.body.0.weight"] for name in "ab")
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    other = module_of({"a": (again := Tower(Batchy(), 4)), "b": again})
    other.load_state_dict(state)
    assert torch.equal(again.backbone.body[0].weight, shared.backbone.body[0].weight)


def test_the_schedule_scales_every_rate_alike(tmp_path):
    module = retrieval_module(lr=0.1, lr_scale=0.01)
    trainer, _ = fit(module, tmp_path, 5)
    rates = sorted({group["lr"] for group in trainer.optimizers[0].param_groups})
    assert len(rates) == 2
    torch.testing.assert_close(rates[0], rates[1] * 0.01)


def test_pretrained_models_are_put_in_training_mode():
    backbone = Batchy().eval()
    module = module_of({"a": Tower(backbone, 4), "b": Tower(Batchy().eval(), 4, frozen=True)})
    assert all(part.training for part in backbone.modules())
    assert not any(part.training for part in module.towers["b"].backbone.modules())
    assert isinstance(backbone.body[2], nn.Dropout)
