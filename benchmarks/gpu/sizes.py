"""What is measured: as large as a GPU needs it, or small enough for a CPU."""

import os
from dataclasses import dataclass

from benchmarks.steps import SQUARE


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
        image: side in pixels to which images are resized.
        pictures: number of different JPEG files.
        batches: images in a batch of training, the default and a larger one.
        workers: processes that decode images, the default and more.
        square: side of the matrices of the product.
        positions: positions that attend, by level of VGG16, and its context where that is as long.
        rows: rows in a batch of attention.
        requests: pictures in a request to the server.
        clients: requests at once.
        seconds: least time of a measurement of steps.
        compiler: the backend of ``torch.compile``.
    """

    image: int = 224
    pictures: int = 512
    batches: tuple[int, int] = (32, 128)
    workers: tuple[int, int] = (2, min(16, os.cpu_count() or 1))
    square: int = SQUARE
    positions: tuple[int, ...] = (49, 196, 784, 3136, 12544)
    rows: int = 8
    requests: tuple[int, ...] = (1, 8, 32, 128)
    clients: int = 32
    seconds: float = 0.3
    compiler: str = "inductor"


SIZES = {
    "full": Sizes(),
    "small": Sizes(
        image=32,
        pictures=32,
        batches=(4, 8),
        workers=(0, 1),
        square=512,
        positions=(49, 196),
        rows=2,
        requests=(1, 4),
        clients=4,
    ),
}
