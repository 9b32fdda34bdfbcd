import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import (
    Collate,
    DataSettings,
    Example,
    ImageBatchSampler,
    InputCollate,
    Rows,
    load_rows,
    make_loader,
    verify_images,
)
from data.image_check import ImageInfo, inspect_images
from data.string_column import write_columns

image_keys = st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None)
@given(keys=image_keys, size=st.integers(1, 9), most=st.integers(1, 70), processes=st.integers(1, 4))
def test_unshuffled_batches_hold_every_row_once_over_all_processes(keys, size, most, processes):
    batches = []
    for process in range(processes):
        sampler = ImageBatchSampler(
            keys, size, shuffle=False, max_texts_per_image=most, num_processes=processes, process_index=process
        )
        mine = list(sampler)
        assert len(mine) == len(sampler)
        batches += mine
    assert sorted(row for batch in batches for row in batch) == list(range(len(keys)))


@settings(max_examples=50, deadline=None)
@given(keys=image_keys, size=st.integers(1, 9), seed=st.integers(0, 1000))
def test_all_texts_of_an_image_are_in_one_batch(keys, size, seed):
    sampler = ImageBatchSampler(keys, size, shuffle=True, seed=seed)
    place = {row: number for number, batch in enumerate(sampler) for row in batch}
    for key in set(keys) - {None}:
        assert len({place.get(row) for row, k in enumerate(keys) if k == key}) == 1


def test_the_order_depends_only_on_seed_and_epoch():
    keys = [str(i // 3) for i in range(90)]

    def order(seed: int, epoch: int) -> list:
        torch.rand(torch.randint(1, 9, ()))
        sampler = ImageBatchSampler(keys, 4, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_shuffled_batches_are_full_and_every_process_has_the_same_number():
    keys = [str(i) for i in range(50)]
    samplers = [ImageBatchSampler(keys, 8, shuffle=True, num_processes=2, process_index=process) for process in (0, 1)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(b) for b in batches] == [len(s) for s in samplers] == [3, 3]
    assert all(len(batch) == 8 for mine in batches for batch in mine)
    assert not {r for b in batches[0] for r in b} & {r for b in batches[1] for r in b}


def test_fewer_images_than_the_batch_size_make_one_batch():
    assert list(ImageBatchSampler(["a", "b"], 8, shuffle=False)) == [[0, 1]]
    assert len(list(ImageBatchSampler(["a", "b"], 8, shuffle=True))) == 1


def test_too_few_images_for_all_processes_are_an_error():
    with pytest.raises(ValueError, match=r"2 images make no batch of 8 for each of 2 processes"):
        len(ImageBatchSampler(["a", "b"], 8, shuffle=True, num_processes=2))


def test_an_image_with_many_texts_is_divided_into_several_units():
    batches = list(ImageBatchSampler(["a"] * 10, 1, shuffle=False, max_texts_per_image=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]


@pytest.mark.parametrize("process", [0, 1])
def test_an_epoch_can_resume_at_any_batch(process):
    keys = [str(i // 3) for i in range(60)]
    sampler = ImageBatchSampler(keys, 3, shuffle=True, seed=4, num_processes=2, process_index=process)
    sampler.set_epoch(7)
    whole = list(sampler)
    for start in range(len(whole) + 1):
        sampler.set_epoch(7, start)
        assert list(sampler) == whole[start:]


def test_a_batch_holds_each_image_and_each_text_once_with_an_index_for_each_row(shapes_folder, processor):
    given = DataSettings()
    rows, _ = verify_images(load_rows(str(shapes_folder / "train.csv"), "train", given), given)
    collate = Collate(InputCollate(processor), {name: i for i, name in enumerate(sorted(set(rows.labels) - {"red"}))})
    batch, targets = next(iter(make_loader(rows, ImageBatchSampler(rows.image_keys, 4, shuffle=True), collate, 0)))
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    indices = next(iter(ImageBatchSampler(rows.image_keys, 4, shuffle=True)))
    assert batch["image_index"].shape == targets.labels.shape == (len(indices),)
    assert set(batch["image_index"].tolist()) == {0, 1, 2, 3}
    for place, row in enumerate(indices):
        assert (targets.labels[place] == -100) == (rows.labels[row] == "red")
        alone = collate.inputs([rows[row]])
        torch.testing.assert_close(batch["pixel_values"][batch["image_index"][place]], alone["pixel_values"][0])
        length = alone["attention_mask"].sum()
        text = batch["text_index"][place]
        assert torch.equal(batch["input_ids"][text, :length], alone["input_ids"][0, :length])
    assert len(batch["input_ids"]) == len({rows.texts[row] for row in indices}) < len(indices)


def test_a_shared_image_is_read_once_for_a_batch(shapes_folder, processor, monkeypatch):
    given = DataSettings()
    rows, _ = verify_images(load_rows(str(shapes_folder / "train.csv"), "train", given), given)
    one_by_one = [rows[i] for i in range(12)]
    read = []
    monkeypatch.setattr(Rows, "read_image", lambda self, number: read.append(number) or one_by_one[number].image)
    assert rows.__getitems__(range(12)) == one_by_one
    assert len(read) == len(set(rows.image_keys[:12])) < 12
    (rows.image_keys,) = write_columns([[None]] * len(rows), 1)
    assert [example.image for example in rows.__getitems__([1, 0])] == [one_by_one[1].image, one_by_one[0].image]
    assert len(read) == len({one.image_key for one in one_by_one}) + 2, "rows without a key stand for themselves"


def test_each_file_is_inspected_once_and_each_embedded_image_separately(shapes_folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "data.image_check.inspect_image", lambda image, settings: seen.append(image) or ImageInfo(str(image))
    )
    images = ["a", "b", {"bytes": b"1"}, "a", None] * 30
    assert [info.name for info in inspect_images(iter(images), DataSettings())] == [str(image) for image in images]
    assert sorted(map(str, seen)) == sorted(["a", "b", *["{'bytes': b'1'}", "None"] * 30])


def test_missing_images_and_texts_have_index_minus_1(processor):
    batch, targets = Collate(InputCollate(processor), {"a": 0})(
        [Example(0, None, "red", "a"), Example(1, None, None, "b")]
    )
    assert "pixel_values" not in batch
    assert batch["image_index"].tolist() == [-1, -1]
    assert batch["text_index"].tolist() == [0, -1]
    assert targets.rows.tolist() == [0, 1]
    assert targets.labels.tolist() == [0, -100]


def test_examples_without_labels_have_inputs_and_no_targets(processor):
    collate = Collate(InputCollate(processor), {"a": 0})
    assert collate.inputs([Example(0, None, "red")]).keys() == {
        "input_ids",
        "attention_mask",
        "image_index",
        "text_index",
    }
    with pytest.raises(AssertionError, match="labelled"):
        collate([Example(0, None, "red")])
