"""The whole model: a text becomes a context, the image map attends to it, and a classifier answers."""

import shutil
from itertools import chain, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from models.attention import take
from models.attention_kinds import build_attention
from models.backbone import BackboneEncoder
from models.configuration import ImageTextConfig
from models.context import ContextGrid
from models.custom_encoder import SAVED_NAME, find_file, split_name
from models.fusion import build_fusion, check_fusion
from models.gate import GatedFusion, gated_work
from models.output import ImageTextOutput
from models.pair_indices import resolve_indices
from models.position_classifier import PositionClassifier
from models.processor import ImageTextProcessor
from models.text_encoder import TextEncoder
from models.vgg import GRID, LAST, WIDTH, VGG16Encoder, check_levels
from models.weight_check import RESAVE, check_weights, no_loading_report

ALIGNMENT = 64
"""Bytes; where torch's CPU allocator places tensors."""
ENCODERS = ("text_encoder.", "image_encoder.")
"""Parts that never start anew when a classifier is loaded."""
NEW_HEAD = "A new head for other labels: from_pretrained(…, num_labels=…, ignore_mismatched_sizes=True)."
"""What to do about shapes that do not fit."""


class ImageTextClassifier(PreTrainedModel):
    """Classify pairs of an image and a text: VGG16, or another backbone, whose map attends to the text.

    The text may be given as tokens, or, where ``config.context_hidden_size`` says how wide they are, as features of
    any other model: a sound's, a video's, a table's.

    A missing text (a row of ``attention_mask`` without a 1, or no ``input_ids`` at all) and a missing image
    (``image_index`` of -1, or no ``pixel_values``) are replaced by a learned token each. In training mode
    ``config.modality_dropout`` makes them missing at random, so that the tokens are learned.

    Args:
        config: sizes and parts.
        trust_custom_encoder: permission to run the file of a custom text encoder.
    """

    config_class = ImageTextConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: ImageTextConfig, trust_custom_encoder: bool = False):
        super().__init__(config)
        if config.context_hidden_size:
            self.text_encoder, hidden_size = None, config.context_hidden_size
        else:
            self.text_encoder = TextEncoder(config, trust_custom_encoder)
            hidden_size = self.text_encoder.hidden_size
        self.context_grid = ContextGrid(hidden_size, config.context_pooling)
        self.image_encoder = build_image_encoder(config)
        self.levels = check_levels(config.levels)
        self.fusions = nn.ModuleDict({str(level): self.build_fusion(level) for level in self.levels})
        self.work = self.work_by_level() if config.gated else None
        self.classifier = PositionClassifier(
            self.image_encoder.width(LAST),
            config.classifier_hidden_size,
            config.num_labels,
            config.classifier_dropout,
            config.label_type == "multi",
        )
        self.no_text = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.no_image = nn.Parameter(torch.randn(1, self.image_encoder.width(self.levels[0]), 1, 1) * 0.02)
        self.post_init()

    def build_fusion(self, level: int) -> nn.Module:
        """The fusion after one of the image encoder's blocks."""
        config, dim = self.config, self.image_encoder.width(level)
        check_fusion(config.fusion, config.attention, config.gated)
        positions = 0
        if config.fusion == "self" and config.attention == "low_rank":
            positions = self.image_encoder.side(config.image_size, level) ** 2
        attend = build_attention(
            config.attention,
            GRID * GRID + positions,
            window=config.attention_window,
            top_k=config.attention_top_k,
            rank=config.attention_rank,
        )
        fusion = build_fusion(config.fusion, dim, config.num_heads, WIDTH, config.fusion_dropout, attend)
        return GatedFusion(fusion, dim, WIDTH, config.gate_threshold) if config.gated else fusion

    def _init_weights(self, module):
        """Nothing: every part initialises its own layers, and `from_pretrained` those that a file lacks."""

    def get_input_embeddings(self) -> None:
        """None of its own: the text encoder has them."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
        context_features: Tensor | None = None,
        text_index: Tensor | None = None,
        image_features: Tensor | None = None,
        features_level: int | None = None,
    ) -> ImageTextOutput:
        """Logits for B pairs of I images and T texts; each image and each text is encoded once.

        `probabilities` makes of them what they say. In evaluation mode they are divided by ``config.temperature``,
        which calibrates these.

        Shape:
            - pixel_values: ``(I, 3, image_size, image_size)``, or ``None``: no pair has an image
            - input_ids, attention_mask: ``(T, L)``, or ``None``: no pair has a text
            - image_index, text_index: ``(B,)`` int64, the rows of ``pixel_values`` and of ``input_ids`` that each pair
              is made of, -1 where it has none; ``None`` where pair b is of row b
            - labels: ``(B,)`` int64 in [0, C), or -100 for rows that do not count; or ``(B, C)`` float in [0, 1], the
              target of each class
            - context_features: ``(T, hidden, …)`` in place of ``input_ids``, as wide as what the text encoder gives, or
              as ``context_hidden_size``; L is what the last dimensions multiply to
            - image_features: ``(I, D, h, w)`` in place of ``pixel_values``: what the image encoder gives after block
              ``features_level``, the first that is fused where it is not given

        Raises:
            ValueError: inputs that do not fit together.
        """
        self.check_context(input_ids, context_features)
        texts = input_ids if context_features is None else context_features
        images = pixel_values if image_features is None else image_features
        image_index, text_index = resolve_indices(images, texts, image_index, text_index)
        if texts is not None and attention_mask is None:
            length = texts.shape[1:] if context_features is None else texts.shape[2:]
            attention_mask = torch.ones(len(texts), length.numel(), dtype=torch.long, device=texts.device)
        has_image, has_text = image_index >= 0, text_index >= 0
        if attention_mask is not None:
            has_text &= attention_mask.bool().any(dim=1)[text_index]
        if self.training:
            has_text, has_image = self.drop_modality(has_text, has_image)
        contexts, token_weights = self.encode_texts(texts, attention_mask, output_attentions)
        done = 0 if image_features is None else features_level or self.levels[0]
        feature_maps = self.encode_images(images, done)
        image_index = torch.where(has_image, image_index, feature_maps.shape[0] - 1)
        text_index = torch.where(has_text, text_index, contexts.shape[0] - 1)
        feature_map, attentions, gates = self.fuse(feature_maps, contexts, image_index, text_index, output_attentions)
        logits, joint = self.classifier(feature_map)
        if not self.training:
            logits = logits / self.config.temperature
        return ImageTextOutput(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            attentions=attentions,
            gates=gates,
            work=None if self.work is None or gates is None else gated_work(gates, *self.work),
            token_weights=None if token_weights is None else token_weights[text_index],
            position_weights=joint.flatten(2).softmax(dim=2).view_as(joint) if output_attentions else None,
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.label_type == "multi":
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, C)`` float32: of classes that exclude each other, or of each by itself."""
        logits = logits.float()
        return logits.sigmoid() if self.config.label_type == "multi" else logits.softmax(dim=-1)

    def check_context(self, input_ids: Tensor | None, context_features: Tensor | None) -> None:
        """Stop at texts where features are expected, at features where texts are, and at features of another width."""
        width = len(self.no_text)
        if self.text_encoder is None and input_ids is not None:
            raise ValueError("This model reads context_features, not texts: it was built with a context_hidden_size.")
        if context_features is not None and (context_features.dim() < 3 or context_features.shape[1] != width):
            raise ValueError(
                f"context_features must be (batch, {width}, …), got {tuple(context_features.shape)}; "
                "features of tokens (batch, tokens, width) want a transpose(1, 2)."
            )

    def drop_modality(self, has_text: Tensor, has_image: Tensor) -> tuple[Tensor, Tensor]:
        """Take text or image from a random share of the rows that have both; one draw a row, so never both."""
        draw = torch.rand(len(has_text), device=has_text.device)
        both = has_text & has_image
        rate = self.config.modality_dropout
        return has_text & ~(both & (draw < rate)), has_image & ~(both & (draw >= 1 - rate))

    def encode_texts(
        self, texts: Tensor | None, attention_mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Context grids ``(T + 1, 512, 7, 7)``, last that of the learned "no text" token; on request the weights of
        tokens in them.

        A text without real tokens is encoded as one token, so that no encoder ever sees a fully masked row.
        """
        no_text = self.no_text[None, None]
        if texts is None or attention_mask is None:
            return self.context_grid(no_text, torch.ones(1, 1, dtype=torch.bool, device=no_text.device), need_weights)
        first = torch.arange(attention_mask.shape[1], device=texts.device) == 0
        mask = attention_mask.bool()
        mask = mask | (first & ~mask.any(dim=1, keepdim=True))
        if texts.is_floating_point():
            tokens = self.restore(texts).flatten(2).transpose(1, 2)
        else:
            assert self.text_encoder is not None
            tokens = self.text_encoder(texts, mask.long())
        tokens = torch.cat([tokens, no_text.to(tokens.dtype).expand(1, *tokens.shape[1:])])
        return self.context_grid(tokens, torch.cat([mask, first[None]]), need_weights)

    def encode_images(self, images: Tensor | None, done: int) -> Tensor:
        """Maps up to the first fusion ``(I + 1, D, h, w)``: one pass an image, and last the learned "no image" map.

        Args:
            images: pixels, or the maps after block ``done``.
        """
        first = self.levels[0]
        if images is None:
            side = self.image_encoder.side(self.config.image_size, first)
            copies = 2 if self.training else 1  # of one value batch norm would have nothing to compare
            return self.no_image.expand(copies, -1, side, side)
        maps = self.image_encoder.run(self.restore(images) if done else images, done, first)
        return torch.cat([maps, self.no_image.to(maps.dtype).expand(1, -1, *maps.shape[2:])])

    def restore(self, features: Tensor) -> Tensor:
        """Features that were kept in half precision, in that of the model; autocast chooses by itself."""
        return features if torch.is_autocast_enabled(features.device.type) else features.to(self.no_image.dtype)

    def fuse(
        self, maps: Tensor, contexts: Tensor, image_index: Tensor, text_index: Tensor, output_attentions: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, Tensor | None]:
        """Let the map of each level meet the context, and run what is left of the image encoder.

        Rows that have not met their texts share the maps of their images; from its first fusion on a row has its own.
        """
        rows: Tensor | None = image_index
        attentions: list[Tensor | None] = []
        gates: list[Tensor] = []
        for level, following in pairwise((*self.levels, LAST)):
            fusion = self.fusions[str(level)]
            if self.config.gated:
                assert rows is not None
                maps, rows, weights, gate = fusion(maps, contexts, output_attentions, rows, text_index)
                gates.append(gate)
            else:
                maps, weights = fusion(maps, contexts, output_attentions, rows, text_index)
                rows = None
            attentions.append(weights)
            maps = self.image_encoder.run(maps, level, following)
        known = tuple(weights for weights in attentions if weights is not None)
        maps = take(maps, rows)
        return maps, known or None, torch.stack(gates, dim=1) if gates else None

    def work_by_level(self) -> tuple[list[float], list[int]]:
        """Multiplications of each level's fusion for a pair, and of the blocks up to the next level for a map.

        Those of a fusion are its weights times the positions and slots they are applied to, half of them to each.
        """
        size = self.config.image_size
        fusions, blocks = [], []
        for level, following in pairwise((*self.levels, LAST)):
            layers = [layer for layer in self.fusions[str(level)].modules() if isinstance(layer, nn.Linear)]
            weights = sum(layer.weight.numel() for layer in layers)
            fusions.append(weights * (self.image_encoder.side(size, level) ** 2 + GRID**2) / 2)
            blocks.append(self.image_encoder.work(size, level, following))
        return fusions, blocks

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """Load as any HuggingFace model, into memory aligned as torch's own.

        With ``ignore_mismatched_sizes`` what has another shape (a head for other labels) starts as in a new model,
        but for the encoders. A safetensors file is mapped at any address, and matrix-vector kernels on CPUs sum in an
        order that depends on it: the last bits of the logits would differ from those of the model that was saved.

        Raises:
            ValueError: weights that do not cover the model.
        """
        with no_loading_report():
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        other = {key for key, *_ in info["mismatched_keys"]}
        may_start = {key for key in other if ignore_mismatched_sizes and not key.startswith(ENCODERS)}
        check_weights(
            str(pretrained_model_name_or_path),
            "the classifier that its config.json describes",
            set(model.state_dict()) - may_start,
            info,
            NEW_HEAD if other - may_start else RESAVE,
        )
        if started := info["missing_keys"] | other:
            new = cls(model.config, trust_custom_encoder=kwargs.get("trust_custom_encoder", False)).state_dict()
            model.load_state_dict({name: new[name] for name in started}, strict=False)
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
                tensor.data = tensor.data.clone()
        return (model, info) if output_loading_info else model

    def train(self, mode: bool = True):
        """Training mode, but for what is frozen: it keeps its batch statistics and drops nothing out."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def save_pretrained(self, save_directory, **kwargs):
        """Save as any HuggingFace model; a custom text encoder's file is copied beside the weights."""
        named = self.config.custom_text_encoder
        if named is not None:
            source = find_file(self.config)
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            if source.resolve() != (target := Path(save_directory, SAVED_NAME)).resolve():
                shutil.copyfile(source, target)
            self.config.custom_text_encoder = f"{SAVED_NAME}:{split_name(named)[1]}"
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.custom_text_encoder = named


def build_image_encoder(config: ImageTextConfig) -> VGG16Encoder | BackboneEncoder:
    """VGG16, or the backbone that ``image_config`` describes.

    Raises:
        ValueError: levels that a backbone does not have.
    """
    if config.image_config is None:
        return VGG16Encoder(config.batch_norm)
    if tuple(config.levels) != (LAST,):
        raise ValueError(f"Attention at levels {list(config.levels)} needs VGG16; other backbones have the last alone.")
    return BackboneEncoder(config.image_config)


AutoConfig.register(ImageTextConfig.model_type, ImageTextConfig)
AutoModel.register(ImageTextConfig, ImageTextClassifier)
AutoProcessor.register(ImageTextConfig, ImageTextProcessor)
