"""Videos made by code, for tests."""

import io

import av
import numpy as np
from PIL import Image


def make_video(pictures: list[Image.Image], kind: str = "mp4", sound: np.ndarray | None = None) -> bytes:
    """A video file of pictures, ten a second, with mono samples at 16 kHz as its sound, or of that alone."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream("mpeg4", rate=10) if pictures else None
        audio = container.add_stream("aac", rate=16000) if sound is not None else None
        if video is not None:
            (video.width, video.height), video.pix_fmt = pictures[0].size, "yuv420p"
            for picture in pictures:
                container.mux(video.encode(av.VideoFrame.from_image(picture)))
            container.mux(video.encode())
        if audio is not None:
            for start in range(0, len(sound), 1024):
                part = sound[None, start : start + 1024].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return file.getvalue()
