"""Videos as pictures: some of the frames, evenly spaced, side by side on a square sheet."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

FrameNumber = Literal[1, 4, 9, 16]
"""Numbers of frames that fill a square sheet; 1 is a picture."""
VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".flv"),
    *(".gif", ".apng", ".webp", ".tif", ".tiff"),
)
"""File name endings of videos and of animated pictures; the content decides whether a file is one."""
SEQUENTIAL = 1000
"""Frames of a video up to which it is decoded as a whole; in longer ones with key frames as dense, they are sought."""
WORK = 300
"""Pixels that may be decoded for the frames of a video, as a multiple of the limit of a frame."""
MOST = 0.9
"""Share of the frames that must be decoded; some formats have a few packets that are not shown."""
MAX_SIDE = 640
"""Longer side of a frame in pixels; larger frames are reduced."""
CONTAINERS = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "), (0, b"\x00\x00\x01\xba"), (0, b"FLV\x01"))
"""Place and content of the bytes that mark MP4 and MOV, WebM and Matroska, AVI, MPEG and FLV files."""


def is_video(data: bytes) -> bool:
    """Whether bytes start as a video file does. Animated pictures, such as GIF, are not recognized here."""
    return any(data[place : place + len(mark)] == mark for place, mark in CONTAINERS)


def frame_numbers(number: int, frames: int) -> list[int]:
    """Which of ``number`` frames to take: those in the middle of equal parts; short videos repeat some."""
    return [(2 * part + 1) * number // (2 * frames) for part in range(frames)]


def frame_files(folder: str | Path, endings: Sequence[str], frames: int) -> list[Path]:
    """Evenly spaced files of a folder of frames, in the order of their names; numbers in them count as numbers.

    Raises:
        ValueError: a folder without pictures, or with links that lead out of it.
    """
    files = [path for path in Path(folder).iterdir() if path.suffix.lower() in endings]
    if not files:
        raise ValueError("a folder without pictures, where frames of a video were expected")
    place = os.path.realpath(folder)
    if outside := [path.name for path in files if os.path.dirname(os.path.realpath(path)) != place]:
        raise ValueError(f"its file {outside[0]} is a link that leads out of the folder")
    files.sort(key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)])
    return [files[number] for number in frame_numbers(len(files), frames)]


def animation_frames(image: Image.Image, frames: int, max_pixels: int) -> Iterator[Image.Image]:
    """Evenly spaced frames of an animated or multi-page picture.

    Raises:
        ValueError: a frame with too many pixels.
    """
    for number in frame_numbers(getattr(image, "n_frames", 1), frames):
        image.seek(number)
        check_pixels(*image.size, max_pixels)
        yield image.copy()


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width}×{height} is more than the {max_pixels:,} pixels allowed")


def video_frames(data: bytes, frames: int, max_pixels: int) -> Iterator[Image.Image]:
    """Evenly spaced frames of a video file, decoded by PyAV, upright.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: a file without frames or with a damaged end, frames with too many pixels, or too many to decode.
            PyAV raises other exceptions for damaged files.
    """
    import av

    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.video:
            raise ValueError("a file without a video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels)
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise ValueError("a video without frames")
        wanted = frame_numbers(len(packets), frames)
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        dense = sum(packet.is_keyframe for packet in packets) * SEQUENTIAL > len(packets)
        can_seek = len(packets) > SEQUENTIAL and dense and len(times) == len(packets)
        decode = Decoder(container, stream, WORK * max_pixels)
        sought = (frame_at(decode, times[number]) for number in wanted)
        for frame in sought if can_seek else decode_through(decode, wanted):
            check_pixels(frame.width, frame.height, max_pixels)
            yield frame.to_image().rotate(frame.rotation, expand=True)


@dataclass
class Decoder:
    """Decodes the frames of a stream from a time on, until the pixels that are left are used up."""

    container: Any
    stream: Any
    pixels: int

    def __call__(self, time: int | None = None) -> Iterator[Any]:
        """Frames from the key frame before a time, in units of the stream; by default all.

        Raises:
            ValueError: too many pixels.
        """
        self.container.seek(0) if time is None else self.container.seek(time, stream=self.stream)
        for frame in self.container.decode(self.stream):
            self.pixels -= frame.width * frame.height
            if self.pixels < 0:
                raise ValueError(
                    "a video that takes too long to decode: make it smaller or shorter, or raise max_pixels"
                )
            yield frame


def decode_through(decode: Decoder, wanted: Sequence[int]) -> Iterator[Any]:
    """The frames of these numbers, in ascending order, by decoding all."""
    left, last = list(wanted), None
    for number, frame in enumerate(decode()):
        last = frame
        while left and left[0] == number:
            yield frame
            left.pop(0)
        if not left:
            return
    if last is None or number < MOST * left[0]:
        raise ValueError("a video that is damaged: only its beginning can be decoded")
    yield from [last] * len(left)


def frame_at(decode: Decoder, time: int) -> Any:
    """The first frame from a time on, in units of the stream."""
    for frame in decode(time):
        if frame.pts is not None and frame.pts >= time:
            return frame
    raise ValueError("a video that is damaged: only its beginning can be decoded")


def reduced(frame: Image.Image) -> Image.Image:
    """A frame whose longer side is at most `MAX_SIDE`."""
    if max(frame.size) > MAX_SIDE:
        frame.thumbnail((MAX_SIDE, MAX_SIDE))
    return frame
