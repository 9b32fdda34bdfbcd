"""Batches in → logits and attention out."""

from models.attention import CrossAttentionLayer, MultiHeadCrossAttention
from models.classifier import ImageTextClassifier
from models.configuration import ImageTextConfig
from models.context import ContextGrid
from models.fusion import CrossAttentionFusion
from models.output import ImageTextOutput
from models.pooling import PositionClassifier
from models.processing import ImageTextProcessor
from models.text import TextEncoder
from models.vgg import MultiLevelCrossAttentionVGG, VGG16Encoder, VGG16WithCrossAttention

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
    "PositionClassifier",
    "TextEncoder",
    "VGG16Encoder",
    "VGG16WithCrossAttention",
]
