"""The model: batches in, logits and attention weights out."""

from typing import TYPE_CHECKING

from data.lazy_names import lazy_names

if TYPE_CHECKING:
    from models.article import CrossAttentionLayer, MultiLevelCrossAttentionVGG, VGG16WithCrossAttention
    from models.attention import MultiHeadCrossAttention
    from models.classifier import ImageTextClassifier
    from models.configuration import ImageTextConfig
    from models.context import ContextGrid
    from models.fusion import CrossAttentionFusion
    from models.output import ImageTextOutput
    from models.pooled_classifier import PooledClassifier
    from models.position_classifier import PositionClassifier
    from models.processor import ImageTextProcessor
    from models.text_encoder import TextEncoder
    from models.vgg import VGG16Encoder
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "ContextGrid",
    "CrossAttentionFusion",
    "CrossAttentionLayer",
    "ImageTextClassifier",
    "ImageTextConfig",
    "ImageTextOutput",
    "ImageTextProcessor",
    "MultiHeadCrossAttention",
    "MultiLevelCrossAttentionVGG",
    "PooledClassifier",
    "PositionClassifier",
    "TextEncoder",
    "VGG16Encoder",
    "VGG16WithCrossAttention",
]
