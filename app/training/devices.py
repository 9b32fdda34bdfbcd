"""The accelerator of a training: devices, processes, precision, trackers."""

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from app.precision import choose_precision
from app.settings import Settings
from app.training.progress import check_trackers
from app.training.sharding import sharding_plugin
from models.picture_encoder import VGG16


def build_accelerator(settings: Settings) -> Accelerator:
    """The accelerator for these settings.

    Raises:
        UserError: an unknown tracker, or DeepSpeed.
    """
    check_trackers(settings.train.trackers)
    # DDP must look for parameters without a gradient: VGG16 if a batch may have no image, the text encoder without
    # fusion, and the layers of other backbones behind their feature map.
    names = {settings.model.image_encoder, *settings.data.image_encoders}
    unused = settings.data.allow_missing or settings.model.fusion == "none" or names != {VGG16}
    return Accelerator(
        mixed_precision=choose_precision(settings.train.mixed_precision),
        log_with=settings.train.trackers or None,
        project_config=ProjectConfiguration(settings.run_dir, logging_dir=settings.run_dir),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
        fsdp_plugin=sharding_plugin(),
    )
