"""Training over two machines gives the same result as over two processes of one, and can be stopped and resumed."""

import re
import signal
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from interrupted import assert_same
from nodes import Node, copy_checkout, options, start_nodes, wait_for_both
from tiny import NUM_TEST

from app.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow
EACH_STEP = ["--train.checkpoint_steps", "1"]


@pytest.fixture(scope="module")
def checkouts(shapes_folder, tmp_path_factory) -> list[Path]:
    """The folders in which the two machines work."""
    base = tmp_path_factory.mktemp("machines")
    for name in ("first", "second"):
        copy_checkout(base / name, shapes_folder)
    return [base / "first", base / "second"]


@pytest.fixture(scope="module")
def one_node(checkouts, tmp_path_factory) -> Path:
    """A run in two processes of one machine."""
    run_dir = tmp_path_factory.mktemp("one_node") / "run"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["tests/launched_train.py", *options(run_dir)]
    node = Node.start(command, checkouts[0], checkouts[0] / "output")
    assert node.wait() == 0, node.output
    return run_dir


@pytest.fixture(scope="module")
def two_nodes(checkouts, tmp_path_factory) -> Path:
    """A run over two machines; beside it, ``writes_0`` and ``writes_1`` list what each changed in its folder."""
    folder = tmp_path_factory.mktemp("two_nodes")
    environments = ({"WRITES": str(folder / "writes_0")}, {"WRITES": str(folder / "writes_1")})
    nodes = start_nodes(checkouts, options(folder / "run"), environments=environments)
    assert wait_for_both(nodes) == [0, 0], nodes[0].output + nodes[1].output
    return folder / "run"


def test_two_machines_learn_what_two_processes_of_one_learn_bit_by_bit(two_nodes, one_node):
    assert_same(two_nodes, one_node)


def test_each_held_out_row_is_answered_once(two_nodes):
    table = pd.read_parquet(two_nodes / "evaluation/test/predictions.parquet")
    assert Counter(table["row"]) == Counter(range(NUM_TEST))


def test_only_the_main_process_writes_the_run_folder(two_nodes):
    main, other = ((two_nodes.parent / f"writes_{rank}").read_text().splitlines() for rank in (0, 1))
    assert f"os.rename {two_nodes}/config.yaml.new" in main
    assert other == []


def test_an_error_in_the_data_is_printed_once_on_each_machine(checkouts, tmp_path):
    """Each machine has two processes."""
    nodes = start_nodes(checkouts, options(tmp_path / "run", "--data.label", "answer"), processes=2)
    assert 0 not in wait_for_both(nodes)
    for node in nodes:
        assert node.output.count("error: rows/train.csv has no column 'answer'") == 1, node.output
        assert 'launched_train.py"' not in node.output, "no process has a traceback"
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_second_machine_ends_the_first_with_the_same_message(checkouts, tmp_path):
    table = checkouts[1] / "rows/test.csv"
    table.rename(checkouts[1] / "rows/test.away")
    try:
        nodes = start_nodes(checkouts, options(tmp_path / "run"))
        assert 0 not in wait_for_both(nodes)
    finally:
        (checkouts[1] / "rows/test.away").rename(table)
    first, second = (re.findall(r"^error: .*", node.output, re.MULTILINE) for node in nodes)
    assert first == second, nodes[0].output
    assert len(first) == 1
    assert "rows/test.csv" in first[0]


def test_machines_that_do_not_share_the_run_folder_are_told_so_before_the_first_step(checkouts):
    environments = ({"PATIENCE": "1"}, {"PATIENCE": "1"})
    nodes = start_nodes(checkouts, options(Path("own/run")), environments=environments)
    assert 0 not in wait_for_both(nodes)
    for node in nodes:
        assert node.output.count("error: The processes do not share a run folder") == 1, node.output
        assert f"{checkouts[1]}/own/run" in node.output
        assert "epoch 1" not in node.output


def test_a_run_that_loses_a_machine_is_resumed_bit_by_bit(checkouts, two_nodes, tmp_path):
    command = options(tmp_path / "run", *EACH_STEP)
    nodes = start_nodes(checkouts, command, environments=({}, {"DIE_AT": "4"}))
    assert 0 not in wait_for_both(nodes)
    assert nodes[0].output.count("error: Another process of this training ended") == 1, nodes[0].output
    assert 'launched_train.py"' not in nodes[0].output
    assert Checkpoints(tmp_path / "run/checkpoints").all()[0].name == "step_00000003"
    nodes = start_nodes(checkouts, command, rendezvous="c10d")
    assert wait_for_both(nodes) == [0, 0], nodes[0].output + nodes[1].output
    assert "resuming after step 3" in nodes[0].output + nodes[1].output
    assert_same(tmp_path / "run", two_nodes)


def test_a_signal_to_one_machine_stops_both_with_a_checkpoint(checkouts, two_nodes, tmp_path):
    read = tmp_path / "read"
    command = options(tmp_path / "run", "--train.checkpoint_steps", "0")
    nodes = start_nodes(checkouts, command, environments=({}, {"SLOW_BATCHES": str(read)}))
    end = time.monotonic() + 120
    while not read.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    nodes[1].agent.send_signal(signal.SIGTERM)
    assert 0 not in wait_for_both(nodes)
    assert "stopped by SIGTERM after step 2; resume with: the command that started it" in nodes[0].output
    assert [path.name for path in Checkpoints(tmp_path / "run/checkpoints").all()] == ["step_00000002"]
    nodes = start_nodes(checkouts, command)
    assert wait_for_both(nodes) == [0, 0], nodes[0].output + nodes[1].output
    assert_same(tmp_path / "run", two_nodes)
