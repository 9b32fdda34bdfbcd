"""Run train.py in a process of its own, without charts. Variables of the environment change how it trains:

PLAIN         no batch statistics and no dropout, because they depend on the number of processes
SHARDED       weights in shards (FSDP2) on CPU processes; accelerate itself supports only GPUs
DIE_AT        the process ends before the step of this number
GROUPED       texts are divided into groups by length wherever that saves a token
SLOW_BATCHES  a file that is created before the first batch; each batch then takes a second
PATIENCE      seconds that a process waits until it sees the run folder of the main process
WRITES        a file that gets what this process opens for writing, renames or makes in the run folder
"""

import os
import sys
import time
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from tiny import blank_charts
from torch.nn import functional as F

import app.training.shared_folder
import app.training.step
import data.collate
import models.text_encoder
import train


def normalize(self, x):
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def attend(*args, **kwargs):
    return attention(*args, **kwargs | {"dropout_p": 0.0})


def step_or_die(training, accelerator, options, group, number):
    if number == int(os.environ["DIE_AT"]):
        os._exit(1)
    return step(training, accelerator, options, group, number)


def read_slowly(self, examples):
    Path(os.environ["SLOW_BATCHES"]).touch()
    time.sleep(1)
    return read(self, examples)


def use_plain_layers(patch=setattr) -> None:
    """Normalize with the running statistics and drop nothing out."""
    patch(torch.nn.modules.batchnorm._BatchNorm, "forward", normalize)
    patch(torch.nn.Dropout, "forward", lambda self, x: x)
    patch(F, "scaled_dot_product_attention", attend)


def list_writes(file: Path) -> None:
    """Append each change in the run folder to a file."""
    folder = sys.argv[sys.argv.index("--run_dir") + 1]

    def listen(event: str, found: tuple) -> None:
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") or not isinstance(found[0], str):
            return
        changes = event != "open" or (found[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if changes and found[0].startswith(folder):
            lines.write(f"{event} {found[0]}\n")

    lines = file.open("w", buffering=1)
    sys.addaudithook(listen)


def use_shards() -> None:
    config = yaml.safe_load(Path("configs/accelerate/fsdp.yaml").read_text(encoding="utf-8"))
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ |= {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


attention, step = F.scaled_dot_product_attention, app.training.step.train_step
read = data.collate.Collate.__call__
if __name__ == "__main__":
    if "WRITES" in os.environ:
        list_writes(Path(os.environ["WRITES"]))
    if "PLAIN" in os.environ:
        use_plain_layers()
    if "GROUPED" in os.environ:
        models.text_encoder.LAUNCH_MULTIPLICATIONS["cpu"] = 1.0
    if "SHARDED" in os.environ:
        use_shards()
    if "PATIENCE" in os.environ:
        app.training.shared_folder.PATIENCE = float(os.environ["PATIENCE"])
    if "DIE_AT" in os.environ:
        app.training.step.train_step = step_or_die
    if "SLOW_BATCHES" in os.environ:
        data.collate.Collate.__call__ = read_slowly
    with blank_charts():
        train.main(sys.argv[1:])
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    if "SHARDED" in os.environ:
        # DTensor's caches keep threads of gloo after the process group ends. If one releases a tensor while the
        # interpreter ends, the process aborts (pytorch/pytorch#190489).
        sys.stdout.flush()
        os._exit(0)
    assert not any("gloo" in thread for thread in threads), "the process group still exists at the interpreter's end"
