"""Training rows that are read as a stream."""

import math
from collections import Counter

import pytest

from data import DataSettings, InputCollate, StreamedBatches, load_rows, prepare_data, stream_loader, verify_images
from data.errors import UserError


@pytest.fixture
def streamed(shapes_folder):
    settings = DataSettings(streaming=True)
    return verify_images(load_rows(str(shapes_folder / "train.csv"), "train", settings), settings)[0]


def test_a_stream_has_the_rows_of_the_table(streamed, shapes_folder):
    settings = DataSettings()
    table, _ = verify_images(load_rows(str(shapes_folder / "train.csv"), "train", settings), settings)
    assert streamed.is_stream
    assert not table.is_stream
    assert list(streamed) == [table[i] for i in range(len(table))]


@pytest.mark.parametrize("buffer", [1, 40, 10_000])
def test_batches_hold_whole_images_and_no_row_twice(streamed, buffer):
    batches = list(StreamedBatches(streamed, 5, buffer, seed=0))
    assert len(batches) == 24 // 5
    rows = [example.row for batch in batches for example in batch]
    assert len(rows) == len(set(rows))
    for batch in batches:
        keys = {example.image_key for example in batch}
        assert len(keys) == 5
        assert len(batch) == sum(streamed.image_keys.count(key) for key in keys), "an image brings all its texts"


def test_an_image_with_many_texts_is_divided_into_several_units(streamed):
    batches = StreamedBatches(streamed, 5, 40, seed=0, max_texts_per_image=3)
    batched = list(batches)
    pieces = sum(math.ceil(number / 3) for number in Counter(streamed.image_keys).values())
    assert len(batched) == len(batches) == pieces // 5
    assert all(5 <= len(batch) <= 15 for batch in batched)
    rows = [example.row for batch in batched for example in batch]
    assert len(rows) == len(set(rows)) >= len(streamed) - 15


def test_the_order_depends_only_on_seed_and_epoch(streamed):
    def order(seed: int, epoch: int) -> list[int]:
        batches = StreamedBatches(streamed, 4, 60, seed)
        batches.set_epoch(epoch)
        return [example.row for batch in batches for example in batch]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_processes_share_the_stream_without_overlap(streamed):
    shares = [
        {
            example.row
            for batch in StreamedBatches(streamed, 4, 60, 0, num_processes=2, process_index=process)
            for example in batch
        }
        for process in (0, 1)
    ]
    keys = [{streamed.image_keys[row] for row in share} for share in shares]
    assert [len(share) for share in keys] == [12, 12]
    assert not shares[0] & shares[1]


def test_too_few_images_for_a_batch_on_each_process_are_refused(streamed):
    with pytest.raises(UserError, match="24 images make no batch of 13 for each of 2 processes; lower"):
        StreamedBatches(streamed, 13, 60, 0, num_processes=2)
    assert len(list(StreamedBatches(streamed, 25, 60, 0))) == 1, "one process has a batch of all images"


@pytest.mark.parametrize("process", [0, 1])
def test_a_stream_can_resume_at_any_batch(streamed, process):
    batches = StreamedBatches(streamed, 4, 60, 0, num_processes=2, process_index=process)
    batches.set_epoch(3)
    whole = list(batches)
    for start in range(len(whole) + 1):
        batches.set_epoch(3, start)
        assert list(batches) == whole[start:]


def test_a_loader_gives_tensors_and_follows_the_epoch(streamed, processor):
    batches = StreamedBatches(streamed, 4, 60, seed=0)
    loader = stream_loader(batches, InputCollate(processor))
    first = [batch["input_ids"].tolist() for batch in loader]
    batches.set_epoch(1)
    second = [batch["input_ids"].tolist() for batch in loader]
    assert len(first) == len(second) == 6
    assert first != second


def test_a_stream_without_validation_rows_is_an_error(shapes_folder):
    with pytest.raises(ValueError, match=r"A stream cannot be split.*--data.validation FILE"):
        prepare_data(DataSettings(train=str(shapes_folder / "train.csv"), streaming=True), seed=0)
