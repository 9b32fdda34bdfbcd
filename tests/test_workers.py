"""Worker processes that read data end with their parent process."""

import multiprocessing
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from data.workers import end_workers_at_exit, ignore_stop_signals


def read_and_exit() -> None:
    """Exit with a code while workers wait for the next batch."""
    end_workers_at_exit()
    loader = DataLoader(
        torch.arange(64), batch_size=1, num_workers=2, persistent_workers=True, worker_init_fn=ignore_stop_signals
    )
    batches = iter(loader)
    next(batches)
    sys.exit(3)


@pytest.mark.slow
def test_a_process_with_workers_ends_with_its_own_exit_code():
    process = multiprocessing.get_context("spawn").Process(target=read_and_exit)
    process.start()
    process.join(timeout=240)
    has_ended = process.exitcode is not None
    process.kill()
    assert has_ended
    assert process.exitcode == 3
