"""The image encoder of a model: VGG16, or another backbone."""

from data.errors import UserError
from models.backbone import BackboneEncoder
from models.configuration import ImageTextConfig
from models.vgg import LAST, VGG16Encoder

ImageEncoder = VGG16Encoder | BackboneEncoder


def build_image_encoder(config: ImageTextConfig) -> ImageEncoder:
    """VGG16, or the backbone that ``image_config`` describes.

    Raises:
        UserError: levels that a backbone does not have, or a type that is no backbone.
    """
    if config.image_config is None:
        return VGG16Encoder(config.batch_norm)
    if tuple(config.levels) != (LAST,):
        raise UserError(f"Fusion at levels {list(config.levels)} needs VGG16; other image encoders have level 5 alone.")
    return BackboneEncoder(config.image_config)
