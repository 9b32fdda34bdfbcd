"""The one builder: model settings, label names and training texts → a classifier and its processor."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from data.errors import UserError
from models.backbone import BackboneEncoder, backbone_config, backbone_statistics, is_backbone_type
from models.classifier import ImageTextClassifier
from models.configuration import ImageTextConfig
from models.custom_encoder import check_custom_encoder, construct, custom_tokenizer, load_custom_class, split_name
from models.image_weights import load_image_weights
from models.processor import ImageTextProcessor, build_processor
from models.settings import ModelSettings
from models.text_encoder import pretrained_text_config, pretrained_tokenizer, scratch_text_config, train_tokenizer

VGG16 = "vgg16"
"""The image encoder that is not a backbone of transformers."""


def build_model(
    settings: ModelSettings, label_names: list[str], texts: Iterable[str], **reading
) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """Build a classifier with its starting weights.

    Args:
        settings: what it is made of.
        label_names: names of the C classes, in the order of the logits.
        texts: training texts, for a tokenizer trained on them.
        reading: how rows are read (`ImageTextConfig`: columns …), kept with the model.

    Raises:
        UserError: an encoder or weights that cannot be loaded, or a custom encoder that breaks its contract.
    """
    is_vgg = settings.image_encoder == VGG16
    if not is_vgg and settings.image_weights != "none":
        raise UserError(
            "--model.image_weights is for VGG16; other image encoders are named with their weights: "
            "--model.image_encoder HUB_ID_OR_FOLDER."
        )
    tokenizer, text = build_text(settings, texts)
    image = () if is_vgg else (settings.image_encoder, settings.image_revision)
    config = ImageTextConfig(
        **text,
        image_config=backbone_config(*image) if image else None,
        context_pooling=settings.context_pooling,
        levels=settings.levels,
        fusion=settings.fusion,
        attention=settings.attention,
        attention_window=settings.attention_window,
        attention_top_k=settings.attention_top_k,
        attention_rank=settings.attention_rank,
        fusion_dropout=settings.fusion_dropout,
        gated=settings.gated,
        num_heads=settings.num_heads,
        batch_norm=settings.batch_norm,
        image_size=settings.image_size,
        classifier_hidden_size=settings.classifier_hidden_size,
        classifier_dropout=settings.classifier_dropout,
        modality_dropout=settings.modality_dropout,
        id2label=dict(enumerate(label_names)),
        label2id={name: number for number, name in enumerate(label_names)},
        **reading,
    )
    model = ImageTextClassifier(config, trust_custom_encoder=True)
    assert model.text_encoder is not None
    if settings.text_encoder != "scratch" and not config.custom_text_encoder:
        model.text_encoder.load_pretrained(settings.text_encoder, settings.text_revision)
    statistics = {}
    if isinstance(model.image_encoder, BackboneEncoder):
        statistics = backbone_statistics(*image)
        if image_is_pretrained(settings):
            model.image_encoder.load_pretrained(*image)
    else:
        load_image_weights(model.image_encoder, settings.image_weights, settings.batch_norm)
    longest = min(settings.max_text_length, model.text_encoder.max_positions or settings.max_text_length)
    return model, build_processor(tokenizer, settings.image_size, longest, **statistics)


def text_is_pretrained(settings: ModelSettings) -> bool:
    """Whether the text encoder has learnt before: not the small BERT, nor a class of the user's own."""
    return settings.text_encoder != "scratch" and ".py:" not in settings.text_encoder


def image_is_pretrained(settings: ModelSettings) -> bool:
    """Whether the image encoder has learnt before."""
    if settings.image_encoder == VGG16:
        return settings.image_weights != "none"
    return not is_backbone_type(settings.image_encoder)


def build_text(settings: ModelSettings, texts: Iterable[str]) -> tuple[PreTrainedTokenizerBase, dict]:
    """The tokenizer, and the part of the configuration that names the text encoder."""
    name = settings.text_encoder
    if name == "scratch":
        tokenizer = train_tokenizer(texts, settings.vocab_size)
        return tokenizer, {
            "text_config": scratch_text_config(tokenizer, settings.text_hidden_size, settings.text_layers)
        }
    if ".py:" in name or name.endswith(".py"):
        file, class_name = split_name(name)
        encoder_class = load_custom_class(file, class_name)
        tokenizer = custom_tokenizer(encoder_class, texts) or train_tokenizer(texts, settings.vocab_size)
        kwargs = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        check_custom_encoder(construct(encoder_class, kwargs), **kwargs)
        custom = f"{Path(file).resolve()}:{class_name}"
        return tokenizer, {"custom_text_encoder": custom, "custom_text_encoder_kwargs": kwargs}
    tokenizer = pretrained_tokenizer(name, settings.text_revision)
    return tokenizer, {"text_config": pretrained_text_config(name, settings.text_revision)}
