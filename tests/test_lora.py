"""LoRA: small matrices are trained in the text encoder and merged into the saved model."""

import pytest
import torch
from tiny import arguments
from torch import nn
from transformers import BertModel

import app.training.fit
import train
from app.inference.load import load_model
from app.training.optimizer import parameter_groups
from models.lora import add_lora, merge_lora

pytestmark = pytest.mark.usefixtures("blank_charts")


BATCH = {
    "pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "input_ids": torch.tensor([[5, 6, 7], [8, 9, 5]]),
    "attention_mask": torch.ones(2, 3, dtype=torch.long),
}


def test_a_new_adapter_does_not_change_the_output(model):
    before = model(**BATCH).logits
    add_lora(model, 4)
    torch.testing.assert_close(model(**BATCH).logits, before)


def test_every_linear_layer_of_the_text_encoder_has_an_adapter_and_only_adapters_learn_in_it(model):
    linear = [module for module in model.text_encoder.modules() if isinstance(module, nn.Linear)]
    add_lora(model, 4)
    parameter_groups(
        model, 0.1, dict.fromkeys(("text_encoder", "image_encoder", "fusion", "classifier", "probe"), 1.0), 0.0
    )
    learn = [name for name, parameter in model.text_encoder.named_parameters() if parameter.requires_grad]
    assert len(learn) == 2 * len(linear)
    assert all("lora_" in name for name in learn)
    assert all(parameter.requires_grad for parameter in model.fusions.parameters())


def test_merging_keeps_the_answers_and_leaves_the_trained_model_unchanged(model):
    names = set(model.state_dict())
    add_lora(model, 4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    before = model(**BATCH).logits
    merged = merge_lora(model)
    assert set(merged.state_dict()) == names
    torch.testing.assert_close(merged(**BATCH).logits, before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        merged(**BATCH).logits, merged(**BATCH | {"input_ids": torch.tensor([[9, 9, 9]] * 2)}).logits
    )
    assert set(model.state_dict()) != names


def test_a_run_with_lora_resumes_after_an_interruption_and_saves_a_model_without_adapters(
    shapes_folder, tmp_path, pretrained, monkeypatch
):
    options = ["--model.text_encoder", pretrained, "--train.lora_rank", "2", "--train.mixed_precision", "no"]
    whole = train.main(arguments(shapes_folder, tmp_path / "whole", *options))
    model, _ = load_model(whole)
    assert not any("lora" in name for name in model.state_dict())
    start = BertModel.from_pretrained(pretrained, add_pooling_layer=False).state_dict()
    learnt = model.text_encoder.encoder.state_dict()
    assert not torch.equal(learnt["encoder.layer.0.output.dense.weight"], start["encoder.layer.0.output.dense.weight"])
    assert torch.equal(learnt["embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])

    validate = app.training.fit.validate

    def stop_after_one_epoch(settings, data, training, accelerator, run, progress, *rest):
        if progress.epoch == 1:
            raise KeyboardInterrupt
        validate(settings, data, training, accelerator, run, progress, *rest)

    monkeypatch.setattr(app.training.fit, "validate", stop_after_one_epoch)
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments(shapes_folder, tmp_path / "halves", *options))
    monkeypatch.undo()
    halves, _ = load_model(train.main(arguments(shapes_folder, tmp_path / "halves", *options)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, halves.state_dict()[name]), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "lora_rank needs a pretrained text encoder, and 'scratch' is not one"),
        (["--model.text_encoder", "PRETRAINED", "--train.scales.text_encoder", "0"], "freezes it"),
    ],
)
def test_lora_without_a_trainable_pretrained_encoder_is_refused(
    shapes_folder, tmp_path, pretrained, capsys, more, message
):
    more = [pretrained if value == "PRETRAINED" else value for value in more]
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path / "run", "--train.lora_rank", "2", *more))
    assert message in capsys.readouterr().err
