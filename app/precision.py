"""The floating-point precision that a machine computes fast."""

import torch


def choose_precision(wanted: str) -> str:
    """Resolve ``auto`` to ``bf16`` if the device computes it natively, otherwise to ``no`` (float32)."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.backends.mps.is_available():
        return "no"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "no"
