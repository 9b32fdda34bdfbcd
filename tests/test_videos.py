"""Videos: evenly spaced frames on a sheet, and attention over time that pools their maps."""

import builtins
import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from videos import make_video

from data.contact_sheet import cut_sheet
from data.image_formats import BadImageError
from data.images import check_and_measure, count_pixels, decode_image
from data.shape_contexts import TONES, make_clips
from data.shapes import CELL, COLORS, PLACES
from data.videos import MAX_SIDE, FrameNumber, frame_numbers
from models.video import FramePooling, cut_sheets, join_sheets

SIZE = (48, 32)
"""Width and height of the frames."""


def frames(number: int) -> list[Image.Image]:
    """Frames that become lighter with time."""
    return [Image.new("RGB", SIZE, (place * 20, place * 20, place * 20)) for place in range(number)]


def animated(pictures: list[Image.Image], kind: str = "GIF") -> bytes:
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


def greys(sheet: Image.Image, number: int) -> list[int]:
    """The numbers of the frames on a sheet, from their grey."""
    return [round(np.asarray(frame)[..., 0].mean() / 20) for frame in cut_sheet(sheet, number)]


def as_folder(pictures: list[Image.Image], folder: Path) -> Path:
    folder.mkdir()
    for place, picture in enumerate(pictures):
        picture.save(folder / f"{place:03}.png")
    return folder


def linked(folder: Path) -> Path:
    """A folder of frames, one of which is a link to a picture outside."""
    as_folder(frames(3), folder)
    Image.new("RGB", SIZE).save(folder.parent / "outside.png")
    (folder / "9.png").symlink_to(folder.parent / "outside.png")
    return folder


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "mp4", "avi", "matroska", "folder"])
def test_evenly_spaced_frames_come_in_their_order(kind, tmp_path):
    pictures = frames(12)
    if kind == "folder":
        video = as_folder(pictures, tmp_path / "clip")
    else:
        video = animated(pictures, kind) if kind.isupper() else make_video(pictures, kind)
    sheet = decode_image(video, frames=4)
    assert sheet.size == (2 * SIZE[0], 2 * SIZE[1])
    assert greys(sheet, 4) == [1, 4, 7, 10]


@pytest.mark.parametrize("kind", ["mp4", "avi", "matroska"])
def test_frames_of_a_long_video_are_sought(kind, monkeypatch):
    video = make_video(frames(12) * 5, kind)
    whole = decode_image(video, frames=9)
    monkeypatch.setattr("data.videos.SEQUENTIAL", 40)
    monkeypatch.setattr("data.videos.decode_through", None)
    assert decode_image(video, frames=9).tobytes() == whole.tobytes()


@pytest.mark.parametrize("longest", [20, 1000], ids=["sought", "decoded as a whole"])
def test_decoding_a_video_is_limited_whatever_its_frames_are(longest, monkeypatch):
    video, pixels = make_video(frames(12) * 5), SIZE[0] * SIZE[1]
    monkeypatch.setattr("data.videos.SEQUENTIAL", longest)
    monkeypatch.setattr("data.videos.WORK", 60)
    assert decode_image(video, frames=4, max_pixels=pixels)
    monkeypatch.setattr("data.videos.WORK", 20)
    with pytest.raises(BadImageError, match="takes too long to decode"):
        decode_image(video, frames=4, max_pixels=pixels)


def test_a_short_video_repeats_frames_in_order():
    assert greys(decode_image(animated(frames(2)), frames=4), 4) == [0, 0, 1, 1]


@given(number=st.integers(1, 500), wanted=st.sampled_from(get_args(FrameNumber)))
def test_frames_are_spread_over_the_whole_video(number, wanted):
    chosen = frame_numbers(number, wanted)
    assert chosen == sorted(chosen)
    assert len(chosen) == wanted
    assert 0 <= chosen[0] <= number / wanted
    assert number - 1 - number / wanted <= chosen[-1] < number


def test_frames_are_sorted_by_their_numbers(tmp_path):
    for number, picture in enumerate(frames(12), start=1):
        picture.save(tmp_path / f"{number}.png")
    assert greys(decode_image(tmp_path, frames=4), 4) == [1, 4, 7, 10]


def test_an_animation_of_one_frame_repeats_it():
    assert greys(decode_image(animated(frames(4)[3:]), frames=4), 4) == [3] * 4


def test_every_page_counts_for_the_limit_of_pixels():
    pages = animated([Image.new("RGB", (8, 8)), Image.new("RGB", (300, 300))], "TIFF")
    with pytest.raises(BadImageError, match="300×300 is more than"):
        decode_image(pages, 1000, frames=4)


def test_a_picture_is_taken_for_a_sheet():
    sheet = decode_image(animated(frames(12)), frames=9)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    assert decode_image(file.getvalue(), frames=9).tobytes() == sheet.tobytes()


def test_large_frames_are_reduced():
    sheet = decode_image(animated([Image.new("RGB", (1600, 800), name) for name in ("red", "blue")]), frames=4)
    assert sheet.size == (2 * MAX_SIDE, MAX_SIDE)
    assert count_pixels(animated(frames(2)), 4) >= sheet.width * sheet.height


def test_frames_of_sixteen_bits_are_measured_together(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for place, value in enumerate((100, 3000)):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(folder / f"{place}.png")
    parts = [path.read_bytes() for path in sorted(folder.iterdir()) for _ in range(2)]
    _, stats = check_and_measure(parts, frames=4)
    assert stats == (0, 100, 3000, True)
    grey = np.asarray(decode_image(folder, frames=4, value_range=[100, 3000]))
    assert (grey[0, 0, 0], grey[-1, -1, 0]) == (0, 255)
    grey = np.asarray(decode_image(folder, frames=4))
    assert grey[0, 0, 0] < grey[-1, -1, 0] / 20, "one range for all frames"


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (lambda folder: make_video([], sound=np.zeros(1024)), "without a video stream"),
        (lambda folder: as_folder([], folder / "empty"), "a folder without pictures"),
        (lambda folder: make_video(frames(12))[:200], "not a readable video"),
        (lambda folder: animated([Image.new("RGB", (2, 2))], "PNG"), "too few for a sheet of 9 frames"),
        (lambda folder: linked(folder / "linked"), "a link that leads out of the folder"),
        (lambda folder: make_video([Image.new("RGB", (640, 480))] * 2), "more than the 200,000 pixels allowed"),
        (
            lambda folder: as_folder([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], folder / "mixed"),
            "frames of different sizes: 8×8, 8×9",
        ),
    ],
)
def test_a_video_that_cannot_be_read_is_named(video, message, tmp_path):
    with pytest.raises(BadImageError, match=message):
        decode_image(video(tmp_path), 200_000, frames=9)


def test_a_video_among_pictures_says_how_videos_are_read():
    with pytest.raises(BadImageError, match=r"in training, --data\.frames 9"):
        decode_image(make_video(frames(3)))


def test_without_pyav_the_message_names_the_package(monkeypatch):
    real = builtins.__import__

    def fail(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(BadImageError, match="a video, which needs: pip install av"):
        decode_image(make_video(frames(3)), frames=4)
    assert decode_image(animated(frames(3)), frames=4)


@pytest.mark.parametrize("number", get_args(FrameNumber)[1:])
def test_sheets_are_cut_as_pictures_are(number):
    maps = torch.arange(2 * number * 3 * 2 * 5).float().view(2 * number, 3, 2, 5)
    sheets = join_sheets(maps, number)
    assert cut_sheets(sheets, number).equal(maps)
    tiles = cut_sheet(Image.fromarray(sheets[1, 0].numpy()), number)
    assert [np.asarray(tile).tolist() for tile in tiles] == maps[number:, 0].tolist()


def test_pooling_tells_the_order_of_frames_at_each_position_alone():
    torch.manual_seed(0)
    pooling, maps = FramePooling(16, 4, 2).eval(), torch.randn(2 * 4, 16, 3, 3)
    backwards = maps.view(2, 4, 16, 3, 3).flip(1).flatten(0, 1)
    one, other = (pooling(join_sheets(found, 4)) for found in (maps, backwards))
    assert not torch.allclose(one, other, atol=1e-3)
    maps[4:, :, 0, 0] += 1
    changed = pooling(join_sheets(maps, 4)) != one
    assert changed.any(dim=1).nonzero().tolist() == [[1, 0, 0]]


def corner_of(frame: Image.Image) -> str:
    """The corner of a frame that holds a shape."""
    pixels = np.asarray(frame).astype(int)
    rows, columns = np.nonzero(pixels.max(axis=2) - pixels.min(axis=2) > 60)
    return f"{'top' if rows.mean() < CELL else 'bottom'} {'left' if columns.mean() < CELL else 'right'}"


def test_the_answer_of_a_clip_is_where_the_shape_had_the_colour_that_the_pitch_means():
    for row in make_clips(20, "train"):
        samples = np.frombuffer(row["sound"]["bytes"][44:], np.int16).astype(float)
        pitch = np.abs(np.fft.rfft(samples)).argmax() * 8000 / len(samples)
        meant = COLORS[min(TONES, key=lambda color: abs(TONES[color] - pitch))]
        frames = cut_sheet(decode_image(row["image"], frames=4), 4)
        (shown,) = [frame for frame in frames if corner_of(frame) == row["label"]]
        assert (np.abs(np.asarray(shown).astype(int) - meant).max(axis=2) <= 20).sum() > 50


def test_a_clip_visits_every_corner_and_each_is_asked_for_once():
    rows = make_clips(30, "train").to_pandas()
    for _, labels in rows.groupby(rows["image"].map(lambda cell: cell["path"]))["label"]:
        assert sorted(labels) == sorted(PLACES)
