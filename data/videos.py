"""Videos as pictures: some of the frames, evenly spaced, side by side on a square sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

FRAMES = (1, 4, 9, 16)
"""Numbers of frames that fill a square sheet; 1 is a picture."""
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".flv", ".gif", ".apng")
"""File name endings of videos; the content decides whether a file is one."""
SEQUENTIAL = 1000
"""Frames of a video up to which it is decoded as a whole; in longer ones, the frames are sought."""
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
    """Evenly spaced files of a folder of frames, in the order of their names; numbers in names need leading zeros.

    Raises:
        ValueError: a folder without pictures.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in endings)
    if not files:
        raise ValueError("a folder without pictures, where frames of a video were expected")
    return [files[number] for number in frame_numbers(len(files), frames)]


def animation_frames(image: Image.Image, frames: int) -> list[Image.Image]:
    """Evenly spaced frames of an animated or multi-page picture."""
    found = []
    for number in frame_numbers(image.n_frames, frames):  # type: ignore[attr-defined]
        image.seek(number)
        found.append(image.copy())
    return found


def video_frames(data: bytes, frames: int, max_pixels: int) -> list[Image.Image]:
    """Evenly spaced frames of a video file, decoded by PyAV, upright.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: a file without frames, or whose frames have too many pixels. PyAV raises other exceptions for
            damaged files.
    """
    import av

    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.video:
            raise ValueError("a file without a video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise ValueError(f"{width}×{height} is more than the {max_pixels:,} pixels allowed")
        packets = [packet.pts for packet in container.demux(stream) if packet.size]
        wanted, times = frame_numbers(len(packets), frames), sorted(time for time in packets if time is not None)
        if len(packets) > SEQUENTIAL and len(times) == len(packets):
            found = [frame_at(container, stream, times[number]) for number in wanted]
        else:
            found = decode_through(container, stream, wanted)
    if not found:
        raise ValueError("a video without frames")
    return [reduced(frame.to_image().rotate(frame.rotation, expand=True)) for frame in found]


def decode_through(container: Any, stream: Any, wanted: Sequence[int]) -> list[Any]:
    """The frames of these numbers, by decoding all; a damaged end has fewer, and the last stands for the rest."""
    container.seek(0)
    found = {number: frame for number, frame in enumerate(container.decode(stream)) if number in wanted}
    return [found[min(number, max(found))] for number in wanted if found]


def frame_at(container: Any, stream: Any, time: int) -> Any:
    """The first frame from a time on, in units of the stream, decoded from the key frame before it."""
    container.seek(time, stream=stream)
    frame = None
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= time:
            break
    if frame is None:
        raise ValueError("a video that cannot be decoded to its end")
    return frame


def reduced(frame: Image.Image) -> Image.Image:
    """A frame whose longer side is at most `MAX_SIDE`."""
    if max(frame.size) > MAX_SIDE:
        frame.thumbnail((MAX_SIDE, MAX_SIDE))
    return frame
