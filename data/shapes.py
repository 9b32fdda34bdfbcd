"""Built-in data: images of coloured shapes, with questions that need both the image and the text.

``python -m data.shapes FOLDER --images 100`` writes it as PNG files and a CSV file.
"""

import argparse
import csv
import io
import random
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw

SIZE = 64
CELL = SIZE // 2
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 205, 40),
    "purple": (140, 60, 180),
    "orange": (245, 135, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("one", "two", "three")
QUESTIONS = {
    ("color", "shape"): ["what color is the {}?", "which color does the {} have?"],
    ("color", "place"): ["what color is in the {}?", "which color do you see in the {}?"],
    ("shape", "color"): ["what shape is {}?", "which is the {} shape?"],
    ("shape", "place"): ["what shape is in the {}?", "which shape do you see in the {}?"],
    ("place", "shape"): ["where is the {}?", "in which corner is the {}?"],
    ("place", "color"): ["where is the {} shape?", "in which corner is the {} one?"],
}
"""(asked attribute, given attribute) → templates of the question."""
SEEDS = {"train": 0, "validation": 1, "test": 2}
Color = tuple[int, int, int]
Scene = dict[str, tuple[str, str]]
"""Place → (colour, shape). All colours and all shapes differ, so that "the circle" is unambiguous."""


def make_shapes(num_images: int, split: str) -> Dataset:
    """Draw ``num_images`` images with 7 to 15 questions each. The same split always gives the same rows.

    Questions ask for existence (yes or no), for the number of shapes, and for one of colour, shape and place, given
    another ("what color is the circle?"). Within each kind of question all answers are equally likely, whatever the
    words. Neither the text nor the image alone predicts the answer better than chance within the kind.
    """
    features = Features(
        {"image": Image(decode=False), "text": Value("string"), "label": Value("string"), "kind": Value("string")}
    )
    # Not from_generator: its cache key does not cover the functions that generate_rows calls.
    return Dataset.from_list(list(generate_rows(num_images, SEEDS[split])), features=features)


def generate_rows(num_images: int, seed: int):
    rng = random.Random(seed)
    for number in range(num_images):
        scene = draw_scene(rng)
        buffer = io.BytesIO()
        paint(scene, rng).save(buffer, format="PNG")
        for kind, text, label in ask(scene, rng):
            image = {"bytes": buffer.getvalue(), "path": f"{number}.png"}
            yield {"image": image, "text": text, "label": label, "kind": kind}


def draw_scene(rng: random.Random) -> Scene:
    """Choose one to three places, with a shape and a colour for each."""
    places = rng.sample(PLACES, rng.randint(1, len(NUMBERS)))
    shapes = rng.sample(SHAPES, len(places))
    colors = rng.sample(list(COLORS), len(places))
    return {place: (color, shape) for place, color, shape in zip(places, colors, shapes, strict=True)}


def paint(scene: Scene, rng: random.Random, background: Color | None = None) -> PILImage.Image:
    """Draw a scene: a light background, and each shape with random size, colour shift and position in its quarter."""
    image = PILImage.new("RGB", (SIZE, SIZE), background or light_color(rng))
    draw = ImageDraw.Draw(image)
    for place, (color, shape) in scene.items():
        side = rng.randint(18, 26)
        left = rng.randint(2, CELL - side - 2) + (CELL if "right" in place else 0)
        top = rng.randint(2, CELL - side - 2) + (CELL if "bottom" in place else 0)
        fill = tuple(max(0, min(255, c + rng.randint(-15, 15))) for c in COLORS[color])
        draw_shape(draw, shape, left, top, side, fill)
    return image


def light_color(rng: random.Random) -> Color:
    """A colour for a background."""
    return rng.randint(225, 250), rng.randint(225, 250), rng.randint(225, 250)


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, left: int, top: int, side: int, fill: tuple) -> None:
    right, bottom, third = left + side, top + side, side // 3
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=fill)
    elif shape == "triangle":
        draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=fill)
    else:
        draw.rectangle((left + third, top, right - third, bottom), fill=fill)
        draw.rectangle((left, top + third, right, bottom - third), fill=fill)


def ask(scene: Scene, rng: random.Random) -> list[tuple[str, str, str]]:
    """Questions about a scene as (kind, text, answer): four for each shape, and three for the whole scene."""
    questions = [("number", rng.choice(["how many shapes are there?", "count the shapes."]), NUMBERS[len(scene) - 1])]
    for place, (color, shape) in scene.items():
        known = {"color": color, "shape": shape, "place": place}
        for asked, given in rng.sample(list(QUESTIONS), 4):
            text = rng.choice(QUESTIONS[asked, given]).format(known[given])
            questions.append((asked, text, known[asked]))
    present = sorted(set(scene.values()))
    absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
    for wanted, answer in [(rng.choice(present), "yes"), (rng.choice(absent), "no")]:
        words = " ".join(wanted)
        questions.append(("existence", rng.choice([f"is there a {words}?", f"do you see a {words}?"]), answer))
    return questions


def write_shapes(folder: Path, num_images: int, split: str) -> Path:
    """Write ``images/<split>/*.png`` and ``<split>.csv`` with columns image, text, label and kind."""
    images = folder / "images" / split
    images.mkdir(parents=True, exist_ok=True)
    table = folder / f"{split}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "kind"])
        for row in generate_rows(num_images, SEEDS[split]):
            path = images / row["image"]["path"]
            path.write_bytes(row["image"]["bytes"])
            writer.writerow([path.relative_to(folder), row["text"], row["label"], row["kind"]])
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, help="number of images; each has 7 to 15 questions")
    parser.add_argument("--split", choices=list(SEEDS), default="train")
    args = parser.parse_args()
    print(f"wrote {write_shapes(args.folder, args.images, args.split)}")
