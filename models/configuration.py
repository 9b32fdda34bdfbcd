"""Everything a saved classifier says of itself: sizes, text encoder, labels, and how its data is to be read."""

from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class ImageTextConfig(PreTrainedConfig):
    """Configuration of `ImageTextClassifier`; saved as ``config.json``.

    Label names are ``id2label`` / ``label2id`` as in any HuggingFace classifier.

    Args:
        text_config: configuration of the HuggingFace text encoder, of any model type.
        custom_text_encoder: ``file.py:ClassName`` in place of ``text_config``, see `models.custom_encoder`.
        custom_text_encoder_kwargs: what that class is constructed with.
        context_hidden_size: width of features that another model gives as ``context_features``, in place of a text
            encoder.
        image_config: configuration of a backbone of transformers in place of VGG16, of any of its types.
        context_pooling: how tokens become 49 context slots, ``average`` or ``queries``.
        levels: blocks of VGG16 after which the map meets the context, some of 2, 3, 4 and 5.
        fusion: how the image map meets the context, one of `models.fusion.FUSIONS`.
        attention: how queries read from the context, one of `models.attention_kinds.KINDS`.
        attention_window, attention_top_k, attention_rank: sizes of the kinds that have them.
        fusion_dropout: on what fusion adds to the map, in [0, 1).
        gated: a learned gate decides for each sample whether the fusion of a level runs.
        gate_threshold: probability above which it runs at inference, in [0, 1].
        num_heads: heads of the attention, a divisor of 512.
        batch_norm: VGG16 with batch norm; other backbones have their own norms.
        image_size: side in pixels to which images are resized, at least 32.
        classifier_hidden_size: width of the classifier's hidden layer.
        classifier_dropout: in [0, 1).
        modality_dropout: share of training rows that lose their text, and as many that lose their image, so
            that the "no text" and "no image" tokens are learned; in [0, 0.5).
        temperature: what logits are divided by in evaluation mode, fitted on the validation rows after training.
        threshold: probability below which an answer is not sure, chosen on the validation rows.
        columns: where the training data held ``{"image": …, "text": …, "label": …}``; the text may be a template.
        majority_answer: numbers of the classes of the most frequent answer to the training rows: one, or for
            ``multi`` any number.
        label_type: ``single``: the classes exclude each other, and their probabilities add up to 1; ``multi``: each
            applies or not, with a probability of its own; ``annotators``: as ``single``, learnt from several people's
            answers.
        label_separator: between the names of one label.
        normalize_labels: labels were lower-cased and stripped of surplus spaces.
        allow_missing: rows without an image or without a text were let through.
        value_range: of images of more than 8 bits, the values that are black and white: ``[low, high]``, or such a pair
            for each of ``integer`` and ``float``; without it each image is read in its own range.
    """

    model_type = "image-text-classifier"
    sub_configs_defaults: ClassVar = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "image_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet", optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    custom_text_encoder: str | None = None
    custom_text_encoder_kwargs: dict | None = None
    context_hidden_size: int | None = None
    image_config: PreTrainedConfig | dict | None = None
    context_pooling: str = "average"
    levels: list[int] | tuple[int, ...] = (5,)
    fusion: str = "cross"
    attention: str = "full"
    attention_window: int = 3
    attention_top_k: int = 8
    attention_rank: int = 16
    fusion_dropout: float = 0.0
    gated: bool = False
    gate_threshold: float = 0.5
    num_heads: int = 8
    batch_norm: bool = True
    image_size: int = 224
    classifier_hidden_size: int = 512
    classifier_dropout: float = 0.1
    modality_dropout: float = 0.05
    temperature: float = 1.0
    threshold: float = 0.0
    columns: dict | None = None
    majority_answer: list[int] | tuple[int, ...] = (0,)
    label_type: str = "single"
    label_separator: str = "|"
    normalize_labels: bool = False
    allow_missing: bool = False
    value_range: list[float] | dict | None = None
