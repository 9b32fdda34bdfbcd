"""Built-in data for other contexts than a text: pictures with a second picture, a row of a table, or a sound."""

import io
import random

import numpy as np
import soundfile
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from data.shapes import COLORS, NUMBERS, PLACES, SEEDS, SHAPES, Scene, draw_scene, paint

TONES = dict(zip(COLORS, (262, 330, 392, 523, 659, 784), strict=True))
"""The pitch in Hz that belongs to each colour."""
TONE_RATE, TONE_SECONDS = 8000, 0.5
CHANGES = ("color", "shape", "place", "nothing")
TRUE = ("both", "color", "number", "neither")


def make_pairs(num_pairs: int, split: str) -> Dataset:
    """Draw pairs of pictures with one shape each: what has changed, its colour, its shape, its place, or nothing?

    Columns image, prior and label. All four answers are equally likely whatever one of the pictures shows, so that
    neither picture alone predicts the answer better than chance. The same split always gives the same rows.
    """
    features = Features({"image": Image(decode=False), "prior": Image(decode=False), "label": Value("string")})
    return Dataset.from_list(list(generate_pairs(num_pairs, SEEDS[split])), features=features)


def generate_pairs(num_pairs: int, seed: int):
    rng = random.Random(seed)
    for number in range(num_pairs):
        before = {"color": rng.choice(list(COLORS)), "shape": rng.choice(SHAPES), "place": rng.choice(PLACES)}
        label = rng.choice(CHANGES)
        after = dict(before)
        if label != "nothing":
            others = {"color": list(COLORS), "shape": SHAPES, "place": PLACES}[label]
            after[label] = rng.choice([value for value in others if value != before[label]])
        pictures = [
            as_png(paint({seen["place"]: (seen["color"], seen["shape"])}, rng), f"{name}_{number}.png")
            for name, seen in (("after", after), ("before", before))
        ]
        yield {"image": pictures[0], "prior": pictures[1], "label": label}


def make_cards(num_images: int, split: str, rows: int = 8) -> Dataset:
    """Draw pictures of one to three shapes, each with rows of a table that name a colour and a number.

    The label says what is true of the picture: that a shape has this colour, that there are so many shapes, both, or
    neither. Columns image, color, number and label. Given the picture alone, or the row alone, all four answers are
    equally likely. The same split always gives the same rows.
    """
    features = Features(
        {
            "image": Image(decode=False),
            "color": Value("string"),
            "number": Value("int64"),
            "label": Value("string"),
        }
    )
    return Dataset.from_list(list(generate_cards(num_images, SEEDS[split], rows)), features=features)


def generate_cards(num_images: int, seed: int, rows: int):
    rng = random.Random(seed)
    for number in range(num_images):
        scene = draw_scene(rng)
        image = as_png(paint(scene, rng), f"{number}.png")
        for _ in range(rows):
            label = rng.choice(TRUE)
            yield {"image": image, **draw_card(scene, label, rng), "label": label}


def draw_card(scene: Scene, label: str, rng: random.Random) -> dict[str, str | int]:
    """A colour and a number of which this is true."""
    shown = {color for color, _ in scene.values()}
    colors = [color for color in COLORS if (color in shown) == (label in ("both", "color"))]
    numbers = [n for n in range(1, len(NUMBERS) + 1) if (n == len(scene)) == (label in ("both", "number"))]
    return {"color": rng.choice(colors), "number": rng.choice(numbers)}


def make_tones(num_images: int, split: str, rows: int = 4) -> Dataset:
    """Draw pictures of one shape, each with tones: does the pitch belong to the colour (`TONES`), yes or no?

    Columns image, sound and label. Both answers are equally likely whatever the picture shows, and whatever is heard.
    The same split always gives the same rows.
    """
    sound = {"bytes": Value("binary"), "path": Value("string")}  # the feature Audio needs torchcodec
    features = Features({"image": Image(decode=False), "sound": sound, "label": Value("string")})
    return Dataset.from_list(list(generate_tones(num_images, SEEDS[split], rows)), features=features)


def generate_tones(num_images: int, seed: int, rows: int):
    rng = random.Random(seed)
    for number in range(num_images):
        color, place = rng.choice(list(COLORS)), rng.choice(PLACES)
        image = as_png(paint({place: (color, rng.choice(SHAPES))}, rng), f"{number}.png")
        for row in range(rows):
            label = rng.choice(("yes", "no"))
            heard = color if label == "yes" else rng.choice([other for other in COLORS if other != color])
            sound = {"bytes": make_tone(TONES[heard], rng), "path": f"{number}_{row}.wav"}
            yield {"image": image, "sound": sound, "label": label}


def make_tone(pitch: float, rng: random.Random) -> bytes:
    """A WAV file with a tone and its octave, of a random volume, phase and start, with noise."""
    times = np.arange(int(TONE_RATE * TONE_SECONDS)) / TONE_RATE
    phase = rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * pitch * times + phase) + rng.uniform(0, 0.3) * np.sin(4 * np.pi * pitch * times)
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
