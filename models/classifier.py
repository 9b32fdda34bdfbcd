"""The classifier: a text becomes a context, the image map attends to it, and its positions give the answer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoProcessor

from data.errors import UserError
from models.configuration import ImageTextConfig
from models.context import ContextGrid
from models.contexts import Context
from models.decisions import to_probabilities
from models.image_encoder import build_image_encoder
from models.levels import LevelFusions
from models.linear_probe import LinearProbe
from models.output import ImageTextOutput
from models.pair_indices import drop_inputs, mark_empty, missing_to_last, real_tokens, resolve_indices
from models.pooled_classifier import PooledClassifier
from models.position_classifier import PositionClassifier
from models.processor import ImageTextProcessor
from models.serialization import SavedModel
from models.text_encoder import TextEncoder
from models.vgg import GRID, LAST, WIDTH
from models.video import FramePooling, run_frames


class ImageTextClassifier(SavedModel):
    """Classify pairs of an image and a text: the map of VGG16 or another backbone attends to the text.

    Each of I images and T texts is encoded once; B pairs refer to them by index. The text is given as tokens. If
    ``config.context_hidden_size`` is set, features of any other model (of sound, video or a table) take its place.

    With ``config.frames`` of more than 1 an image is a video: a sheet of frames (`models.video`), whose maps are pooled
    by attention over time.

    Contexts beside the text, or in its place, are named in ``config.contexts``: a second picture, the same picture
    through another network, a sound, features, columns of a table, a second text. Each becomes 49 slots, and the image
    attends to the slots of all. Without any, the image alone is classified, with the fusion ``none``.

    A missing text (a row of ``attention_mask`` without a 1, or no ``input_ids``), a missing image (``image_index``
    of -1, or no ``pixel_values``) and a missing context are each replaced by a learned token. In training mode a share
    ``config.modality_dropout`` of each is dropped at random, which trains these tokens.

    In evaluation mode the logits are divided by ``config.temperature``, which calibrates them (Guo et al. 2017,
    section 4.2).

    Args:
        config: architecture and encoders.
        trust_custom_encoder: allow running the file of a custom text encoder.

    Shape:
        - pixel_values: ``(I, 3, image_size, image_size)``, for videos n times as high and wide, with n² frames;
          ``None``: no pair has an image
        - input_ids, attention_mask: ``(T, L)``; ``None``: no pair has a text
        - image_index, text_index: ``(B,)`` int64, the rows of ``pixel_values`` and ``input_ids`` of each pair, -1 for
          a missing one; ``None``: pair b consists of row b
        - labels: ``(B,)`` int64 in [0, C), -100 to ignore a row; or ``(B, C)`` float in [0, 1], target probabilities
        - context_features: ``(T, hidden, …)``, instead of ``input_ids``: output of the text encoder or, with
          ``config.context_hidden_size``, of another model; L is the product of the last dimensions
        - image_features: ``(I, D, h, w)``, instead of ``pixel_values``: output of the image encoder after block
          ``features_level``, by default the first level
        - contexts: name → the tensors of a further context: ``index`` ``(B,)`` int64, the row of each pair, -1 for a
          missing one, or ``(1,)`` for all; and ``pixel_values`` ``(K, 3, H, W)`` of a picture or ``features``
          ``(K, D, h, w)``, its last map; ``input_ids`` and ``attention_mask`` of a text; ``values`` and ``filled`` of
          a sound or its ``tokens`` ``(K, L, hidden_size)`` and ``mask`` ``(K, L)`` bool, the output of
          `models.audio.AudioTokens`; or ``values`` and ``mask`` of features (`models.contexts`)
        - returns: `ImageTextOutput` with logits ``(B, C)``

    Raises:
        UserError: a configuration that cannot be built, or a custom text encoder without trust.
        ValueError: inputs whose shapes do not match.
    """

    config_class = ImageTextConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: ImageTextConfig, trust_custom_encoder: bool = False):
        super().__init__(config)
        if (inputs := 1 + config.num_contexts) * config.modality_dropout > 1:
            raise UserError(
                f"modality_dropout is {config.modality_dropout} of the rows for each of {inputs} inputs, together "
                f"more than all rows: --model.modality_dropout must be at most {1 / inputs:.2g}."
            )
        if config.linear_probe and not config.has_text:
            raise UserError("linear_probe needs a model with a text: set has_text, or leave linear_probe out.")
        self.text_encoder: TextEncoder | None = None
        hidden_size = config.context_hidden_size
        if config.has_text and not hidden_size:
            self.text_encoder = TextEncoder(config, trust_custom_encoder)
            hidden_size = self.text_encoder.hidden_size
        self.context_grid = ContextGrid(hidden_size, config.context_pooling) if hidden_size else None
        self.image_encoder = build_image_encoder(config)
        sizes = config.context_pooling, self.image_encoder.width(LAST), hidden_size
        self.contexts = nn.ModuleDict({spec["name"]: Context(spec, *sizes) for spec in config.contexts or ()})
        self.fusions = LevelFusions(config, self.image_encoder)
        self.levels = self.fusions.levels
        self.frame_pooling: FramePooling | None = None
        if config.frames > 1:
            width = self.image_encoder.width(self.levels[0])
            self.frame_pooling = FramePooling(width, config.frames, config.num_heads)
        self.classifier = build_classifier(config, self.image_encoder.width(LAST))
        self.probe: LinearProbe | None = None
        if config.linear_probe:
            text_dim = None if config.fusion == "none" else hidden_size
            self.probe = LinearProbe(self.image_encoder.width(self.levels[0]), text_dim, config.num_labels)
        self.no_text = nn.Parameter(torch.randn(hidden_size) * 0.02) if hidden_size else None
        self.no_image = nn.Parameter(torch.randn(1, self.image_encoder.width(self.levels[0]), 1, 1) * 0.02)
        self.post_init()

    def _init_weights(self, module):
        """Do nothing: every part initializes its own layers."""

    def get_input_embeddings(self) -> None:
        """Return nothing: the embeddings belong to the text encoder."""

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
        contexts: dict[str, dict[str, Tensor]] | None = None,
    ) -> ImageTextOutput:
        """Compute the logits; with ``output_attentions`` also the weights of attention, tokens and positions."""
        self.check_context(input_ids, context_features)
        texts = input_ids if context_features is None else context_features
        images = pixel_values if image_features is None else image_features
        further = {name: part for name, part in (contexts or {}).items() if name in self.contexts}
        mask = real_tokens(texts, attention_mask)
        image_index, text_index, others = self.input_indices(images, texts, mask, image_index, text_index, further)

        slots = token_weights = None
        if self.context_grid is not None:
            tokens, mask = self.encode_texts(texts, mask)
            slots, token_weights = self.context_grid(tokens, mask, output_attentions)
            text_index = missing_to_last(text_index, slots)
            token_weights = None if token_weights is None else token_weights[text_index]
        maps = self.encode_images(images, 0 if image_features is None else features_level or self.levels[0])
        image_index = missing_to_last(image_index, maps)
        slots, slots_index = self.join_slots(slots, text_index, further, others)
        fused, attentions, gates, work = self.fusions(
            maps, slots, image_index, slots_index, self.image_encoder, output_attentions
        )
        logits, joint = self.classifier(fused, slots.flatten(2).mean(dim=2)[slots_index], output_attentions)
        if self.probe is not None:
            scale = 1.0 if self.training else self.config.classifier_scale
            logits = scale * logits + self.probe(maps, tokens, mask, image_index, text_index)
        if not self.training:
            logits = logits / self.config.temperature
        return ImageTextOutput(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            attentions=attentions,
            gates=gates,
            work=work,
            token_weights=token_weights,
            position_weights=None if joint is None else joint.flatten(2).softmax(dim=2).view_as(joint),
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy; binary cross-entropy over all classes for ``multi``."""
        if self.config.label_type == "multi":
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, C)`` in float32; they sum to 1 over the classes unless the model is ``multi``."""
        return to_probabilities(logits, self.config.label_type)

    def check_context(self, input_ids: Tensor | None, context_features: Tensor | None) -> None:
        """Check that the model was built for this kind and width of context.

        Raises:
            ValueError: texts for a model of features, or features of another shape.
        """
        if self.no_text is None:
            if input_ids is None and context_features is None:
                return
            raise ValueError(f"This model has no text; its contexts are {', '.join(self.contexts) or 'none'}.")
        width = len(self.no_text)
        if self.text_encoder is None and input_ids is not None:
            raise ValueError("This model takes context_features, not input_ids: it was built with context_hidden_size.")
        if context_features is not None and (context_features.dim() < 3 or context_features.shape[1] != width):
            raise ValueError(
                f"context_features must be (batch, {width}, …), got {tuple(context_features.shape)}. Token features "
                "(batch, tokens, width) need transpose(1, 2)."
            )

    def input_indices(
        self,
        images: Tensor | None,
        texts: Tensor | None,
        mask: Tensor | None,
        image_index: Tensor | None,
        text_index: Tensor | None,
        further: dict[str, dict[str, Tensor]],
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The rows of each pair in images, texts and further contexts ``(B,)``, -1 for a missing or dropped input."""
        given = {name: part["index"] for name, part in further.items()}
        image_index, text_index = resolve_indices(images, texts, image_index, text_index, given)
        text_index = mark_empty(text_index, mask)
        absent = torch.full_like(image_index, -1)
        others = {name: given.get(name, absent).expand_as(image_index) for name in self.contexts}
        if not self.training:
            return image_index, text_index, others
        first = [] if self.no_text is None else [text_index]
        dropped = drop_inputs([*first, *others.values(), image_index], self.config.modality_dropout)
        others = dict(zip(others, dropped[len(first) : -1], strict=True))
        return dropped[-1], dropped[0] if first else text_index, others

    def encode_texts(self, texts: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode the texts; the last row is the learned "no text" token.

        A text without real tokens is encoded as one token, so that no encoder sees a fully masked row.

        Shape:
            - texts: tokens ``(T, L)`` or features ``(T, hidden, …)``; mask: ``(T, L)`` bool, ``True`` on real tokens
            - returns: token features ``(T + 1, L, hidden)``, and the mask of real tokens ``(T + 1, L)``
        """
        assert self.no_text is not None
        no_text = self.no_text[None, None]
        if texts is None or mask is None:
            return no_text, torch.ones(1, 1, dtype=torch.bool, device=no_text.device)
        first = torch.arange(mask.shape[1], device=texts.device) == 0
        mask = mask | (first & ~mask.any(dim=1, keepdim=True))
        if texts.is_floating_point():
            tokens = self.cast(texts).flatten(2).transpose(1, 2)
        else:
            assert self.text_encoder is not None
            tokens = self.text_encoder(texts, mask.long())
        tokens = torch.cat([tokens, no_text.to(tokens.dtype).expand(1, *tokens.shape[1:])])
        return tokens, torch.cat([mask, first[None]])

    def join_slots(
        self,
        text_slots: Tensor | None,
        text_index: Tensor,
        further: dict[str, dict[str, Tensor]],
        others: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The slots of all contexts, and the row of each pair in them.

        Texts that are the only context keep a row each, however many pairs share it; further contexts make a row of
        each pair. Without any context there is one row of zeros.

        Shape:
            - text_slots: ``(T + 1, 512, 7, 7)``; text_index, and each index of ``others``: ``(B,)``
            - returns: slots ``(rows, 512, 7·n, 7)`` of n contexts, and the rows ``(B,)``
        """
        if not self.config.num_contexts:
            return self.no_image.new_zeros(1, WIDTH, GRID, GRID), torch.zeros_like(text_index)
        if text_slots is not None and not others:
            return text_slots, text_index
        grids = [] if text_slots is None else [text_slots[text_index]]
        grids += [self.encode_context(name, further.get(name, {}), index) for name, index in others.items()]
        return torch.cat(grids, dim=2), torch.arange(text_index.shape[0], device=text_index.device)

    def encode_context(self, name: str, inputs: dict[str, Tensor], index: Tensor) -> Tensor:
        """The slots of each pair for one of the further contexts ``(B, 512, 7, 7)``.

        Args:
            inputs: its tensors as in `forward`; empty if no pair has it.
            index: the row of each pair ``(B,)``, -1 for a missing or dropped one.
        """
        context = self.contexts[name]
        assert isinstance(context, Context)
        given = {key: value for key, value in inputs.items() if key != "index"}
        if not given:
            return context.slots(None, None, index, self.no_image.dtype)
        if context.kind == "image" and context.tokens is not None:
            maps = given.get("features")
            maps = self.picture_maps(name, given["pixel_values"]) if maps is None else self.cast(maps)
            tokens, mask = context.tokens(maps)
        elif "tokens" in given:
            tokens, mask = self.cast(given["tokens"]), given["mask"]
        elif context.tokens is None:
            assert self.text_encoder is not None
            mask = given["attention_mask"].bool()
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            tokens = self.text_encoder(given["input_ids"], (mask | (first & ~mask.any(dim=1, keepdim=True))).long())
        else:
            tokens, mask = context.tokens(**given)
        return context.slots(tokens, mask, mark_empty(index, mask), self.no_image.dtype)

    def picture_maps(self, name: str, pixel_values: Tensor) -> Tensor:
        """The last maps of the pictures of a context, of its own image encoder or of that of the main images."""
        context = self.contexts[name]
        assert isinstance(context, Context)
        return (context.encoder or self.image_encoder).run(pixel_values, 0, LAST)

    def encode_images(self, images: Tensor | None, done: int) -> Tensor:
        """Encode the images up to the first level; the last map is the learned "no image" map.

        Args:
            done: blocks that ``images`` have passed, 0 for pixels.

        Shape:
            - images: pixels ``(I, 3, H, W)`` or maps after block ``done``
            - returns: ``(I + 1, D, h, w)``
        """
        first = self.levels[0]
        if images is None:
            side = self.image_encoder.side(self.config.image_size, first)
            copies = 2 if self.training else 1  # batch norm needs more than one value per channel
            return self.no_image.expand(copies, -1, side, side)
        maps = run_frames(self.image_encoder, self.cast(images) if done else images, done, first, self.config.frames)
        if self.frame_pooling is not None:
            maps = self.frame_pooling(maps)
        return torch.cat([maps, self.no_image.to(maps.dtype).expand(1, -1, *maps.shape[2:])])

    def cast(self, features: Tensor) -> Tensor:
        """Cast features stored in half precision to the model's dtype; under autocast they stay as they are."""
        return features if torch.is_autocast_enabled(features.device.type) else features.to(self.no_image.dtype)

    def train(self, mode: bool = True):
        """Set training mode; frozen modules stay in evaluation mode, without dropout or updates of batch statistics."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def build_classifier(config: ImageTextConfig, dim: int) -> PositionClassifier | PooledClassifier:
    """The classifier of a map with ``dim`` channels."""
    sizes = dim, config.classifier_hidden_size, config.num_labels, config.classifier_dropout
    if config.classifier == "mixture":
        return PositionClassifier(*sizes, config.label_type == "multi", config.classifier_product)
    return PooledClassifier(*sizes, None if config.fusion == "none" else WIDTH)


AutoConfig.register(ImageTextConfig.model_type, ImageTextConfig)
AutoModel.register(ImageTextConfig, ImageTextClassifier)
AutoProcessor.register(ImageTextConfig, ImageTextProcessor)
