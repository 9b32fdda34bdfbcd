"""Detection of gradients that are not finite (NaN or infinite)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from app.training.sharding import unwrapped
from data.errors import UserError
from data.messages import name_rows


@dataclass
class GradientWatch:
    """Detects gradients that are not finite without synchronizing with the device at every step.

    The fused optimizer skips such a step by itself (``found_inf``); `check` inspects all steps since its last call.
    """

    norms: list[Tensor] = field(default_factory=list)
    about: list[tuple[int, Tensor, float, Tensor]] = field(default_factory=list)

    def see(self, optimizer: Optimizer, norm: Tensor, step: int, loss: Tensor, rows: Tensor) -> None:
        """Record a step that the optimizer is about to make."""
        inner = unwrapped(optimizer)
        if not isinstance(inner.param_groups[0]["params"][0], DTensor):  # found_inf does not work with sharded weights
            setattr(inner, "found_inf", (~norm.isfinite()).float())  # noqa: B010
        self.norms.append(norm)
        self.about.append((step, loss, max(group["lr"] for group in optimizer.param_groups), rows))

    def check(self) -> None:
        """Stop at the first recorded step whose gradient was not finite.

        Raises:
            UserError: with the step and the rows of its batches.
        """
        if not self.norms:
            return
        norms, about = self.norms, self.about
        self.norms, self.about = [], []
        for is_finite, (step, loss, rate, rows) in zip(torch.stack(norms).isfinite().tolist(), about, strict=True):
            if not is_finite:
                raise UserError(
                    f"The gradient is not finite at step {step} (loss {loss.item():.4g}, learning rate {rate:.2g}), in "
                    f"a batch of the training data with {name_rows(rows.tolist(), 10)}; the last checkpoint and the "
                    "best model so far are kept. Look at these rows, lower --train.learning_rate, or set "
                    "--train.mixed_precision no."
                )
