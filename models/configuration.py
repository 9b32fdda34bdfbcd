"""The configuration of a saved classifier: architecture, text encoder, labels, and how its data is read."""

from math import isqrt
from typing import ClassVar, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from models.settings import Architecture

FITTED = {"temperature": 1.0, "classifier_scale": 1.0, "threshold": 0.0, "label_thresholds": None}
"""Fields that are fitted to a trained classifier → their values without one."""


class ImageTextConfig(Architecture, PreTrainedConfig):
    """Configuration of `ImageTextClassifier`, saved as ``config.json``.

    It has the fields of `models.settings.Architecture` and those below. Label names are in ``id2label`` and
    ``label2id``, as in any HuggingFace classifier.

    Args:
        text_config: configuration of the HuggingFace text encoder, of any model type.
        custom_text_encoder: ``file.py:ClassName``, used instead of ``text_config``; see `models.custom_encoder`.
        custom_text_encoder_kwargs: arguments of that class.
        context_hidden_size: width of ``context_features`` computed by another model; replaces the text encoder.
        has_text: whether a text is among the contexts.
        contexts: the contexts beside the text, in order: ``name``, ``kind`` (``text``, ``image``, ``audio``,
            ``vectors`` or ``columns``), ``columns`` of the training data, what the training rows fix about them, see
            `data.context_check.fit_contexts`, and the encoder of a sound (`models.audio`) or of a picture that has one
            of its own (`models.picture_encoder`).
        image_config: configuration of a transformers backbone, of any type; ``None`` is VGG16.
        gate_threshold: at inference a fusion runs if its gate's probability is above this threshold, in [0, 1].
        temperature: divisor of the logits in evaluation mode, fitted on the validation rows after training.
        linear_probe: whether a `models.linear_probe.LinearProbe` adds to the logits of the classifier.
        classifier_scale: factor of the classifier's logits beside those of the linear probe in evaluation mode, fitted
            on the validation rows after training, in [0, 1].
        threshold: predictions with a lower probability are unsure; chosen on the validation rows.
        label_thresholds: for ``multi``, the probability from which each class is answered, chosen on the validation
            rows; ``None`` is 0.5 for all.
        classifier: ``pooled`` or ``mixture``; the latter in models of earlier versions.
        classifier_product: whether a ``mixture`` multiplies its hidden layer; ``False`` in models of earlier versions.
        best_by: metric by which the best epoch was chosen, and by which evaluations say whether the model uses its
            inputs; empty in models of earlier versions.
        columns: columns of the training data, ``{"image": …, "text": …, "label": …}``; the text may be a template.
        majority_answer: class indices of the most frequent training label: one, or any number for ``multi``.
        label_type: ``single`` (classes are mutually exclusive, their probabilities sum to 1), ``multi`` (each class has
            a probability of its own), or ``annotators`` (as ``single``, trained on the labels of several annotators).
        frames: number of frames of each video, see `models.video`; 1 if the images are pictures.
        label_separator: separator between the names in one label.
        normalize_labels: whether labels were lower-cased and their whitespace normalized.
        allow_missing: whether rows without an image or without a text were accepted.
        value_range: values of black and white in images of more than 8 bits: ``[low, high]``, or one such pair each for
            ``integer`` and ``float``; ``None`` uses each image's own range.
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
    has_text: bool = True
    contexts: list[dict] | None = None
    image_config: PreTrainedConfig | dict | None = None
    classifier: Literal["pooled", "mixture"] = "mixture"
    classifier_product: bool = False
    gate_threshold: float = 0.5
    temperature: float = 1.0
    linear_probe: bool = False
    classifier_scale: float = 1.0
    threshold: float = 0.0
    label_thresholds: list[float] | None = None
    best_by: str = ""
    columns: dict | None = None
    majority_answer: list[int] | tuple[int, ...] = (0,)
    label_type: str = "single"
    label_separator: str = "|"
    normalize_labels: bool = False
    allow_missing: bool = False
    value_range: list[float] | dict | None = None
    frames: int = 1

    @property
    def other_contexts(self) -> list[str]:
        """The names of the contexts if they are not one text; empty otherwise."""
        if self.has_text and not self.contexts:
            return []
        return [*(["text"] if self.has_text else []), *(spec["name"] for spec in self.contexts or ())]

    @property
    def input_size(self) -> int:
        """Height and width of an input of the model: of a picture, or of a sheet of the frames of a video."""
        return self.image_size * isqrt(self.frames)

    @property
    def num_contexts(self) -> int:
        """Number of contexts that the image attends to."""
        return int(self.has_text) + len(self.contexts or ())
