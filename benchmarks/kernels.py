"""Plain attention against torch's fused kernel, forward and backward, in one run: which one to use on this device.

python -m benchmarks.kernels
"""

import statistics
import time

import torch
from torch.nn import functional as F

from models.attention import attention

ROWS, HEADS, POSITIONS, WIDTH = 320, 8, 49, 64
ROUNDS = 15


def step(function, tensors: list[torch.Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    function(*tensors).square().sum().backward()
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{ROWS} rows, {HEADS} heads, {POSITIONS}×{POSITIONS}, {device}, medians of {ROUNDS} paired rounds")
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [
            torch.randn(ROWS, HEADS, POSITIONS, WIDTH, dtype=dtype, device=device, requires_grad=True) for _ in range(3)
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
