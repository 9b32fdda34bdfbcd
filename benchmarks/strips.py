"""Write pictures of four boxes side by side, four times as wide as high, with questions about them.

python -m benchmarks.strips FOLDER          # train.csv, validation.csv and test.csv; docs/lab/results.md has the runs

Each box has one coloured shape. Questions ask for the colour or the shape in a box, for the box of a shape, and for the
number of boxes with a colour, so neither the picture nor the question alone gives the answer.
"""

import argparse
import csv
import random
from pathlib import Path

from PIL import Image

from data.shapes import COLORS, NUMBERS, SHAPES, SIZE, paint

BOXES = ("first", "second", "third", "fourth")
PICTURES = {"train": 1500, "validation": 200, "test": 500}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for seed, (split, number) in enumerate(PICTURES.items()):
        print(f"wrote {write_strips(folder, split, number, seed)}")


def write_strips(folder: Path, split: str, number: int, seed: int) -> Path:
    """Write ``images/<split>/*.png`` and ``<split>.csv`` with columns image, text, label and kind."""
    rng = random.Random(seed)
    (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    table = folder / f"{split}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "kind"])
        for index in range(number):
            colors = rng.choices(rng.sample(list(COLORS), 3), k=len(BOXES))  # colours repeat, shapes do not
            shapes = rng.sample(SHAPES, len(BOXES))
            path = folder / "images" / split / f"{index}.png"
            draw_strip(colors, shapes, rng).save(path)
            for kind, text, label in ask(colors, shapes, rng):
                writer.writerow([path.relative_to(folder), text, label, kind])
    return table


def draw_strip(colors: list[str], shapes: list[str], rng: random.Random) -> Image.Image:
    """A picture of ``4 · SIZE`` × ``SIZE`` pixels."""
    strip = Image.new("RGB", (SIZE * len(BOXES), SIZE))
    for index, thing in enumerate(zip(colors, shapes, strict=True)):
        place = rng.choice(("top left", "top right", "bottom left", "bottom right"))
        strip.paste(paint({place: thing}, rng), (SIZE * index, 0))
    return strip


def ask(colors: list[str], shapes: list[str], rng: random.Random) -> list[tuple[str, str, str]]:
    """Questions as (kind, text, answer): two of each kind, and one for a number."""
    questions = []
    for index in rng.sample(range(len(BOXES)), 2):
        questions.append(("color", f"what color is in the {BOXES[index]} box?", colors[index]))
        questions.append(("shape", f"what shape is in the {BOXES[index]} box?", shapes[index]))
        questions.append(("box", f"in which box is the {shapes[index]}?", BOXES[index]))
    for wanted in rng.sample(NUMBERS, len(NUMBERS)):  # as far as the picture has it
        fitting = [color for color in COLORS if colors.count(color) == NUMBERS.index(wanted) + 1]
        if fitting:
            questions.append(("number", f"in how many boxes is something {rng.choice(fitting)}?", wanted))
            break
    return questions


if __name__ == "__main__":
    main()
