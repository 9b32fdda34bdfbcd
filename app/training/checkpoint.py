"""Checkpoints: an interrupted run resumes from any step and ends with the same bits as without the interruption.

Model and optimizer are stored as safetensors and everything else as JSON; nothing is unpickled. A manifest with sizes
and SHA-256 hashes reveals damaged checkpoints.
"""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from app.atomic_write import remove, replacing
from app.training.sharding import restore_state, whole_state
from data.errors import UserError
from data.hashing import sha256

MANIFEST = "manifest.json"


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        epoch: completed epochs.
        epoch_step: completed optimizer steps of the current epoch.
        step: completed optimizer steps of the run.
        steps_per_epoch: optimizer steps per epoch; 0 in checkpoints of earlier versions.
        best: best validation figure so far, see `app.training.best_epoch`; ``None`` before the first validation (-1 in
            checkpoints of earlier versions).
        since_best: epochs since the best one.
        losses: losses of the steps since the last record on this process, as scalar tensors.
    """

    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    best: float | None = None
    since_best: int = 0
    losses: list[Tensor] = field(default_factory=list)
    steps_per_epoch: int = 0

    def end_epoch(self, figure: float, is_best: bool) -> None:
        """Count an epoch with a figure of the validation rows."""
        self.epoch += 1
        self.epoch_step = 0
        self.since_best = 0 if is_best else self.since_best + 1
        self.best = figure if is_best else self.best


class Checkpoints:
    """The newest checkpoints of one run, in ``step_<number>`` folders.

    Args:
        folder: the folder that holds them.
        keep: the number to keep.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep

    def all(self) -> list[Path]:
        """All complete checkpoints, the newest first."""
        return sorted(self.folder.glob("step_*[0-9]"), reverse=True)

    def newest(self) -> Path | None:
        """The newest intact checkpoint; prints what is wrong with newer ones."""
        for path in self.all():
            if fault := find_fault(path):
                print(f"The checkpoint {path} is damaged ({fault}); trying the one before.")
            else:
                return path
        return None

    def save(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        progress: Progress,
    ) -> None:
        """Write everything that the rest of the run depends on, then delete checkpoints that are too old.

        Checkpoints of later steps are deleted too: they were damaged, so their steps are trained again.

        Raises:
            UserError: the checkpoint cannot be written, for example because the disk is full.
        """
        randomness = gather_object([random_states()])
        losses = gather_object([[loss.item() for loss in progress.losses]])
        weights, moments, groups = whole_state(accelerator.unwrap_model(model), optimizer)
        if accelerator.is_main_process:
            state = {
                "progress": asdict(progress) | {"losses": []},
                "losses": losses,
                "param_groups": groups,
                "schedule": schedule.state_dict(),
                "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                "random": randomness,
            }
            target = self.folder / f"step_{progress.step:08}"
            try:
                with replacing(target) as new:
                    write(new, weights, moments, state)
            except (OSError, SafetensorError) as error:
                last = self.all()
                raise UserError(
                    f"The checkpoint of step {progress.step} could not be written to {self.folder}: {error}. "
                    + (f"The previous one, {last[0].name}, is intact. " if last else "There is no previous one. ")
                    + "Free some disk space and repeat the command."
                ) from error
            found = self.all()
            place = found.index(target)
            for other in found[:place] + found[place + self.keep :]:
                remove(other)
        accelerator.wait_for_everyone()

    def load(
        self,
        path: Path,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
    ) -> Progress:
        """Restore the state that `save` wrote.

        Raises:
            UserError: the checkpoint was written by another number of processes.
        """
        state = read_state(path)
        if len(state["random"]) != accelerator.num_processes:
            raise UserError(
                f"The run was started with {len(state['random'])} processes and cannot be resumed with "
                f"{accelerator.num_processes}: batches and random numbers would differ. Use the same number, or "
                "start a new run with --overwrite true."
            )
        weights, moments = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
        restore_state(accelerator.unwrap_model(model), optimizer, weights, moments, state["param_groups"])
        schedule.load_state_dict(state["schedule"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        restore_random_states(state["random"][accelerator.process_index])
        progress = Progress(**state["progress"])
        # Checkpoints of earlier versions have those of the main process alone.
        losses = state["losses"][accelerator.process_index] if "losses" in state else progress.losses
        progress.losses = [torch.tensor(loss, device=accelerator.device) for loss in losses]
        return progress


def write(folder: Path, weights: dict[str, Tensor], moments: dict[str, Tensor], state: dict) -> None:
    """Write the files of a checkpoint, and last the manifest of them."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in moments.items()}, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files), encoding="utf-8")


def read_state(folder: Path) -> dict:
    """The part of a checkpoint that is not tensors: ``progress``, ``schedule``, random states and more."""
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or ``None`` if it is intact."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"its {MANIFEST} cannot be read"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {expected['size']:,}"
        if sha256(path) != expected["sha256"]:
            return f"the content of {name} has changed"
    return None


def random_states() -> dict:
    """States of all random generators of this process, as JSON values."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict) -> None:
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if states["cuda"]:
        torch.cuda.set_rng_state_all([torch.tensor(state, dtype=torch.uint8) for state in states["cuda"]])
