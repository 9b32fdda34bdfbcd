"""Worker processes that read data: they end with their parent process, which raises their errors."""

import multiprocessing
import shutil
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from data import DataSettings, ImageBatchSampler, InputCollate, StreamedBatches, load_rows, make_loader, stream_loader
from data.image_check import verify_images
from data.image_formats import BadImageError
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


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_that_a_worker_cannot_read_is_an_error_with_one_line(streaming, shapes_folder, processor, tmp_path):
    shutil.copytree(shapes_folder, tmp_path / "data")
    given, collate = DataSettings(streaming=streaming), InputCollate(processor)
    rows, _ = verify_images(load_rows(str(tmp_path / "data/train.csv"), "train", given), given)
    next((tmp_path / "data/images/train").iterdir()).unlink()
    if streaming:
        loader = stream_loader(StreamedBatches(rows, 4, 60, seed=0), collate)
    else:
        loader = make_loader(rows, ImageBatchSampler(rows.image_keys, 4, shuffle=True), collate, 2)
    with pytest.raises(BadImageError, match=r"^The image of row \d+ cannot be read: [^\n]*$"):
        list(loader)
