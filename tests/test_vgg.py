"""VGG16 with cross-attention at one level or several."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from models import MultiLevelCrossAttentionVGG, VGG16Encoder, VGG16WithCrossAttention
from models.attention_kinds import KINDS
from models.image_weights import load_image_weights


def awake(vgg: VGG16WithCrossAttention) -> VGG16WithCrossAttention:
    """Make the output of the branch differ from zero, as training does."""
    torch.nn.init.normal_(vgg.cross_attention.attention.out_proj.weight, std=0.1)
    return vgg.eval()


@pytest.fixture(scope="module")
def small() -> VGG16WithCrossAttention:
    torch.manual_seed(0)
    return awake(VGG16WithCrossAttention(5, hidden_size=32))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_starts_as_torchvisions_vgg16_with_and_without_context(batch_norm):
    build = torchvision.models.vgg16_bn if batch_norm else torchvision.models.vgg16
    theirs = build(weights=None, init_weights=False).eval()
    ours = VGG16WithCrossAttention(batch_norm=batch_norm).eval()
    ours.features.load_state_dict(theirs.features.state_dict())
    ours.classifier.load_state_dict(theirs.classifier.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(x, torch.randn(2, 512, 7, 7)), theirs(x))


def test_cross_attention_adds_at_most_1_06_million_parameters():
    vgg = VGG16WithCrossAttention()
    total = sum(p.numel() for p in vgg.parameters())
    plain = sum(p.numel() for p in torchvision.models.vgg16(weights=None).parameters())
    assert 0 < total - plain <= 1_060_000


def test_the_map_becomes_49_tokens_of_512_not_one_of_25088(small):
    _, weights = small.fuse(torch.randn(2, 512, 7, 7), torch.randn(2, 512, 7, 7), output_attentions=True)
    assert weights.shape == (2, 8, 49, 49)


def test_attention_weights_differ_by_position_and_by_input(small):
    maps = torch.randn(2, 512, 7, 7)
    _, weights = small.fuse(maps, torch.randn(2, 512, 7, 7), output_attentions=True)
    assert weights.std(dim=-1).min() > 1e-4, "a softmax over one entry would be 1 everywhere"
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[0, :, 0], weights[0, :, 1])


def test_changing_the_context_changes_the_logits(small):
    x = torch.randn(1, 3, 32, 32)
    one, other = torch.randn(2, 1, 512, 7, 7)
    assert not torch.allclose(small(x, one), small(x, other), atol=1e-4)
    assert not torch.allclose(small(x, one), small(x), atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (14, 14), (20, 2)])
def test_a_context_of_any_size_is_averaged_to_seven_by_seven(small, size):
    x, context = torch.randn(1, 3, 32, 32), torch.randn(1, 512, *size)
    pooled = torch.nn.functional.adaptive_avg_pool2d(context, 7)
    torch.testing.assert_close(small(x, context), small(x, pooled))


def test_every_parameter_gets_a_gradient():
    vgg = awake(VGG16WithCrossAttention(5, hidden_size=32)).train()
    vgg(torch.randn(2, 3, 32, 32), torch.randn(2, 512, 7, 7)).square().sum().backward()
    silent = [n for n, p in vgg.named_parameters() if p.grad is None or (p.grad == 0).all()]
    # A bias on the keys moves all scores of a query alike, which the softmax takes away again.
    assert set(silent) <= {"cross_attention.attention.k_proj.bias"}


def test_before_training_the_branch_can_learn_though_its_output_is_zero():
    vgg = VGG16WithCrossAttention(5, hidden_size=32)
    vgg(torch.randn(2, 3, 32, 32), torch.randn(2, 512, 7, 7)).square().sum().backward()
    assert vgg.cross_attention.attention.out_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("x", "context", "message"),
    [
        (torch.zeros(1, 1, 32, 32), None, r"\(batch, 3, height, width\).*got \(1, 1, 32, 32\)"),
        (torch.zeros(1, 3, 16, 16), None, "at least 32"),
        (torch.zeros(1, 3, 32, 32), torch.zeros(1, 256, 7, 7), r"\(batch, 512, h, w\), got \(1, 256, 7, 7\)"),
    ],
)
def test_wrong_shapes_are_named(small, x, context, message):
    with pytest.raises(ValueError, match=message):
        small(x, context)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_from_a_file_in_torchvisions_layout(tmp_path, suffix):
    state = torchvision.models.vgg16(weights=None).features.state_dict(prefix="features.")
    state["classifier.0.weight"] = torch.zeros(1)
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = VGG16Encoder()
    load_image_weights(encoder, str(path), batch_norm=False)
    assert all(torch.equal(value, state[f"features.{key}"]) for key, value in encoder.features.state_dict().items())


def test_weights_of_another_network_are_refused_with_the_likely_reason(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match=r"vgg16_bn.*missing.*batch_norm true"):
        load_image_weights(VGG16Encoder(batch_norm=True), str(path), batch_norm=True)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"features": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(ValueError, match="no weights that can be read safely"):
        load_image_weights(VGG16Encoder(), str(path), batch_norm=False)


def test_imagenet_weights_without_network_are_an_error_that_names_remedies(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.VGG16_Weights.IMAGENET1K_V1.__class__, "get_state_dict", fail)
    with pytest.raises(ValueError, match=r"no route to host.*--model.image_weights FILE.*--model.image_weights none"):
        load_image_weights(VGG16Encoder(), "imagenet", batch_norm=False)


@pytest.fixture(scope="module")
def torchvision_vgg16() -> torchvision.models.VGG:
    return torchvision.models.vgg16(weights=None, init_weights=False).eval()


@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (3, 4), (2,), (5,)])
def test_attention_at_any_levels_starts_as_torchvisions_vgg16(levels, torchvision_vgg16):
    theirs = torchvision_vgg16
    ours = MultiLevelCrossAttentionVGG(levels=levels, hidden_size=8).eval()
    ours.features.load_state_dict(theirs.features.state_dict())
    ours.classifier = theirs.classifier
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(x, torch.randn(2, 512, 5, 9)), theirs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_reads_the_context_and_every_parameter_learns(kind):
    torch.manual_seed(0)
    vgg = MultiLevelCrossAttentionVGG(5, levels=(2, 3, 4, 5), kind=kind, hidden_size=32).train()
    for level in vgg.cross_attentions.values():
        torch.nn.init.normal_(level.attention.out_proj.weight, std=0.1)
    x, context = torch.randn(2, 3, 64, 64), torch.randn(2, 512, 7, 7)
    logits, attentions = vgg.attend(x, context, output_attentions=True)
    assert [weights.shape for weights in attentions] == [(2, 8, n, 49) for n in (256, 64, 16, 49)]
    logits.square().sum().backward()
    assert [name for name, p in vgg.named_parameters() if p.grad is None] == []
    vgg.eval()
    before = vgg(x, context)
    for level in vgg.cross_attentions.values():
        hook = level.register_forward_pre_hook(lambda module, inputs: (inputs[0], -inputs[1], *inputs[2:]))
        assert not torch.allclose(vgg(x, context), before, atol=1e-4)
        hook.remove()


@pytest.mark.parametrize("levels", [(), (1,), (6,), (3, 3)])
def test_invalid_levels_are_refused(levels):
    with pytest.raises(ValueError, match="2, 3, 4 and 5, each once"):
        MultiLevelCrossAttentionVGG(levels=levels)
