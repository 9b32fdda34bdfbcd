"""Time to decode a JPEG file and to resize it for a model, whole and reduced while it is decoded.

python -m benchmarks.decoding [--side 224] [--rounds 30]
"""

import argparse

import numpy as np
from PIL import Image

from benchmarks.photos import photo
from benchmarks.quartiles import with_quartiles
from benchmarks.timing import paired, timed
from data import decode_image

SIZES = ((640, 480), (1600, 1200), (4000, 3000))
NOISE = 8.0
"""Makes files as large as photographs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="height and width of the model's images, in pixels")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    for size in SIZES:
        data = photo(0, size, NOISE)

        def prepare(side: int | None, data: bytes = data) -> np.ndarray:
            picture = decode_image(data, side=side).resize((args.side, args.side), Image.Resampling.BILINEAR)
            return np.asarray(picture, dtype=float)

        pairs = paired(args.rounds, lambda: timed(lambda: prepare(None)), lambda: timed(lambda: prepare(args.side)))
        whole, reduced = np.array(pairs).T
        difference = np.sqrt(np.mean((prepare(None) - prepare(args.side)) ** 2))
        print(
            f"{size[0]}×{size[1]}, {len(data) / 1024:,.0f} KB: whole {with_quartiles(1e3 * whole)} ms, reduced "
            f"{with_quartiles(1e3 * reduced)} ms, times as fast {with_quartiles(whole / reduced)}, root mean square "
            f"difference {difference:.2f} of 255"
        )


if __name__ == "__main__":
    main()
