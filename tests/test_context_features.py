"""The context may come from any model: here a sound's features, from an audio encoder of transformers."""

import math

import pytest
import torch
from transformers import ResNetConfig, Wav2Vec2Config, Wav2Vec2Model

from models import ImageTextClassifier, ImageTextConfig

RATE, PITCHES, COLORS = 2000, (100, 400), ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0))


def sound_config() -> ImageTextConfig:
    return ImageTextConfig(
        context_hidden_size=16,
        image_config=ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        num_labels=2,
        image_size=32,
        classifier_hidden_size=32,
        modality_dropout=0.0,
    )


def frames_with_sound(pairs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Red or blue frames with a low or high tone; the label is whether the two belong together (exclusive or)."""
    color, pitch = torch.randint(2, (2, pairs))
    frames = torch.tensor(COLORS)[color][:, :, None, None].expand(-1, -1, 32, 32)
    seconds = torch.arange(RATE // 4) / RATE
    frequency = torch.tensor(PITCHES, dtype=torch.float)[pitch][:, None]
    tones = (2 * math.pi * (frequency * seconds + torch.rand(pairs, 1))).sin()
    return frames + 0.1 * torch.randn(pairs, 3, 32, 32), tones, (color ^ pitch)


def test_a_classifier_of_frames_and_sounds_learns_which_belong_together():
    audio = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(16, 16),
            conv_stride=(4, 4),
            conv_kernel=(16, 8),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
    )
    model = ImageTextClassifier(sound_config())
    optimizer = torch.optim.AdamW([*model.parameters(), *audio.parameters()], lr=1e-3)
    for _ in range(40):
        frames, tones, labels = frames_with_sound(32)
        features = audio(tones).last_hidden_state.transpose(1, 2)
        loss = model(frames, context_features=features, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert audio.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0
    frames, tones, labels = frames_with_sound(64)
    model.eval(), audio.eval()
    with torch.no_grad():
        features = audio(tones).last_hidden_state.transpose(1, 2)
        accuracy = (model(frames, context_features=features).logits.argmax(1) == labels).float().mean()
        assert accuracy > 0.9
        deaf = model(frames).logits.argmax(1)
        assert (deaf == labels).float().mean() < 0.75, "neither the frame nor the sound tells alone"


@pytest.mark.parametrize("shape", [(2, 16, 5), (2, 16, 3, 4), (2, 16, 2, 3, 4)])
def test_features_of_any_shape_have_an_attention_weight_per_position(shape, tmp_path):
    model = ImageTextClassifier(sound_config()).eval()
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)
    images, features = torch.randn(2, 3, 32, 32), torch.randn(shape)
    output = model(images, context_features=features, output_attentions=True)
    assert output.token_weights.shape == (2, 49, math.prod(shape[2:]))
    torch.testing.assert_close(model(images, context_features=features.flatten(2)).logits, output.logits)
    model.save_pretrained(tmp_path)
    loaded = ImageTextClassifier.from_pretrained(tmp_path)
    assert torch.equal(loaded(images, context_features=features).logits, output.logits)


def test_padding_of_features_does_not_change_the_answer():
    model = ImageTextClassifier(sound_config()).eval()
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)
    image, features = torch.randn(1, 3, 32, 32), torch.randn(1, 16, 9)
    mask = torch.arange(9)[None] < 6
    padded = model(image, context_features=features, attention_mask=mask).logits
    torch.testing.assert_close(padded, model(image, context_features=features[..., :6]).logits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": torch.ones(2, 3, dtype=torch.long)}, "takes context_features, not input_ids"),
        ({"context_features": torch.zeros(2, 5, 16)}, r"must be \(batch, 16, …\), got \(2, 5, 16\).*transpose"),
        ({"context_features": torch.zeros(2, 16)}, r"must be \(batch, 16, …\), got \(2, 16\)"),
    ],
)
def test_a_context_of_another_kind_than_the_models_is_refused(given, message):
    model = ImageTextClassifier(sound_config())
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 3, 32, 32), **given)


def test_a_text_model_accepts_the_features_of_its_encoder_instead_of_tokens(model):
    ids, mask = torch.randint(5, 20, (2, 6)), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    features = model.text_encoder(ids, mask).transpose(1, 2)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        model(images, context_features=features, attention_mask=mask).logits, model(images, ids, mask).logits
    )
    with pytest.raises(ValueError, match=r"must be \(batch, 64, …\), got \(2, 16, 4\)"):
        model(images, context_features=torch.zeros(2, 16, 4))
