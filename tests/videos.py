"""Videos made by code, for tests."""

import io

import av
import numpy as np
from PIL import Image


def make_video(pictures: list[Image.Image], kind: str = "mp4", sound: np.ndarray | None = None) -> bytes:
    """A video file of pictures, ten a second, with a sound ``([channels], n)`` at 16 kHz, or that alone."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream("mpeg4", rate=10) if pictures else None
        channels = np.atleast_2d(np.zeros(0) if sound is None else sound).astype(np.float32)
        layout = "mono" if len(channels) == 1 else "stereo"
        audio = None if sound is None else container.add_stream("aac", rate=16000, layout=layout)
        if video is not None:
            (video.width, video.height), video.pix_fmt = pictures[0].size, "yuv420p"
            video.codec_context.gop_size = 25  # frames from one key frame to the next, also where the picture changes
            video.codec_context.options = {"sc_threshold": "1000000000"}
            for picture in pictures:
                container.mux(video.encode(av.VideoFrame.from_image(picture)))
            container.mux(video.encode())
        if audio is not None:
            for start in range(0, channels.shape[1], 1024):
                part = np.ascontiguousarray(channels[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
                frame.sample_rate, frame.pts = 16000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return file.getvalue()
