"""Training over two machines, as two agents of torchrun on this one, each with a checkout of its own."""

import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from forked import Forked
from tiny import ROOT, arguments

SECONDS = 240
"""After which processes are killed that do not end."""
OPTIONS = ["--model.modality_dropout", "0.2", "--model.fusion_dropout", "0.2", "--train.augment", "true"]
OPTIONS += ["--train.batch_size", "4"]
"""An epoch has 2 steps of two batches."""


def options(run_dir: Path, *more: str) -> list[str]:
    """Options of train.py: the tables are in each machine's own folder, and the run folder is shared."""
    return arguments(Path("rows"), run_dir, *OPTIONS, *more)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def copy_checkout(folder: Path, tables: Path) -> None:
    """Make a folder with the code of this repository, and in ``rows/`` a copy of tables and their pictures."""
    hidden = shutil.ignore_patterns("__pycache__")
    for name in ("app", "data", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=hidden)
    for name in ("train.py", "tests/launched_train.py", "tests/tiny.py", "tests/forked.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(tables, folder / "rows")


@dataclass
class Node:
    """The agent of one machine; its output goes to a file."""

    agent: Forked
    log: Path

    @classmethod
    def start(cls, command: list[str], checkout: Path, log: Path, **environment: str) -> "Node":
        env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
        log.unlink(missing_ok=True)
        return cls(Forked(command, log, checkout, env | environment), log)

    def wait(self) -> int:
        """The exit code of the agent."""
        try:
            return self.agent.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.agent.send_signal(signal.SIGTERM)  # the agent ends its processes
            self.agent.wait(SECONDS)
            raise

    @property
    def output(self) -> str:
        return self.log.read_text()


def start_nodes(
    checkouts: list[Path],
    options: list[str],
    rendezvous: str = "static",
    processes: int = 1,
    environments: tuple[dict[str, str], ...] = ({}, {}),
) -> list[Node]:
    """Start a training on two machines; each has the environment of its place."""
    port, nodes = free_port(), []
    for rank, (checkout, environment) in enumerate(zip(checkouts, environments, strict=True)):
        command = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", str(processes)]
        if rendezvous == "static":
            command += ["--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", str(port)]
        else:
            command += ["--rdzv_backend", rendezvous, "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
        command += ["tests/launched_train.py", *options]
        nodes.append(Node.start(command, checkout, checkout / "output", **environment))
    return nodes


def wait_for_both(nodes: list[Node]) -> list[int]:
    """The exit codes of the agents."""
    try:
        return [node.wait() for node in nodes]
    finally:
        for node in nodes:
            node.agent.terminate()
