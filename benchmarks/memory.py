"""Memory by the number of rows: the same data preparation with 10,000 to 1,000,000 rows.

python -m benchmarks.memory                 # the Markdown table of docs/lab/performance.md
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

NUMBERS = (10_000, 100_000, 1_000_000)
IMAGES = 200
"""Number of different images. They are few, because the memory of rows is measured, not that of images."""
WORDS = 40
"""Number of words in a text. All texts are different, as medical reports are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=NUMBERS, help="numbers of rows")
    print("| rows | table, MiB | read as | before, MiB | after preparing, MiB | after 20 batches, MiB | peak, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        for number in parser.parse_args().rows:
            table = write_table(Path(folder), number)
            for kind in ("table", "stream"):
                found = subprocess.run(
                    [sys.executable, "-c", PROBE, str(table), kind], check=True, capture_output=True, text=True
                ).stdout.split()
                size = table.stat().st_size / 2**20
                print(f"| {number:,} | {size:,.0f} | {kind} | {' | '.join(found[-4:])} |", flush=True)


def write_pictures(folder: Path) -> None:
    for number in range(IMAGES):
        Image.effect_noise((32, 32), number).save(folder / f"{number}.png")


def write_table(folder: Path, number: int) -> Path:
    """Write a table of rows with different texts and ten labels."""
    random.seed(0)
    words = ["".join(random.choices("abcdefghij", k=6)) for _ in range(2000)]
    path = folder / f"{number}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label"])
        for row in range(number):
            text = " ".join(random.choices(words, k=WORDS))
            writer.writerow([f"{row % IMAGES}.png", f"{text} {row}", f"class {row % 10}"])
    return path


PROBE = """
import sys
from itertools import islice
from data import DataSettings, ImageBatchSampler, InputCollate, StreamedBatches, load_rows, make_loader, verify_images
from models.processor import build_processor
from models.text_encoder import train_tokenizer

def resident(field="RssAnon"):
    return int(open("/proc/self/status").read().partition(field + ":")[2].split()[0]) // 1024

processor = build_processor(train_tokenizer(["some words"] * 10), 32, 64)
before = resident()
settings = DataSettings(streaming=sys.argv[2] == "stream")
rows, looks = verify_images(load_rows(sys.argv[1], "train", settings), settings)
del looks
collate = InputCollate(processor)
if rows.is_stream:
    batches = map(collate, StreamedBatches(rows, 8, settings.shuffle_buffer, 0))
else:
    batches = make_loader(rows, ImageBatchSampler(rows.image_keys, 8, shuffle=True), collate, 0)
prepared = resident()
for _ in islice(batches, 20):
    pass
print(before, prepared, resident(), resident("VmHWM"))
"""


if __name__ == "__main__":
    main()
