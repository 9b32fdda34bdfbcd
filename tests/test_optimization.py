"""The optimizer: parameter groups, learning rates and schedules."""

import math

import pytest
import torch

from app.settings import TrainSettings
from app.training.optimizer import build_optimizer, parameter_groups
from app.training.schedule import build_schedule

ONE = {"image_encoder": 1.0, "text_encoder": 1.0, "fusion": 1.0, "classifier": 1.0, "probe": 1.0}


def test_every_parameter_is_in_exactly_one_group(model):
    groups = parameter_groups(model, 1e-3, ONE, 0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_norms_biases_and_single_vectors_have_no_weight_decay(model):
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, 1e-3, ONE, 0.1) for p in g["params"]}
    for name, parameter in model.named_parameters():
        vector = name in ("no_text", "no_image", "classifier.gate.weight")
        if vector or parameter.ndim == 1 or name.endswith("bias") or "norm" in name.lower():
            assert decay[id(parameter)] == 0.0, name
        else:
            assert decay[id(parameter)] == 0.1, name


def test_parts_learn_at_their_own_rate_and_a_scale_of_zero_freezes(model):
    groups = parameter_groups(model, 1e-3, ONE | {"fusion": 10.0, "text_encoder": 0.0}, 0.1)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["fusion"] == pytest.approx(1e-2)
    assert rates["image_encoder"] == pytest.approx(1e-3)
    assert "text_encoder" not in rates
    assert not any(p.requires_grad for p in model.text_encoder.parameters())
    assert all(p.requires_grad for p in model.image_encoder.parameters())


def test_freezing_everything_is_refused(model):
    with pytest.raises(ValueError, match="Every part is frozen"):
        parameter_groups(model, 1e-3, dict.fromkeys(ONE, 0.0), 0.1)


def test_muon_leaves_embeddings_tokens_and_the_layers_of_the_classes_to_adamw(model):
    """Muon keeps one moment of a weight, AdamW two. It leaves very small matrices to AdamW, too."""
    optimizer = build_optimizer("muon", parameter_groups(model, 1e-3, ONE, 0.1), model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    by_muon = {name for name, p in model.named_parameters() if "momentum_buffer" in optimizer.state[p]}
    assert {name for name, p in model.named_parameters() if "exp_avg_sq" in optimizer.state[p]}.isdisjoint(by_muon)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert "image_encoder.features.0.weight" in by_muon
    assert any(name.endswith("q_proj.weight") for name in by_muon)
    assert not any("embeddings" in name or name.startswith("no_") or "norm" in name.lower() for name in by_muon)
    left = {id(p) for group in optimizer.param_groups if group["use_fallback"] for p in group["params"]}
    assert id(model.classifier.output.weight) in left
    assert "classifier.gate.weight" not in by_muon
    assert "classifier.hidden.weight" in by_muon


def test_muon_makes_all_directions_of_a_weight_equally_long(model):
    """The singular values of a convolution's update differ by less than a factor of two, whatever its gradient's."""
    weight = model.image_encoder.features[0].weight
    before = weight.detach().clone()
    optimizer = build_optimizer("muon", parameter_groups(model, 1e-3, ONE, 0.0), model)
    scales = torch.logspace(0, -2, len(weight))[:, None, None, None]
    weight.grad = scales * torch.randn_like(weight)
    optimizer.step()
    lengths = torch.linalg.svdvals((weight.detach() - before).flatten(1))
    assert lengths.max() < 2 * lengths.min()


def test_muon_refuses_shards_of_matrices(model):
    with pytest.raises(ValueError, match="use adamw with FSDP"):
        build_optimizer("muon", parameter_groups(model, 1e-3, ONE, 0.1), model, sharded=True)


def rates(kind: str, steps: int = 100, warmup: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = TrainSettings(schedule=kind, epochs=steps // 10, warmup=warmup, step_epochs=5, step_gamma=0.1)
    schedule = build_schedule(optimizer, options, steps_per_epoch=10)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", ["cosine", "step", "constant"])
def test_the_rate_rises_linearly_to_its_highest(kind):
    assert rates(kind)[:10] == pytest.approx([i / 10 for i in range(1, 11)])


def test_cosine_ends_near_zero_by_way_of_the_half():
    found = rates("cosine")
    assert found[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)), abs=0.02)
    assert found[-1] < 0.001


def test_step_falls_tenfold_every_five_epochs():
    found = rates("step", warmup=0.0)
    assert found[0] == found[49] == pytest.approx(1.0)
    assert found[50] == found[99] == pytest.approx(0.1)
