"""Built-in data for other contexts than a text: pictures with a second picture, a row of a table, or a sound."""

import io
import random
from collections.abc import Sequence

import numpy as np
import soundfile
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from data.shapes import COLORS, PLACES, SEEDS, SHAPES, light_color, paint

TONES = {"red": 300, "green": 800, "blue": 1700, "yellow": 3200}
"""Colour → the pitch in Hz that means it, about equally spaced on the mel scale."""
TONE_RATE, TONE_SECONDS = 8000, 0.5
MOVED = {"none": 0, "one": 1, "both": 2}
"""Answer → number of shapes that have moved."""
SIDES = ("left", "right")
FRAMES_A_PLACE = 2
"""Frames of a clip that show the shape in the same corner."""
SOUND = {"bytes": Value("binary"), "path": Value("string")}
"""A sound file; the feature Audio needs torchcodec."""
COUNTS = [(0, 1), (0, 2), (1, 0), (2, 0)] * 2 + [(1, 1), (1, 2), (2, 1), (2, 2)]
"""Numbers of shapes on both sides, equally likely; on each side 0, 1 and 2 are, too."""


def make_pairs(num_pairs: int, split: str) -> Dataset:
    """Draw pairs of pictures of the same two shapes: how many of them have moved to another place?

    Columns image, prior and label: none, one or both. All three answers are equally likely whatever one of the pictures
    shows, so that neither picture alone predicts the answer better than chance. The same split always gives the same
    rows.
    """
    features = Features({"image": Image(decode=False), "prior": Image(decode=False), "label": Value("string")})
    return Dataset.from_list(list(generate_pairs(num_pairs, SEEDS[split])), features=features)


def generate_pairs(num_pairs: int, seed: int):
    rng = random.Random(seed)
    for number in range(num_pairs):
        looks = list(zip(rng.sample(list(COLORS), 2), rng.sample(SHAPES, 2), strict=True))
        before = rng.sample(PLACES, 2)
        empty = rng.sample([place for place in PLACES if place not in before], 2)
        label = rng.choice(list(MOVED))
        movers = rng.sample((0, 1), MOVED[label])
        after = [empty[which] if which in movers else before[which] for which in (0, 1)]
        pictures = [
            as_png(paint(dict(zip(places, looks, strict=True)), rng), f"{name}_{number}.png")
            for name, places in (("after", after), ("before", before))
        ]
        yield {"image": pictures[0], "prior": pictures[1], "label": label}


def make_cards(num_images: int, split: str, rows: int = 8) -> Dataset:
    """Draw pictures of one to four shapes, each with rows of a table: are there so many shapes on this side, yes or no?

    Columns image, side (left or right), number (0 to 2) and label. Both answers are equally likely whatever the picture
    shows, and whatever the row says. The same split always gives the same rows.
    """
    words = {name: Value("string") for name in ("side", "label")}
    features = Features({"image": Image(decode=False), "number": Value("int64"), **words})
    return Dataset.from_list(list(generate_cards(num_images, SEEDS[split], rows)), features=features)


def generate_cards(num_images: int, seed: int, rows: int):
    rng = random.Random(seed)
    for number in range(num_images):
        counts = dict(zip(SIDES, rng.choice(COUNTS), strict=True))
        places = [place for side in SIDES for place in rng.sample([p for p in PLACES if side in p], counts[side])]
        looks = zip(rng.sample(list(COLORS), len(places)), rng.sample(SHAPES, len(places)), strict=True)
        image = as_png(paint(dict(zip(places, looks, strict=True)), rng), f"{number}.png")
        for _ in range(rows):
            side, label = rng.choice(SIDES), rng.choice(("yes", "no"))
            others = [count for count in (0, 1, 2) if count != counts[side]]
            said = counts[side] if label == "yes" else rng.choice(others)
            yield {"image": image, "side": side, "number": said, "label": label}


def make_tones(num_images: int, split: str) -> Dataset:
    """Draw pictures of four shapes, each with tones: where is the shape whose colour the pitch means (`TONES`)?

    Columns image, sound and label (the corner), a row for each corner. All four answers are equally likely whatever the
    picture shows, and whatever is heard. The same split always gives the same rows.
    """
    features = Features({"image": Image(decode=False), "sound": SOUND, "label": Value("string")})
    return Dataset.from_list(list(generate_tones(num_images, SEEDS[split])), features=features)


def generate_tones(num_images: int, seed: int):
    rng = random.Random(seed)
    for number in range(num_images):
        looks = [(color, rng.choice(SHAPES)) for color in rng.sample(list(TONES), len(PLACES))]
        scene = dict(zip(PLACES, looks, strict=True))
        image = as_png(paint(scene, rng), f"{number}.png")
        for row, place in enumerate(rng.sample(PLACES, len(PLACES))):
            sound = {"bytes": make_tone(TONES[scene[place][0]], rng), "path": f"{number}_{row}.wav"}
            yield {"image": image, "sound": sound, "label": place}


def make_clips(num_clips: int, split: str) -> Dataset:
    """Draw clips of a shape that jumps and changes colour: where had it this colour?

    Columns image (an animated GIF), text, sound and label (the corner), a row for each corner. The text names the
    colour, and the pitch of the sound means it as in `make_tones`: each can be the context. All four answers are
    equally likely whatever the clip shows, and whatever the context says, and no frame shows more than one corner. The
    same split always gives the same rows.
    """
    features = Features(
        {"image": Image(decode=False), "text": Value("string"), "sound": SOUND, "label": Value("string")}
    )
    return Dataset.from_list(list(generate_clips(num_clips, SEEDS[split])), features=features)


def generate_clips(num_clips: int, seed: int):
    rng = random.Random(seed)
    for number in range(num_clips):
        shape = rng.choice(SHAPES)
        path = dict(zip(rng.sample(PLACES, len(PLACES)), rng.sample(list(TONES), len(PLACES)), strict=True))
        scenes = [{place: (color, shape)} for place, color in path.items() for _ in range(FRAMES_A_PLACE)]
        background = light_color(rng)
        frames = [paint(scene, rng, background) for scene in scenes]
        image = as_gif(frames, f"{number}.gif")
        for row, place in enumerate(rng.sample(PLACES, len(PLACES))):
            sound = {"bytes": make_tone(TONES[path[place]], rng), "path": f"{number}_{row}.wav"}
            yield {"image": image, "text": f"where was it {path[place]}?", "sound": sound, "label": place}


def make_tone(pitch: float, rng: random.Random) -> bytes:
    """A WAV file with a tone of a random volume, phase and start, with noise."""
    times = np.arange(int(TONE_RATE * TONE_SECONDS)) / TONE_RATE
    wave = np.sin(2 * np.pi * pitch * times + rng.uniform(0, 2 * np.pi))
    wave *= times >= rng.uniform(0, 0.2)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(size=len(times))
    file = io.BytesIO()
    samples = rng.uniform(0.2, 0.6) * wave + 0.01 * noise
    soundfile.write(file, samples.astype(np.float32), TONE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def as_png(picture: PILImage.Image, name: str) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def as_gif(frames: Sequence[PILImage.Image], name: str) -> dict:
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)
    return {"bytes": buffer.getvalue(), "path": name}
