"""The watch over gradients that are not finite."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from app.training.sharding import unwrapped


@dataclass
class GradientWatch:
    """Finds gradients that are not finite without making the device wait at every step.

    The optimiser leaves such a step out by itself, on the device; `check` looks at all steps since it last did.
    """

    norms: list[Tensor] = field(default_factory=list)
    about: list[tuple[int, Tensor, float, Tensor]] = field(default_factory=list)

    def see(self, optimizer: Optimizer, norm: Tensor, step: int, loss: Tensor, rows: Tensor) -> None:
        """Take note of a step that is about to be made."""
        inner = unwrapped(optimizer)
        if not isinstance(inner.param_groups[0]["params"][0], DTensor):  # of which the fused optimiser does not take it
            setattr(inner, "found_inf", (~norm.isfinite()).float())  # noqa: B010
        self.norms.append(norm)
        self.about.append((step, loss, max(group["lr"] for group in optimizer.param_groups), rows))

    def check(self) -> None:
        """Stop at the first step whose gradient was not finite.

        Raises:
            FloatingPointError: with the rows it came from.
        """
        if not self.norms:
            return
        norms, about = self.norms, self.about
        self.norms, self.about = [], []
        for is_finite, (step, loss, rate, rows) in zip(torch.stack(norms).isfinite().tolist(), about, strict=True):
            if not is_finite:
                raise FloatingPointError(
                    f"The gradient is not finite at step {step} (loss {loss.item():.4g}, learning rate {rate:.2g}), in "
                    f"a batch of rows {shorten(rows.tolist())} of the training data; the last checkpoint and the best "
                    "model so far are kept. Look at these rows, lower --train.learning_rate, or set "
                    "--train.mixed_precision no."
                )


def shorten(numbers: list[int], shown: int = 10) -> str:
    """The first few of them, and how many there are."""
    return ", ".join(map(str, numbers[:shown])) + (f", … ({len(numbers)} in all)" if len(numbers) > shown else "")
