"""Image encoders other than VGG16: the last feature map of a transformers backbone."""

import json

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, PreTrainedConfig, ResNetConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from data.errors import UserError
from models.configuration import ImageTextConfig
from models.hub_errors import explain_hub_errors, fetch_weights
from models.vgg import LAST
from models.weight_check import RESAVE, check_weights, load_pretrained, needed_names

SCRATCH = "scratch"
"""Name of a small ResNet with random weights."""
INSTEAD = ", or train VGG16 from scratch (--model.image_encoder vgg16)"
"""Suggestion when a pretrained backbone cannot be loaded."""


class BackboneEncoder(nn.Module):
    """A transformers backbone (ResNet, ConvNeXt, Swin, DINOv2 …) with the interface of `models.vgg.VGG16Encoder`.

    The map has the backbone's own size: at 224 px 7×7 for ResNet, ConvNeXt and Swin, 16×16 for a ViT with patches of
    14 pixels. The stages cannot be run one at a time, so there is one level, after the last stage.

    Args:
        config: configuration of the backbone. Weights are random until `load_pretrained`.

    Shape:
        - x: ``(I, 3, H, W)``
        - returns: ``(I, D, h, w)``

    Raises:
        UserError: transformers has no backbone of this type, or the channels of its map are not divisible by 4.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        if config.model_type not in MODEL_FOR_BACKBONE_MAPPING_NAMES:
            raise UserError(
                f"transformers has no backbone of type {config.model_type!r}. Available: "
                f"{', '.join(MODEL_FOR_BACKBONE_MAPPING_NAMES)}."
            )
        self.network = AutoBackbone.from_config(config)
        self.channels = self.network.channels[-1]
        self.sides: dict[int, int] = {}
        if self.channels % 4:
            raise UserError(f"The channels of an image encoder's map must be divisible by 4, got {self.channels}.")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).feature_maps[-1]

    def run(self, x: Tensor, after: int, upto: int) -> Tensor:
        """Run the whole network, or nothing: the only levels are the image (0) and the last stage."""
        return x if after == upto else self(x)

    def blocks(self, after: int, upto: int) -> nn.Module:
        """The whole network; it has no separate blocks.

        Raises:
            UserError: another part is requested.
        """
        if (after, upto) != (0, LAST):
            raise UserError("Only VGG16 can be frozen by blocks; other image encoders are frozen as a whole.")
        return self.network

    def stages(self) -> list[nn.Module]:
        """The stages or layers of the network, in order; each returns its map or tokens, alone or first in tuples."""
        return list(next(module for module in self.network.modules() if isinstance(module, nn.ModuleList)))

    def work(self, image_size: int, after: int, upto: int) -> int:
        """Multiplications after the only level: none."""
        return 0

    def width(self, level: int = LAST) -> int:
        """Channels of the map."""
        return self.channels

    def side(self, image_size: int, level: int = LAST) -> int:
        """Height and width of the map of a square image: measured once by a pass over zeros, then remembered."""
        if image_size not in self.sides:
            was_training = self.training
            self.eval()
            with torch.no_grad():
                zeros = next(self.parameters()).new_zeros(1, 3, image_size, image_size)
                self.sides[image_size] = self(zeros).shape[-1]
            self.train(was_training)
        return self.sides[image_size]

    def load_pretrained(self, name: str, revision: str | None = None, instead: str = INSTEAD) -> None:
        """Load the pretrained weights of a Hub id or local folder (safetensors only).

        A saved `ImageTextClassifier` provides those of its image encoder. ``instead`` is suggested if they cannot be
        loaded.

        Raises:
            UserError: weights that cannot be read, or that do not cover the encoder.
        """
        part = "the image encoder"
        pretrained, info = load_pretrained(
            type(self.network),  # AutoBackbone.from_pretrained contacts the Hub even for folders
            name,
            self.network.config,
            part=part,
            instead=instead,
            prefix="image_encoder.network.",
            revision=revision,
        )
        check_weights(name, part, needed_names(pretrained), info, RESAVE)
        self.network.load_state_dict(pretrained.float().state_dict())


def is_backbone_type(name: str) -> bool:
    """Whether a name is a backbone type (``resnet``) or `SCRATCH`, with random weights, and not a Hub id or folder."""
    return name == SCRATCH or name in MODEL_FOR_BACKBONE_MAPPING_NAMES


def backbone_config(name: str, revision: str | None = None, instead: str = INSTEAD) -> PreTrainedConfig:
    """The configuration of a Hub id or local folder, or the default configuration of a backbone type.

    Raises:
        UserError: a configuration that cannot be loaded, or a saved classifier with VGG16.
    """
    if is_backbone_type(name):
        config = small_resnet() if name == SCRATCH else AutoConfig.for_model(name)
        return type(config).from_dict(
            json.loads(config.to_json_string())
        )  # lists instead of tuples, as read from a file
    with explain_hub_errors(name, "the image encoder", instead):
        config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    if not isinstance(config, ImageTextConfig):
        return config
    if config.image_config is None:
        raise UserError(
            f"{name} is a classifier whose image encoder is VGG16. To start from its weights, use "
            f"--model.image_encoder vgg16 --model.image_weights {name}/model.safetensors."
        )
    return config.image_config


def small_resnet() -> ResNetConfig:
    """Three blocks of a ResNet (He et al. 2016): a map of 4×4 positions for images of 64 pixels."""
    return ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256], depths=[1, 1, 1], layer_type="basic")


def fetch_backbone(name: str, revision: str | None = None, instead: str = INSTEAD) -> None:
    """Download the configuration, image processor and weights of a Hub id, unless they are in the cache already.

    Raises:
        UserError: one of them cannot be loaded.
    """
    backbone_config(name, revision, instead)
    backbone_statistics(name, revision, instead)
    fetch_weights(name, revision, "the image encoder", instead)


def backbone_statistics(name: str, revision: str | None = None, instead: str = INSTEAD) -> dict[str, list[float]]:
    """Mean and standard deviation with which a pretrained backbone's images were normalized; none for a type."""
    if is_backbone_type(name):
        return {}
    with explain_hub_errors(name, "the image processor", instead):
        processor = AutoImageProcessor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    return {"image_mean": processor.image_mean, "image_std": processor.image_std}
