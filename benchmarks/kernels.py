"""Plain attention and torch's fused kernel, forward and backward: which one is faster on this device.

python -m benchmarks.kernels
"""

import statistics

import torch
from torch.nn import functional as F

from benchmarks.timing import DEVICE, timed
from models.attention import attention

ROWS, HEADS, POSITIONS, WIDTH = 320, 8, 49, 64
ROUNDS = 15


def step(function, tensors: list[torch.Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    return timed(lambda: function(*tensors).square().sum().backward())


def main() -> None:
    print(f"{ROWS} rows, {HEADS} heads, {POSITIONS}×{POSITIONS}, {DEVICE}, medians of {ROUNDS} paired rounds")
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [
            torch.randn(ROWS, HEADS, POSITIONS, WIDTH, dtype=dtype, device=DEVICE, requires_grad=True) for _ in range(3)
        ]
        plain, fused = [], []
        for _ in range(ROUNDS):
            plain.append(step(lambda q, k, v: attention(q, k, v, need_weights=True)[0], tensors))
            fused.append(step(F.scaled_dot_product_attention, tensors))
        ratio = statistics.median(f / p for f, p in zip(fused, plain, strict=True))
        milliseconds = [1000 * statistics.median(times) for times in (plain, fused)]
        print(f"{dtype}: plain {milliseconds[0]:.1f} ms, fused {milliseconds[1]:.1f} ms, fused / plain {ratio:.2f}")


if __name__ == "__main__":
    main()
