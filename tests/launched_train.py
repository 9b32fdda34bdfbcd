"""train.py in processes of its own, in ways it offers no option for. The environment asks for them:

PLAIN    without what differs between one process and several by its nature: batch statistics and dropout
SHARDED  with its weights in shards (FSDP2), on CPU processes too, where accelerate offers it for GPUs alone
DIE_AT   ends before the step of that number
SLOW_BATCHES  takes a second for each batch, after it has made this file
"""

import os
import sys
import time
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.nn import functional as F

import app.training.step
import data.collate
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


attention, step = F.scaled_dot_product_attention, app.training.step.train_step
read = data.collate.Collate.__call__
if "PLAIN" in os.environ:
    torch.nn.modules.batchnorm._BatchNorm.forward = normalize
    torch.nn.Dropout.forward = lambda self, x: x
    F.scaled_dot_product_attention = attend
if "SHARDED" in os.environ:
    config = yaml.safe_load(Path("configs/accelerate/fsdp.yaml").read_text(encoding="utf-8"))
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ |= {name.upper(): str(value) for name, value in config["fsdp_config"].items()}
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
if "DIE_AT" in os.environ:
    app.training.step.train_step = step_or_die
if "SLOW_BATCHES" in os.environ:
    data.collate.Collate.__call__ = read_slowly
train.main(sys.argv[1:])
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
if "SHARDED" in os.environ:
    # DTensor's caches keep gloo's threads past the end of the process group; one that lets go of a tensor while the
    # interpreter ends aborts the process (pytorch/pytorch#190489).
    sys.stdout.flush()
    os._exit(0)
assert not any("gloo" in thread for thread in threads), "the process group is left to the interpreter's end"
