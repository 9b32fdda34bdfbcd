"""A text encoder in a file of the user: saved with the model, run only with trust, and checked before training."""

import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
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
            self.offset = torch.rand(12)

        def forward(self, input_ids, attention_mask):
            return self.embed(input_ids)
"""
HUGGING_FACE = """
    from torch import nn
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

    class Words(nn.Module):
        hidden_size = 12

        def __init__(self, vocab_size, pad_token_id):
            super().__init__()
            small = {"vocab_size": vocab_size, "num_attention_heads": 2, "num_hidden_layers": 1}
            self.model = BertModel(BertConfig(**small, hidden_size=12, intermediate_size=8), add_pooling_layer=False)

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
"""
EMBED = "self.embed = nn.Embedding(vocab_size, 12)"
PLAUSIBLE = {
    "a BERT, whose positions are buffers that are not saved": HUGGING_FACE,
    "a T5, whose embeddings have two names": HUGGING_FACE.replace(
        "BertModel(BertConfig(**small, hidden_size=12, intermediate_size=8), add_pooling_layer=False)",
        "T5EncoderModel(T5Config(vocab_size=vocab_size, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2))",
    ),
    "layers that share a weight": GOOD.replace(
        EMBED,
        f"{EMBED}; self.mix, self.back = nn.Linear(12, 12), nn.Linear(12, 12); self.back.weight = self.mix.weight",
    ).replace("return self.embed(input_ids)", "return self.back(self.mix(self.embed(input_ids)).relu())"),
    "a constant that is no buffer": GOOD.replace("torch.rand(12)", "torch.arange(12) / 12").replace(
        "return self.embed(input_ids)", "return self.embed(input_ids) + self.offset"
    ),
    "a constructor that computes with values": GOOD.replace(
        EMBED, f"{EMBED}; self.rates = [rate.item() for rate in torch.arange(3) / 2]"
    ).replace("return self.embed(input_ids)", "return self.embed(input_ids) * self.rates[1]"),
}


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


@pytest.mark.parametrize("code", PLAUSIBLE.values(), ids=PLAUSIBLE)
def test_an_encoder_gives_the_same_answers_after_it_was_saved_and_loaded(tmp_path, code):
    model, processor = build(tmp_path, code)
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)
    batch = processor(None, ["one two", "five"]) | {"pixel_values": torch.randn(2, 3, 32, 32)}
    model.eval().save_pretrained(tmp_path / "model")
    loaded = ImageTextClassifier.from_pretrained(tmp_path / "model", trust_custom_encoder=True)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert not loaded.training
    shared = [[id(tensor) for tensor in m.text_encoder.state_dict(keep_vars=True).values()] for m in (model, loaded)]
    assert len(set(shared[0])) == len(set(shared[1])), "what shared a tensor shares it again"


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda file: file.write_text("edited = True")], ids=["deleted", "edited"]
)
def test_the_code_that_was_trained_is_saved_even_if_its_file_has_changed(tmp_path, change):
    model, processor = build(tmp_path)
    change(tmp_path / "my_encoder.py")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = ImageTextClassifier.from_pretrained(tmp_path / "model", trust_custom_encoder=True)
    assert type(loaded.text_encoder.encoder).__name__ == "Words"


def test_a_weight_that_the_file_lacks_is_still_an_error(tmp_path):
    model, _ = build(tmp_path)
    model.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    del weights["text_encoder.encoder.embed.weight"]
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: text_encoder.encoder.embed.weight"):
        ImageTextClassifier.from_pretrained(tmp_path / "model", trust_custom_encoder=True)


def test_a_model_in_half_precision_keeps_it(tmp_path):
    model, _ = build(tmp_path)
    model.bfloat16().save_pretrained(tmp_path / "model")
    loaded = ImageTextClassifier.from_pretrained(tmp_path / "model", trust_custom_encoder=True)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


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


OWN_TOKENIZER = """
        @staticmethod
        def tokenizer(texts):
            from models.text_encoder import train_tokenizer
            from transformers import PreTrainedTokenizerFast

            class Own(PreTrainedTokenizerFast):
                def save_pretrained(self, folder):
                    raise RuntimeError("it has no\\nfile")

            tokenizer = Own(tokenizer_object=train_tokenizer(texts).backend_tokenizer, pad_token="[PAD]")
            return tokenizer
"""


def test_a_tokenizer_that_cannot_be_loaded_again_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be saved and loaded \(RuntimeError: it has no file\)\. Return one"):
        build(tmp_path, GOOD + OWN_TOKENIZER)


def test_a_tokenizer_pads_on_the_right(tmp_path):
    code = OWN_TOKENIZER.replace("return tokenizer", "tokenizer.padding_side = 'left'; return tokenizer")
    _, processor = build(tmp_path, GOOD + code.replace("def save_pretrained", "def save_other"))
    assert processor.tokenizer.padding_side == "right"


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
            "return self.embed(input_ids)",
            "return self.embed(input_ids) + self.offset",
            "constructed anew with the same weights, gives other features",
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
