"""Open sounds for decoding: sound files by libsndfile, and the sound of videos by PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile

from data.errors import UserError
from data.videos import is_video

RATES = (1_000, 192_000)
"""Lowest and highest rate of samples, in Hz."""
LONGEST = 24 * 3600
"""Longest sound, in seconds: a header that claims more is damaged."""
PART = 2**16
"""Samples that are decoded at a time."""


@dataclass
class Soundtrack:
    """An open sound.

    Attributes:
        rate: samples a second, in Hz.
        seconds: length according to the header.
        parts: mono samples ``(n,)`` float32, the mean of the channels, decoded when they are asked for.
    """

    rate: int
    seconds: float
    parts: Iterator[np.ndarray]

    def read(self, seconds: float | None = None) -> np.ndarray:
        """All samples, or those of the first ``seconds`` and one more."""
        most = None if seconds is None else int(seconds * self.rate) + 1
        found, number = [np.zeros(0, np.float32)], 0
        for part in self.parts:
            found.append(part)
            number += len(part)
            if most is not None and number >= most:
                break
        return np.concatenate(found)[:most]


@contextmanager
def open_soundtrack(data: bytes) -> Iterator[Soundtrack]:
    """Open a sound file, or the first sound of a video.

    Raises:
        UserError: a video without sound, or PyAV is not installed.
        ValueError: a rate or a length that no sound has, or a file that PyAV cannot read.
        soundfile.SoundFileError: a file that libsndfile cannot read.
    """
    with open_video_sound(data) if is_video(data) else open_sound_file(data) as track:
        if not RATES[0] <= track.rate <= RATES[1] or track.seconds > LONGEST:
            raise ValueError(f"a file of {track.seconds:,.0f} s at {track.rate:,} Hz, which is no sound")
        yield track


@contextmanager
def open_sound_file(data: bytes) -> Iterator[Soundtrack]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        size = max(1, PART // file.channels)
        parts = (part.mean(axis=1) for part in file.blocks(size, dtype="float32", always_2d=True))
        yield Soundtrack(file.samplerate, file.frames / file.samplerate, parts)


@contextmanager
def open_video_sound(data: bytes) -> Iterator[Soundtrack]:
    try:
        import av
    except ImportError as error:
        raise UserError("the sound of a video, which needs: pip install av") from error

    def parts() -> Iterator[np.ndarray]:
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=stream.rate)
        for frame in container.decode(stream):
            yield from (planar.to_ndarray().mean(axis=0) for planar in resampler.resample(frame))
        yield from (planar.to_ndarray().mean(axis=0) for planar in resampler.resample(None))

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            if not container.streams.audio:
                raise UserError("a video without sound")
            stream = container.streams.audio[0]
            seconds = (container.duration or 0) / av.time_base
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            yield Soundtrack(stream.rate, seconds, parts())
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
