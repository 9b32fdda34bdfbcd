"""The model section of a configuration."""

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


@dataclass
class ModelSettings:
    """What the classifier is made of."""

    text_encoder: str = "scratch"
    """scratch (a small BERT and its tokenizer, trained on the training texts), a HuggingFace Hub id, a local folder
    (a run's model/ gives its text encoder), or your own class as path/to/file.py:ClassName (docs/custom_encoder.md)."""
    text_revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    text_hidden_size: PositiveInt = 128
    """Width of the scratch encoder."""
    text_layers: PositiveInt = 2
    """Layers of the scratch encoder."""
    vocab_size: PositiveInt = 8000
    """Upper bound of the vocabulary of a tokenizer trained on the training texts."""
    max_text_length: PositiveInt = 64
    """Tokens after which a text is cut."""
    image_encoder: str = "vgg16"
    """vgg16; a pretrained backbone as a HuggingFace Hub id (microsoft/resnet-50) or a local folder (a run's model/
    gives its image encoder); or a type of transformers' backbones with random weights (resnet, convnext, swin, …)."""
    image_revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    image_weights: str = "none"
    """VGG16's starting weights: none (random), imagenet (torchvision's, downloaded), or a file in torchvision's layout
    (.pth or .safetensors) or of a run (model/model.safetensors)."""
    batch_norm: bool = True
    """VGG16 with batch norm (vgg16_bn) or without (vgg16)."""
    image_size: ImageSize = 224
    """Side in pixels to which images are resized."""
    context_pooling: Literal["average", "queries"] = "average"
    """How tokens become the 7×7 context: averaged in reading order, or by 49 learned queries."""
    levels: list[int] = field(default_factory=lambda: [5])
    """Blocks of VGG16 after which the map meets the text, some of 2, 3, 4 and 5. After the last alone, one pass of
    VGG16 serves all texts of an image; the blocks after an earlier one are run for each text. Other image encoders
    have the last alone."""
    fusion: Literal["cross", "self", "concat", "none"] = "cross"
    """How the image map meets the text: cross-attention, self-attention of both as one sequence, concatenation, or not
    at all (the image alone)."""
    attention: Literal["full", "chunked", "window", "top_k", "low_rank"] = "full"
    """Which context slots a position reads from, and how: all; all, in blocks that save memory; those of a window
    around its place; the best k; or a few learned means of them."""
    attention_window: PositiveInt = 3
    """Side of the window in slots, odd."""
    attention_top_k: PositiveInt = 8
    """How many slots the best k are. With context_pooling average the words of a short text fill several slots each."""
    attention_rank: PositiveInt = 16
    """How many means low_rank learns."""
    fusion_dropout: Dropout = 0.0
    """Dropout on what fusion adds to the map."""
    gated: bool = False
    """A learned gate decides for each pair whether the fusion of a level runs; see --train.gate_cost."""
    num_heads: PositiveInt = 8
    """Heads of the attention, a divisor of the map's width (512 of VGG16)."""
    classifier_hidden_size: PositiveInt = 512
    """Width of the classifier's hidden layer."""
    classifier_dropout: Dropout = 0.1
    """Dropout before the classifier's last layer."""
    modality_dropout: ModalityDropout = 0.05
    """Share of training rows that lose their text, and as many their image, so that the model copes without."""
