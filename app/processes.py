"""Several processes of one training or evaluation, as ``accelerate launch`` and ``torchrun`` start them."""

import os

from accelerate.state import is_initialized


def reports_errors() -> bool:
    """Whether this process prints the error that ends it.

    Before the processes are connected, all of them have the same error, and the first one of each machine prints it.
    Afterwards each process has its own rows, and prints its own errors.
    """
    return is_initialized() or int(os.environ.get("LOCAL_RANK") or 0) == 0
