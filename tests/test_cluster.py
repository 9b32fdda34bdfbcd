"""The scripts of docs/cluster.md do what the page says, as far as one machine can show it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from interrupted import assert_same
from nodes import SECONDS, copy_checkout, free_port, options
from tiny import ROOT
from torch.distributed.run import get_args_parser

from app.settings_parser import parse_settings
from app.training.checkpoint import Checkpoints

PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
COMMAND = "train.py configs/mine.yaml --run_dir /shared/runs/mine"
PROGRAMS = {
    "srun": """
        [ -z "${FAIL:-}" ] || exit "$FAIL"
        rm -f "$MACHINES/pids"
        for machine in first second; do
            (cd "$MACHINES/$machine" && PYTHONPATH=$PWD exec "$@") >> "$MACHINES/output" 2>&1 &
            echo $! >> "$MACHINES/pids"
        done
        code=0
        for pid in $(cat "$MACHINES/pids"); do wait "$pid" || code=$?; done
        exit "$code"
    """,
    "scontrol": """
        case "$1" in show) echo 127.0.0.1 ;; requeue) echo "$2" >> "$MACHINES/requeued" ;; esac
    """,
    "scancel": """
        for pid in $(cat "$MACHINES/pids"); do kill -TERM "$pid" $(cat "/proc/$pid/task/$pid/children"); done
    """,
}
"""What stands for the programs of Slurm: two machines in two folders. A signal reaches all processes of a step."""


def block(heading: str, language: str) -> str:
    """The only code block in a language below a heading of the page."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{heading}\n"))
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def machines(shapes_folder, tmp_path_factory) -> Path:
    """A folder with a checkout for each of two machines, and the programs of Slurm in ``bin``."""
    base = tmp_path_factory.mktemp("cluster")
    for name in ("first", "second"):
        copy_checkout(base / name, shapes_folder)
    (base / "bin").mkdir()
    for name, lines in PROGRAMS.items():
        (base / "bin" / name).write_text(f"#!/bin/bash\n{lines}")
        (base / "bin" / name).chmod(0o755)
    return base


def run_slurm(machines: Path, run_dir: Path, **environment: str) -> subprocess.Popen:
    """The batch script of the page, with a tiny training in the place of its own."""
    script = block("Slurm", "bash")
    ours = {COMMAND: " ".join(["tests/launched_train.py", *map(repr, options(run_dir))])}
    ours |= {"--nproc_per_node 4": "--nproc_per_node 1", "OMP_NUM_THREADS=4": "OMP_NUM_THREADS=1"}
    for theirs, own in ours.items():
        assert script.count(theirs) == 1
        script = script.replace(theirs, own)
    path = f"{machines / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_JOB_ID": str(free_port() - 20000)}
    env = os.environ | slurm | {"MACHINES": str(machines), "PATH": path, "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(["bash", "-c", script], env=env | environment, cwd=machines)


@pytest.fixture(scope="module")
def slurm_run(machines, tmp_path_factory) -> Path:
    """A run that Slurm stopped at its time limit, queued again, and started a second time."""
    run_dir = tmp_path_factory.mktemp("slurm") / "run"
    read, output = run_dir.parent / "read", machines / "output"
    job = run_slurm(machines, run_dir, SLOW_BATCHES=str(read))
    end = time.monotonic() + 150
    while not read.exists():
        assert job.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(SECONDS) == 0, output.read_text()
    assert len((machines / "requeued").read_text().split()) == 1
    assert [path.name for path in Checkpoints(run_dir / "checkpoints").all()] == ["step_00000002"]
    assert run_slurm(machines, run_dir).wait(SECONDS) == 0, output.read_text()
    return run_dir


@pytest.mark.slow
def test_the_slurm_script_stops_before_the_time_limit_and_its_second_start_finishes_the_run(slurm_run, machines):
    output = (machines / "output").read_text()
    assert output.count("resuming after step 2") == 1
    assert (slurm_run / "summary.txt").exists()
    assert len((machines / "requeued").read_text().split()) == 1, "a finished run is not queued again"


def test_the_slurm_script_does_not_repeat_an_error(machines, tmp_path):
    queued = machines / "requeued"
    before = queued.read_text() if queued.exists() else ""
    assert run_slurm(machines, tmp_path / "run", FAIL="2").wait(SECONDS) == 2
    assert (queued.read_text() if queued.exists() else "") == before


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(tmp_path):
    (tmp_path / "script.sh").write_text(block("Slurm", "bash"))
    done = subprocess.run(["shellcheck", tmp_path / "script.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_the_ray_script_learns_what_torchrun_learns_bit_by_bit(slurm_run, machines, tmp_path):
    script = machines / "first/ray_train.py"
    script.write_text(block("Ray", "python"))
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    command = [sys.executable, str(script), *options(tmp_path / "run")]
    done = subprocess.run(
        command, cwd=script.parent, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "run", slurm_run)


def substitute(word: str, values: dict[str, str]) -> str:
    """A word of a command with its ``$(NAME)`` replaced, as Kubernetes does it."""
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word)


def test_the_command_of_the_kubernetes_job_is_one_of_torchrun_and_train():
    job = yaml.safe_load(block("Kubernetes", "yaml"))
    machines = job["spec"]["pytorchReplicaSpecs"]
    number = sum(machine["replicas"] for machine in machines.values())
    for rank, name in enumerate(["Master", "Worker"]):
        pod = machines[name]["template"]["spec"]
        (container,) = pod["containers"]
        values = {"RANK": str(rank), "MASTER_ADDR": "mine-master-0", "MASTER_PORT": "23456"}
        program, *command = (substitute(word, values) for word in container["command"])
        found = get_args_parser().parse_args(command)
        assert program == "torchrun"
        assert (found.nnodes, found.node_rank, found.master_addr) == (str(number), rank, "mine-master-0")
        assert int(found.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
        assert (ROOT / found.training_script).name == "train.py"
        own = [
            word.replace("configs/mine.yaml", str(ROOT / "configs/quickstart.yaml"))
            for word in found.training_script_args
        ]
        assert parse_settings(own).run_dir == "/shared/runs/mine"
        (grace,) = (int(one["value"]) for one in container["env"] if one["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
        assert grace < pod["terminationGracePeriodSeconds"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
