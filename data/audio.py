"""Sound files as a context: decoded with libsndfile, mixed to mono, resampled, and cut or padded to one length."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from data.cells import is_blank
from data.errors import UserError
from data.image_cells import resolve_path
from data.image_files import read_image
from data.messages import quote
from data.soundtrack import RATES, open_soundtrack

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin

StoredSound = str | bytes | tuple[np.ndarray, int]
"""The path or the bytes of a sound file, or samples with their rate in Hz."""
CHECKED_RATE = 16_000
"""Rate in Hz at which sounds are decoded to find faulty ones."""
FINEST = 1000
"""Largest denominator of the ratio of two rates, whose filter has 20 times as many values."""
SHORTEST = 0.05
"""Seconds to which shorter sounds are padded, more than the window of a spectrogram."""
EXPECTED = "a sound is the path or the bytes of a WAV, FLAC, OGG or MP3 file or of a video, or samples with their rate"


def resolve_sound(cell: Any, root: Path | None, confined: bool) -> StoredSound | None:
    """Resolve a cell with a sound.

    Args:
        cell: a path, bytes, the ``{"bytes", "path"}`` or ``{"array", "sampling_rate"}`` of `datasets`, a pair
            ``(samples, rate)`` with samples ``(N,)`` or ``(channels, N)``, or a missing value.
        root: folder of relative paths; the current folder if ``None``.
        confined: only accept paths inside ``root``.

    Raises:
        UserError: another type, or a path outside ``root``.
    """
    if isinstance(cell, dict):
        if cell.get("array") is not None:
            cell = cell["array"], cell.get("sampling_rate")
        else:
            cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, tuple) and len(cell) == 2:
        return samples_of(*cell)
    if is_blank(cell) or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell) if len(cell) else None
    if isinstance(cell, str | Path):
        return resolve_path(str(cell), root or Path(), confined)
    raise UserError(f"{quote(cell)}; {EXPECTED}")


def samples_of(samples: Any, rate: Any) -> tuple[np.ndarray, int]:
    """Samples as mono float32 ``(N,)``, and their rate.

    Raises:
        UserError: samples of another shape or type, or a rate outside `RATES`.
    """
    if not isinstance(rate, int | np.integer) or not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"samples with the rate {quote(rate)}; a rate is a whole number of Hz, such as 16000")
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise UserError(
            f"samples of the type {array.dtype} and the shape {array.shape}; expected (N,) or (channels, N)"
        )
    if array.dtype.kind == "i":
        array = array / (np.iinfo(array.dtype).max + 1)
    elif array.dtype.kind == "u":  # silence is in the middle
        array = array / ((np.iinfo(array.dtype).max + 1) / 2) - 1
    array = array if array.ndim == 1 else array.mean(axis=0 if array.shape[0] <= array.shape[1] else 1)
    return check_samples(array.astype(np.float32)), int(rate)


def check_samples(samples: np.ndarray) -> np.ndarray:
    """Refuse sounds of zero length, and values that are not finite."""
    if not len(samples):
        raise UserError("a sound of zero length")
    if not np.isfinite(samples).all():
        raise UserError("a sound with NaN or infinite samples")
    return samples


def sound_bytes(stored: StoredSound) -> bytes:
    """The content of a sound, for its key."""
    if isinstance(stored, tuple):
        return stored[0].tobytes() + str(stored[1]).encode()
    return read_image(stored)  # any regular file


def decode_sound(stored: StoredSound, rate: int, seconds: float | None = None) -> np.ndarray:
    """Decode a sound.

    Args:
        rate: of the result, in Hz; other rates are resampled by a polyphase filter.
        seconds: read no more than this from the beginning.

    Returns:
        mono samples ``(N,)`` float32, the mean of the channels.

    Raises:
        UserError: a file that cannot be decoded, without samples, or with samples that are not finite.
    """
    if isinstance(stored, tuple):
        samples, own = stored
    else:
        with explain_sound_errors(), open_soundtrack(sound_bytes(stored)) as track:
            samples, own = track.read(seconds), track.rate
    if seconds is not None:
        samples = samples[: int(seconds * own) + 1]
    samples = check_samples(samples)
    if own == rate:
        return samples
    from scipy.signal import resample_poly  # slow to import, and most models hear nothing

    ratio = Fraction(rate, own).limit_denominator(FINEST)
    return resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def check_sound(stored: StoredSound) -> None:
    """Decode a whole sound, a part at a time, to find a faulty one.

    Raises:
        UserError: as `decode_sound`.
    """
    if isinstance(stored, tuple):
        check_samples(stored[0])
        return
    with explain_sound_errors(), open_soundtrack(sound_bytes(stored)) as track:
        if not sum(len(check_samples(part)) for part in track.parts):
            check_samples(np.zeros(0))


def pad_to_shortest(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples with zeros after those of a sound shorter than `SHORTEST`."""
    return np.pad(samples, (0, max(0, round(rate * SHORTEST) - len(samples))))


@contextmanager
def explain_sound_errors() -> Iterator[None]:
    """Turn errors of libsndfile and of PyAV into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise UserError(f"a file that is no sound: {error}; {EXPECTED}") from error


def sound_seconds(stored: StoredSound) -> float:
    """The length of a sound that `decode_sound` reads, in seconds, from the header of its file."""
    if isinstance(stored, tuple):
        return len(stored[0]) / stored[1]
    with open_soundtrack(sound_bytes(stored)) as track:
        return track.seconds


def collate_sounds(spec: Mapping[str, Any], sounds: Sequence[StoredSound], rows: Sequence[int]) -> dict[str, Tensor]:
    """Inputs of the audio encoder for K sounds, all cut or padded with zeros to the same length.

    Args:
        spec: an entry of the model's ``contexts``, with its ``extractor`` and the ``seconds`` that it takes.
        rows: a row that has each sound, for messages.

    Returns:
        ``values`` ``(K, …)`` as the encoder takes them, and ``filled`` ``(K,)``, the share that is no padding.

    Raises:
        UserError: a sound that cannot be decoded; names the row.
    """
    extractor = extractor_of(spec)
    rate, seconds = extractor.sampling_rate, spec["seconds"]
    decoded = []
    for sound, row in zip(sounds, rows, strict=True):
        try:
            decoded.append(decode_sound(sound, rate, seconds)[: round(rate * seconds)])
        except UserError as error:
            raise UserError(f"The context {spec['name']} of row {row} is {error}.") from error
    padded = [pad_to_shortest(samples, rate) for samples in decoded]
    length = {"padding": "max_length", "max_length": round(rate * seconds), "truncation": True}
    with torch.autocast("cpu", enabled=False):  # spectrograms need float32
        inputs = extractor(padded, sampling_rate=rate, return_tensors="pt", **length)
    values = next(inputs[name] for name in extractor.model_input_names if name != "attention_mask")
    filled = torch.tensor([len(samples) / (rate * seconds) for samples in decoded])
    return {"values": values, "filled": filled}


def extractor_of(spec: Mapping[str, Any]) -> FeatureExtractionMixin:
    """The feature extractor that an entry of the model's ``contexts`` holds."""
    return load_extractor(json.dumps(spec["extractor"], sort_keys=True))


@lru_cache
def load_extractor(extractor: str) -> FeatureExtractionMixin:
    """A feature extractor from JSON."""
    from transformers.models.auto.feature_extraction_auto import feature_extractor_class_from_name  # slow to import

    values = json.loads(extractor)
    return feature_extractor_class_from_name(values["feature_extractor_type"]).from_dict(values)


def describe_cut(name: str, lengths: Sequence[float], seconds: float) -> str:
    """How long the sounds of the training rows are, and how many are cut, in a line."""
    cut = sum(length > seconds for length in lengths)
    return (
        f"context {name}: sounds of {min(lengths):.1f} to {max(lengths):.1f} s; {cut:,} of {len(lengths):,} "
        f"({cut / len(lengths):.1%}) are cut at {seconds:g} s, in training the length --model.audio_seconds"
    )
