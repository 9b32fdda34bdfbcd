"""Features of frozen encoders are computed once and kept on disk; training from them gives the same losses."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tiny import VGG16, arguments

import train
from app.settings_parser import parse_settings
from app.training.feature_cache import FeatureCache
from app.training.trainer import build
from data import DataSettings, FeatureStore, InputCollate, load_rows, prepare_data, verify_images
from models import ImageTextClassifier
from models.vgg import VGG16Encoder

FROZEN = ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0", "--train.mixed_precision", "no"]
FROZEN += VGG16


pytestmark = pytest.mark.usefixtures("blank_charts")


def losses(run_dir) -> list[float]:
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [value for record in records for name, value in record.items() if name.endswith("loss")]


@pytest.fixture
def passes(monkeypatch) -> dict[str, int]:
    """Numbers of images in the passes of VGG16 and of its last block, and of texts in those of the text encoder."""
    seen = {"images": 0, "last block": 0, "texts": 0}
    run, encode = VGG16Encoder.run, ImageTextClassifier.encode_texts

    def count_images(self, x, after, upto):
        if after == 0 < upto:
            seen["images"] += len(x)
        if upto == 5 and after < 5:
            seen["last block"] += len(x)
        return run(self, x, after, upto)

    def count_texts(self, texts, *rest):
        seen["texts"] += 0 if texts is None or texts.is_floating_point() else len(texts)
        return encode(self, texts, *rest)

    monkeypatch.setattr(VGG16Encoder, "run", count_images)
    monkeypatch.setattr(ImageTextClassifier, "encode_texts", count_texts)
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    return seen


def test_a_frozen_encoder_sees_each_image_and_each_text_once_in_all_epochs_and_runs(shapes_folder, tmp_path, passes):
    train.main(arguments(shapes_folder, tmp_path / "first", *FROZEN, "--train.epochs", "3"))
    assert passes == {"images": 24, "last block": 24, "texts": 0}
    train.main(arguments(shapes_folder, tmp_path / "second", *FROZEN, "--train.learning_rate", "0.01"))
    assert passes["images"] == 24, "the second run reads what the first has computed"


@pytest.mark.parametrize(("precision", "levels"), [("no", "[4,5]"), ("bf16", "[5]")])
def test_training_from_the_cache_gives_the_same_losses_as_without_it(
    shapes_folder, tmp_path, monkeypatch, precision, levels
):
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    for name, more in (("cached", []), ("computed", ["--train.cache_features", "false"])):
        precise = ["--train.mixed_precision", precision, "--model.levels", levels]
        train.main(arguments(shapes_folder, tmp_path / name, *FROZEN, *precise, *more))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "computed"), rel=5e-3)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cached", "computed")]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.parametrize("cached", ["true", "false"])
def test_frozen_blocks_keep_their_weights_and_statistics(shapes_folder, tmp_path, passes, cached):
    some = [*VGG16, "--train.frozen_blocks", "3", "--train.cache_features", cached, "--model.levels", "[4,5]"]
    train.main(arguments(shapes_folder, tmp_path / "run", *some))
    assert (passes["images"] == 24) == (cached == "true"), "frozen blocks are run once an image where there is a cache"
    before, _ = build(parse_settings(arguments(shapes_folder, tmp_path, *some)), *prepared(shapes_folder))
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    first = before.image_encoder.ends[3]
    for name, tensor in before.image_encoder.features.state_dict().items():
        same = torch.equal(tensor, after[f"image_encoder.features.{name}"])
        if int(name.split(".")[0]) < first:
            assert same, f"{name} is frozen"
        elif name.endswith("running_mean"):
            assert not same, f"{name} is trained"


def prepared(folder):
    from accelerate.utils import set_seed

    settings = parse_settings(arguments(folder, folder))
    data = prepare_data(settings.data, settings.train.seed)
    set_seed(settings.train.seed)
    return (data,)


def store_of(tmp_path, model, processor, shapes_folder, **accelerator) -> FeatureStore:
    given = DataSettings()
    rows, _ = verify_images(load_rows(str(shapes_folder / "train.csv"), "train", given), given)
    cache = FeatureCache(tmp_path, processor, Accelerator(cpu=True, **accelerator), batch_size=8)
    return cache.images(model.image_encoder, [rows], InputCollate(processor), 5)


def test_other_weights_or_preprocessing_are_another_store(tmp_path, model, processor, shapes_folder):
    first = store_of(tmp_path, model, processor, shapes_folder)
    assert store_of(tmp_path, model, processor, shapes_folder).folder == first.folder
    processor = copy.deepcopy(processor)  # others use it
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    other = store_of(tmp_path, model, processor, shapes_folder).folder
    with torch.no_grad():
        model.image_encoder.features[0].bias[0] += 1
    assert len({first.folder, other, store_of(tmp_path, model, processor, shapes_folder).folder}) == 3


def test_runs_of_different_precision_do_not_share_a_store(tmp_path, model, processor):
    folders = {
        FeatureCache(tmp_path, processor, SimpleNamespace(mixed_precision=precision), batch_size=8)
        .open("image", model.image_encoder, processor.image_processor)
        .folder
        for precision in ("no", "fp16", "bf16")
    }
    assert len(folders) == 3


def test_only_new_images_and_damaged_files_are_computed(tmp_path, model, processor, shapes_folder, capsys):
    whole = store_of(tmp_path, model, processor, shapes_folder)
    key, kept = next(iter(whole.features.items()))
    file = next(whole.folder.iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    again = store_of(tmp_path, model, processor, shapes_folder)
    assert "damaged" in capsys.readouterr().out
    torch.testing.assert_close(again[key], kept)
    seen = []
    model.image_encoder.features[0].register_forward_hook(lambda module, x, y: seen.append(len(y)))
    store_of(tmp_path, model, processor, shapes_folder)
    assert seen == []


def test_a_write_that_is_interrupted_leaves_nothing_that_a_store_reads(tmp_path, monkeypatch, capsys):
    store = FeatureStore(tmp_path)
    store.add({"a": torch.ones(2, 3)})

    def write_half(tensors, path, metadata):
        save_file(tensors, path, metadata)
        path.write_bytes(path.read_bytes()[:-4])
        raise KeyboardInterrupt

    monkeypatch.setattr("data.feature_store.save_file", write_half)
    with pytest.raises(KeyboardInterrupt):
        store.add({"b": torch.ones(2, 3)})
    assert FeatureStore(tmp_path).features.keys() == {"a"}
    assert "damaged" not in capsys.readouterr().out


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"a part")
        raise OSError("No space left on device")

    monkeypatch.setattr("data.feature_store.save_file", fail)
    with pytest.raises(ValueError, match="No space left"):
        FeatureStore(tmp_path).add({"a": torch.ones(2, 3)})
    assert list(tmp_path.iterdir()) == []


def test_a_pickled_store_holds_only_the_name_of_its_folder(tmp_path):
    import pickle

    store = FeatureStore(tmp_path)
    store.add({"a": torch.ones(2, 3), "b": torch.zeros(1, 3)})
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)["a"], torch.ones(2, 3))


def test_features_that_do_not_fit_on_the_disk_or_in_half_precision_are_refused(
    tmp_path, model, processor, shapes_folder, monkeypatch
):
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 10))
        with pytest.raises(ValueError, match=r"features of 24 images .*do not fit.*--train.cache_features false"):
            store_of(tmp_path, model, processor, shapes_folder)
    with torch.no_grad():
        model.image_encoder.features[-2].forward = lambda x: x * 1e9
    with pytest.raises(ValueError, match=r"larger than torch.float16 can hold.*--train.cache_features false"):
        store_of(tmp_path, model, processor, shapes_folder)
