"""The ``model`` section of a configuration, and the part of it that a saved model keeps."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import PositiveInt, restricted_number_type

if TYPE_CHECKING:
    ImageSize = int
    Dropout = float
    ModalityDropout = float
else:
    ImageSize = restricted_number_type("ImageSize", int, (">=", 32))
    Dropout = restricted_number_type("Dropout", float, [(">=", 0), ("<", 1)])
    ModalityDropout = restricted_number_type("ModalityDropout", float, [(">=", 0), ("<", 0.5)])
    for kind in (ImageSize, Dropout, ModalityDropout):
        kind.__module__ = __name__  # where a new process finds the type of a pickled value


@dataclass
class EncoderSettings:
    """The two encoders and the weights they start from. A saved model holds the encoders themselves instead."""

    init: str | None = None
    """A trained classifier to start from: a run folder, a model folder or a Hub id. Its encoders, tokenizer,
    preprocessing and architecture are taken over, and the output weights of the classes that both have."""
    text_encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Text encoder: a HuggingFace Hub id, a local folder (the model/ folder of a run provides its text encoder),
    scratch (a small BERT and its tokenizer, both trained on the training texts), or a class of your own as
    path/to/file.py:ClassName (see docs/custom_encoder.md)."""
    text_revision: str | None = None
    """Branch, tag or commit of the text encoder on the Hub."""
    text_hidden_size: PositiveInt = 128
    """Hidden size of the scratch text encoder."""
    text_layers: PositiveInt = 2
    """Number of layers of the scratch text encoder."""
    vocab_size: PositiveInt = 8000
    """Maximum vocabulary size of a tokenizer trained on the training texts."""
    max_text_length: PositiveInt = 64
    """Maximum length of a text in tokens; longer texts are truncated."""
    fit: Literal["squeeze", "letterbox"] = "squeeze"
    """How images that are not square become square: squeeze (resized without keeping their proportions) or letterbox
    (padded with the mean colour)."""
    image_encoder: str = "vgg16"
    """Image encoder: vgg16, a pretrained backbone as a HuggingFace Hub id (microsoft/resnet-50) or a local folder (the
    model/ folder of a run provides its image encoder), or random weights: a backbone type of transformers (resnet,
    convnext, swin, …) or scratch (a small ResNet)."""
    image_revision: str | None = None
    """Branch, tag or commit of the image encoder on the Hub."""
    image_weights: str = "imagenet"
    """Initial weights of VGG16: imagenet (downloaded from torchvision), none (random), or a file: a torchvision state
    dict (.pth or .safetensors) or the weights of a run (model/model.safetensors). Other image encoders have their
    own."""
    audio_encoder: str = "MIT/ast-finetuned-audioset-10-10-0.4593"
    """Encoder of contexts of the kind audio: a HuggingFace Hub id or a local folder of an audio model of transformers
    (AST, Wav2Vec2, HuBERT, Whisper, whose encoder is taken), or scratch (a small Whisper encoder)."""
    audio_seconds: PositiveInt = 10
    """Length in seconds to which sounds are cut or padded. Encoders with a length of their own (AST, Whisper) keep
    theirs."""


@dataclass
class Architecture:
    """The fields that `ModelSettings` and `ImageTextConfig` share: what is built around the encoders."""

    batch_norm: bool = True
    """Use VGG16 with batch normalization (vgg16_bn); false uses vgg16. Other image encoders have their own norms."""
    image_size: ImageSize = 224
    """Height and width in pixels to which images are resized."""
    context_pooling: Literal["average", "queries"] = "average"
    """How tokens are pooled to the 7×7 context: average (adaptive average pooling) or queries (49 learned queries)."""
    levels: list[int] = field(default_factory=lambda: [5])
    """Blocks of VGG16 after which the image is fused with the text, a subset of 2, 3, 4 and 5. With 5 alone, VGG16 runs
    once per image; blocks after an earlier level run once per text. Other image encoders support 5 alone."""
    fusion: Literal["cross", "self", "concat", "none"] = "cross"
    """How image and text are fused: cross (cross-attention), self (self-attention over both as one sequence), concat
    (concatenation with the mean of the context), or none (the text is ignored)."""
    attention: Literal["full", "chunked", "window", "top_k", "low_rank"] = "full"
    """Context slots that an image position attends to: full (all), chunked (all, computed in blocks to save memory),
    window (a local window), top_k (the slots with the highest scores), or low_rank (learned averages of slots)."""
    attention_window: PositiveInt = 3
    """Side of the window in slots, an odd number."""
    attention_top_k: PositiveInt = 8
    """Number of slots for top_k. With average pooling, each token of a short text fills several slots."""
    attention_rank: PositiveInt = 16
    """Number of learned averages for low_rank."""
    fusion_dropout: Dropout = 0.0
    """Dropout on the output of the fusion branch."""
    gated: bool = False
    """Add a learned gate per level that decides for each pair whether its fusion runs; see --train.gate_cost."""
    num_heads: PositiveInt = 8
    """Number of attention heads. It must divide the number of channels of the image map (512 for VGG16)."""
    classifier: Literal["auto", "pooled", "mixture"] = "auto"
    """How the fused map is classified: pooled (its positions are pooled, then classified), mixture (each position is
    classified, and the results are mixed by learned weights), or auto (pooled if the image encoder is pretrained,
    mixture if it starts from random weights; docs/results.md)."""
    classifier_product: bool = True
    """For mixture: multiply the hidden layer of each position by a second projection, so that it can join what the
    position shows with what the text asks for."""
    classifier_hidden_size: PositiveInt = 512
    """Size of the classifier's hidden layer."""
    classifier_dropout: Dropout = 0.1
    """Dropout before the classifier's output layer."""
    modality_dropout: ModalityDropout = 0.05
    """Share of training rows whose text is dropped; an equal share loses its image. It trains the model for missing
    inputs."""


@dataclass
class ModelSettings(Architecture, EncoderSettings):
    """Settings of the model."""
