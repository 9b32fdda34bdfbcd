"""Encoders of sound: a pretrained transformers model, or a small Whisper encoder trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from data.errors import UserError
from models.hub_errors import explain_hub_errors, fetch_weights
from models.settings import EncoderSettings
from models.weight_check import RESAVE, check_weights, load_pretrained, needed_names

SCRATCH = "scratch"
"""Name of the small encoder with random weights."""
WIDTH, LAYERS, MELS = 128, 2, 80
"""Width, layers and mel bands of the small encoder."""
EPSILON = 1e-5
"""Added to the standard deviation of a spectrogram."""
TOKENS_A_SECOND = 50
"""Tokens of a Whisper encoder (Radford et al. 2022): a frame each 10 ms, two frames a token."""
WITHOUT_TIME = ("audio-spectrogram-transformer",)
"""Types whose tokens are patches of the spectrogram, in an order that is not that of time."""
INSTEAD = ", or train a small audio encoder from scratch (--model.audio_encoder scratch)"
"""Suggestion when a pretrained encoder cannot be loaded."""
PART = "the audio encoder"


class AudioTokens(nn.Module):
    """Tokens of sounds from a transformers audio encoder.

    Args:
        spec: an entry of ``config.contexts``: the ``config`` of the encoder and the ``extractor`` that prepares its
            inputs, both as dictionaries, the ``seconds`` that it takes, and whether each spectrogram is standardized
            first (``standardizes``): its quiet background is the same in all sounds, and drowns the rest.

    Shape:
        - values: ``(K, …)``, as the encoder takes them; filled: ``(K,)``, the share of each sound that is no padding
        - returns: tokens ``(K, L, hidden_size)``, and the mask of tokens before the padding ``(K, L)``
    """

    def __init__(self, spec: dict[str, Any]):
        super().__init__()
        config = encoder_config(spec["config"])
        self.encoder = encoder_of(build_whole(config))
        self.standardizes = spec.get("standardizes", False)
        self.has_time = config.model_type not in WITHOUT_TIME
        self.hidden_size = int(config.hidden_size)

    def forward(self, values: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        if self.standardizes:
            values = (values - values.mean((1, 2), keepdim=True)) / (values.std((1, 2), keepdim=True) + EPSILON)
        tokens = self.encoder(values.to(next(self.encoder.parameters()).dtype)).last_hidden_state
        number = tokens.shape[1]
        if not self.has_time:
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        places = torch.arange(number, device=tokens.device)
        return tokens, places < (filled[:, None] * number).ceil().clamp(min=1)

    def load_pretrained(self, name: str) -> None:
        """Load the pretrained weights of a Hub id or local folder (safetensors only).

        Raises:
            UserError: weights that cannot be read, or that do not cover the encoder.
        """
        config = self.encoder.config
        found, info = load_pretrained(
            MODEL_MAPPING[type(config)], name, config, part=PART, instead=INSTEAD, prefix="contexts.audio."
        )
        encoder = encoder_of(found)
        own = {*encoder.parameters(), *encoder.buffers()}
        names = {key for key, tensor in found.state_dict(keep_vars=True).items() if tensor in own}
        check_weights(name, PART, needed_names(found) & names, info, RESAVE)
        self.encoder.load_state_dict(encoder.float().state_dict())


def audio_encoder(settings: EncoderSettings) -> dict[str, Any]:
    """The fields of an entry of ``contexts`` that define the encoder of a sound.

    Raises:
        UserError: an encoder that cannot be loaded, or that is no encoder of sound.
    """
    name, seconds = settings.audio_encoder, settings.audio_seconds
    if name == SCRATCH:
        config = scratch_config(seconds)
        extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=seconds)
        built = {"config": config.to_dict(), "extractor": extractor.to_dict(), "seconds": seconds}
        return built | {"standardizes": True}
    with explain_hub_errors(name, PART, INSTEAD):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    if type(config) not in MODEL_MAPPING or not hasattr(extractor, "sampling_rate"):
        raise UserError(f"{name} is no encoder of sound: transformers knows it as {config.model_type!r}.")
    return {
        "config": config.to_dict(),
        "extractor": extractor.to_dict(),
        "seconds": fixed_seconds(extractor) or seconds,
    }


def scratch_config(seconds: int) -> WhisperConfig:
    """A small Whisper whose decoder, which is not used, is as small as can be."""
    unused: dict[str, Any] = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 4, "vocab_size": 8}
    unused |= {"max_target_positions": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    unused |= {"decoder_start_token_id": 1, "begin_suppress_tokens": None}
    return WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=WIDTH // 64,
        encoder_ffn_dim=4 * WIDTH,
        num_mel_bins=MELS,
        max_source_positions=seconds * TOKENS_A_SECOND,
        init_std=WIDTH**-0.5,  # the default, 0.02, is for large models: here the encoding of time drowned the sound
        **unused,
    )


def fixed_seconds(extractor: Any) -> float | None:
    """The length that an extractor gives every sound, in seconds; ``None`` if it has no length of its own."""
    if chunk := getattr(extractor, "chunk_length", None):  # Whisper
        return chunk
    if hasattr(extractor, "num_mel_bins") and (frames := getattr(extractor, "max_length", None)):  # AST: 10 ms each
        return frames / 100
    return None


def fetch_audio_encoder(name: str) -> None:
    """Download the configuration, extractor and weights of a Hub id, unless they are in the cache already.

    Raises:
        UserError: one of them cannot be loaded.
    """
    audio_encoder(EncoderSettings(audio_encoder=name))
    fetch_weights(name, None, PART, INSTEAD)


def encoder_config(values: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that an entry of ``contexts`` holds."""
    rest = {name: value for name, value in values.items() if name != "model_type"}
    return AutoConfig.for_model(values["model_type"], **rest)


def build_whole(config: PreTrainedConfig) -> PreTrainedModel:
    return MODEL_MAPPING[type(config)](config)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a model with a decoder; otherwise the model."""
    return model.get_encoder() if model.config.is_encoder_decoder else model
