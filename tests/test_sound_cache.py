"""Tokens of a frozen audio encoder are computed once and kept on disk; training from them gives the same losses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from interrupted import Clock, Killed, assert_same, run_until
from safetensors import safe_open
from tiny import TINY, launch, shared_encoder

import data.audio
import train
from app.settings_parser import parse_settings
from app.training.feature_cache import FOLDER, FeatureCache
from app.training.trainer import build
from data import FeatureStore, InputCollate, Rows, prepare_data
from data.audio import decode_sound
from data.string_column import write_columns
from models import ImageTextClassifier

pytestmark = pytest.mark.usefixtures("blank_charts")

SOURCES = ["--data.train", "tones:6", "--data.validation", "tones:2", "--data.test", "tones:2"]
SOUND = ["--context.sound", "audio", "--model.audio_encoder", "scratch", "--model.audio_seconds", "1"]
FROZEN = ["--train.scales.audio_encoder", "0"]


def command(run_dir: Path, *more: str) -> list[str]:
    """A command line for train.py: pictures with four tones each, two epochs, a frozen audio encoder."""
    model = ["--model.image_encoder", shared_encoder(), "--train.batch_size", "2"]
    return [*SOURCES, *TINY, *SOUND, *FROZEN, *model, "--train.epochs", "2", "--run_dir", str(run_dir), *more]


@pytest.fixture
def decoded(monkeypatch) -> list:
    """The sounds that are decoded as inputs of the encoder."""
    found: list = []
    monkeypatch.setattr(data.audio, "decode_sound", lambda *args: found.append(args) or decode_sound(*args))
    return found


def losses(run_dir: Path) -> list[float]:
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [value for record in records for name, value in record.items() if name.endswith("loss")]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_from_stored_sounds_gives_the_results_of_training_without_them(tmp_path, precision):
    runs = {"stored": [], "computed": ["--train.cache_features", "false"]}
    fast = ["--train.learning_rate", "0.01", "--train.epochs", "4", "--train.mixed_precision", precision]
    for name, more in runs.items():
        train.main(command(tmp_path / name, *fast, *more))
    assert losses(tmp_path / "stored") == pytest.approx(losses(tmp_path / "computed"), rel=1e-2)
    stored, computed = (
        pd.read_parquet(tmp_path / name / "evaluation/test/predictions.parquet")["probability"] for name in runs
    )
    assert stored.to_numpy() == pytest.approx(computed.to_numpy(), abs=1e-2)


def test_a_sound_is_decoded_once_in_all_epochs_and_runs(tmp_path, monkeypatch, decoded):
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    train.main(command(tmp_path / "first"))
    assert len(decoded) == 32, "24 training rows and 8 validation rows"
    train.main(command(tmp_path / "second", "--train.learning_rate", "0.01"))
    assert len(decoded) == 32, "the second run reads what the first has computed"


def test_a_run_that_is_killed_goes_on_from_stored_sounds_with_the_same_result(tmp_path, decoded):
    random = ["--model.modality_dropout", "0.2", "--model.fusion_dropout", "0.2", "--train.checkpoint_steps", "1"]
    whole, halves = (command(tmp_path / name / "run", *random) for name in ("whole", "halves"))
    train.main(whole)
    with pytest.raises(Killed):
        run_until(Clock(30), halves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureStore, "add", lambda *args: pytest.fail("all sounds are stored"))
        train.main(halves)
    assert_same(tmp_path / "halves/run", tmp_path / "whole/run")


def test_two_processes_share_the_sounds_and_store_each_once(tmp_path):
    done = launch(2, "train.py", command(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / FOLDER).glob("sound_*")
    assert [len(keys_in(file)) for file in folder.iterdir()] == [16, 16]
    assert len(FeatureStore(folder).features) == 32


def keys_in(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["keys"])


@pytest.fixture
def built(tmp_path) -> tuple[ImageTextClassifier, InputCollate, Rows]:
    """A model that hears, and 24 rows with tones; the first has none, the second and the third have the same."""
    settings = parse_settings(command(tmp_path / "run"))
    prepared = prepare_data(settings.data, 0)
    model, processor = build(settings, prepared)
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)  # the sound matters
    rows = prepared.splits["train"]
    keys = list(rows.context_keys["sound"])
    (changed,) = write_columns([[key] for key in (None, keys[1], keys[1], *keys[3:])], 1)
    rows = replace(rows, context_keys={"sound": changed})
    return model.eval(), InputCollate.of(processor, model.config), rows


def store_of(tmp_path, model, collate, rows, precision="no", **changes) -> FeatureStore:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    cache = FeatureCache(tmp_path, collate.processor, accelerator, batch_size=8)
    spec = model.config.contexts[0] | changes
    return cache.sounds(model.contexts["sound"].tokens, [rows, rows], collate, spec)


@torch.inference_mode()
def test_stored_tokens_are_those_before_the_padding_and_give_the_same_logits(tmp_path, built):
    model, collate, rows = built
    store = store_of(tmp_path, *built)
    assert len(store.features) == 22, "one row has no sound, two have the same; a second split has no others"
    assert {tokens.shape for tokens in store.features.values()} == {(25, 128)}, "half a second, at 50 tokens a second"
    short = next(iter(store.features))
    store.features[short] = store.features[short][:10]
    stored = replace(collate, context_sounds={"sound": store})
    examples = rows.__getitems__(range(6))
    examples[2] = replace(examples[2], contexts={"sound": None})
    batch, whole = stored(examples), collate(examples)
    assert batch["contexts"]["sound"].keys() == {"index", "tokens", "mask"}
    assert batch["contexts"]["sound"]["mask"].sum(dim=1).tolist() == [10, 25, 25, 25]
    kept = [2, 3, 4, 5]
    torch.testing.assert_close(model(**batch).logits[kept], model(**whole).logits[kept], rtol=0, atol=1e-3)
    assert stored(examples[:1])["contexts"]["sound"].keys() == {"index"}


def test_other_weights_extractors_lengths_and_precisions_are_another_store(tmp_path, built):
    model, collate, rows = built
    parts = model, collate, rows.select([])
    first = store_of(tmp_path, *parts).folder
    assert store_of(tmp_path, *parts).folder == first
    louder = model.config.contexts[0]["extractor"] | {"dither": 0.1}
    changes = ({"extractor": louder}, {"seconds": 2}, {"precision": "bf16"})
    folders = [store_of(tmp_path, *parts, **change).folder for change in changes]
    with torch.no_grad():
        next(model.contexts["sound"].tokens.parameters()).add_(1)
    assert len({first, *folders, store_of(tmp_path, *parts).folder}) == 5


def test_sounds_that_do_not_fit_on_the_disk_or_in_half_precision_are_refused(tmp_path, built, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 10))
        with pytest.raises(ValueError, match=r"features of 22 sounds .*do not fit.*--train.cache_features false"):
            store_of(tmp_path, *built)
    with torch.no_grad():
        built[0].contexts["sound"].tokens.encoder.layer_norm.weight.mul_(1e9)
    with pytest.raises(ValueError, match=r"Features of sounds are larger than .*--train.cache_features false"):
        store_of(tmp_path, *built)
