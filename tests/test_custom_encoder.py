"""A text encoder in a file of the user: saved with the model, run only with trust, and checked before training."""

import textwrap

import pytest
import torch
from tiny import shared_encoder

from models import ImageTextClassifier, ImageTextProcessor
from models.build import build_model
from models.custom_encoder import SAVED_NAME
from models.settings import ModelSettings

GOOD = """
    import torch
    from torch import nn

    class Words(nn.Module):
        hidden_size = 12

        def __init__(self, vocab_size, pad_token_id):
            super().__init__()
            self.embed = nn.Embedding(vocab_size, 12)

        def forward(self, input_ids, attention_mask):
            return self.embed(input_ids)
"""


def build(tmp_path, code: str = GOOD, name: str = "Words"):
    file = tmp_path / "my_encoder.py"
    file.write_text(textwrap.dedent(code))
    sizes = {"image_encoder": shared_encoder(), "image_size": 32, "classifier_hidden_size": 16}
    settings = ModelSettings(text_encoder=f"{file}:{name}", **sizes)
    return build_model(settings, ["a", "b"], ["one two three four", "five six"])


def test_an_encoder_in_one_file_trains_and_is_saved_beside_the_model(tmp_path):
    model, processor = build(tmp_path)
    batch = processor(None, ["one two", "five"])
    model(**batch, pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    folder = tmp_path / "model"
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    assert "class Words" in (folder / SAVED_NAME).read_text()
    (tmp_path / "my_encoder.py").unlink()
    loaded = ImageTextClassifier.from_pretrained(folder, trust_custom_encoder=True)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert ImageTextProcessor.from_pretrained(folder).tokenizer("one two") == processor.tokenizer("one two")
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / SAVED_NAME).is_file()


def test_a_saved_encoder_is_not_run_without_trust(tmp_path):
    model, _ = build(tmp_path)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / SAVED_NAME).write_text("raise SystemExit('the file was run')")
    with pytest.raises(ValueError, match=r"custom Python code.*trust_custom_encoder=True"):
        ImageTextClassifier.from_pretrained(tmp_path / "model")


def test_a_class_may_bring_its_own_tokenizer(tmp_path):
    code = GOOD + textwrap.indent(
        textwrap.dedent("""
        @staticmethod
        def tokenizer(texts):
            from models.text_encoder import train_tokenizer
            return train_tokenizer(["zebra"] * 9)
    """),
        "        ",
    )
    _, processor = build(tmp_path, code)
    assert "Ġzebra" in processor.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden_size = 12", "hidden_size = None", "hidden_size must be a positive integer"),
        ("hidden_size = 12", "hidden_size = 10", r"shape \(2, 6, 12\), expected \(2, 6, 10\)"),
        ("return self.embed(input_ids)", "return self.embed(input_ids).mean(1)", "one feature vector per token"),
        ("return self.embed(input_ids)", "return (self.embed(input_ids),)", "must return a tensor.*got tuple"),
        (
            "return self.embed(input_ids)",
            "return self.embed(input_ids).long()",
            "floating-point features, got torch.int64",
        ),
        ("return self.embed(input_ids)", "return self.embed(input_ids) / 0", "NaN or infinite"),
        ("return self.embed(input_ids)", "return self.embed(input_ids).detach()", "without a gradient"),
        (
            "return self.embed(input_ids)",
            "x = self.embed(input_ids)\n            return x + x.mean(1, keepdim=True)",
            "depend on padding.*attention_mask",
        ),
        (
            "self.embed = nn.Embedding(vocab_size, 12)",
            "self.embed = nn.Embedding(vocab_size, 12); self.unused = nn.Linear(2, 2)",
            r"does not depend on: \['unused.weight', 'unused.bias'\]",
        ),
        (
            "self.embed = nn.Embedding(vocab_size, 12)",
            "self.embed = nn.Embedding(vocab_size, 12); self.register_buffer('t', torch.ones(1), persistent=False)",
            r"not saved: \['t'\]",
        ),
        (
            "def forward(self, input_ids, attention_mask)",
            "def forward(self, ids)",
            r"failed on inputs of shape \(2, 6\)",
        ),
        ("class Words(nn.Module)", "class Words(nn.Module", "encoder.py could not be run: SyntaxError"),
        ("import torch\n", "import torch, nowhere\n", "could not be run: ModuleNotFoundError"),
        ("vocab_size, pad_token_id)", "vocab_size)", "constructor must accept vocab_size and pad_token_id"),
    ],
)
def test_the_checker_names_the_fault(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("name", "message"),
    [("Nope", r"no torch.nn.Module named 'Nope'.*\['Words'\]"), ("a b", "path/to/file.py:ClassName")],
)
def test_a_wrong_class_name_lists_the_classes_of_the_file(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, name=name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*nope.py"):
        build_model(ModelSettings(text_encoder=f"{tmp_path}/nope.py:Words"), ["a", "b"], ["x"])
