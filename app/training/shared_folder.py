"""A run folder that several machines share: all processes must see what the main process writes there."""

import os
import platform
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from app.processes import failing_together
from app.training.checkpoint import Checkpoints
from app.training.run_folder import RunDir
from data.errors import UserError

PATIENCE = 60.0
"""Seconds after which a file of another machine is visible; NFS keeps what it knows of a folder for up to a minute."""


def check_shared(file: Path, accelerator: Accelerator) -> None:
    """Wait until all processes see a file of the run folder as the main process has written it.

    Raises:
        UserError: a process does not see it in time, because its folder is another one; raised on all of them.
    """
    if accelerator.num_processes == 1:
        return
    (written,) = broadcast_object_list([time_of(file) if accelerator.is_main_process else None])
    with failing_together(accelerator):
        end = time.monotonic() + PATIENCE
        while time_of(file) != written:
            if time.monotonic() > end:
                raise UserError(
                    f"The processes do not share a run folder: {file.absolute()} on {platform.node()} is not the file "
                    "that the main process has written. Give all machines --run_dir with the absolute path of a folder "
                    "that they share."
                )
            time.sleep(0.2)


def time_of(path: Path) -> float:
    """When a file was last changed; 0 if it is not there. Opening it makes NFS ask its server."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def newest_checkpoint(run: RunDir, accelerator: Accelerator) -> Path | None:
    """The newest intact checkpoint, as the main process finds it: all processes resume from the same one."""
    found = Checkpoints(run.checkpoints).newest() if accelerator.is_main_process else None
    (name,) = broadcast_object_list([found.name if found else None])
    return run.checkpoints / name if name else None
