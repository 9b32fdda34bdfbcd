"""The settings of a training run, checked on construction; `app.settings_parser` reads and writes them."""

from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from jsonargparse import set_parsing_settings
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from app.run_paths import PATHS
from data import DataSettings
from data.paths import expand_home
from models.settings import ModelSettings

if TYPE_CHECKING:
    FrozenBlocks = int
else:
    FrozenBlocks = restricted_number_type("FrozenBlocks", int, [(">=", 0), ("<=", 5)])
    FrozenBlocks.__module__ = __name__  # where a new process finds the type of a pickled value

set_parsing_settings(docstring_parse_attribute_docstrings=True)


BestBy = Literal["auto", "accuracy", "macro_f1", "balanced_accuracy", "roc_auc", "average_precision", "loss"]
"""Figures of the validation rows by which the best epoch can be chosen."""


@dataclass
class LearningRateScales:
    """Factors of the learning rate for the parts of the model; 0 freezes a part."""

    image_encoder: NonNegativeFloat | None = None
    """The image encoder, and those that contexts have of their own. Default: 0.3 from scratch, 0.1 if pretrained."""
    text_encoder: NonNegativeFloat | None = None
    """The text encoder. Default: 1 from scratch or with LoRA, 0.1 if pretrained."""
    audio_encoder: NonNegativeFloat | None = None
    """The encoder of sounds. Default: 0.1, also from scratch, where different sounds become one at higher rates."""
    fusion: NonNegativeFloat = 1.0
    """Context grids, cross-attention and the embeddings for missing inputs."""
    classifier: NonNegativeFloat = 1.0
    """The classifier."""
    probe: NonNegativeFloat = 1.0
    """The linear probe of a linear start."""


@dataclass
class TrainSettings:
    """How the model is trained."""

    epochs: PositiveInt = 20
    """Passes over the training rows. With the schedules constant and step, a finished run resumes with more epochs."""
    steps: NonNegativeInt = 0
    """Optimizer steps, in place of epochs: rounded up to whole epochs; 0 counts epochs."""
    batch_size: PositiveInt = 32
    """Images per batch and process, each with all its texts."""
    batch_rows: NonNegativeInt = 64
    """Rows per batch and process on average: images with several texts each come in smaller batches. 0 does not limit
    them, and a stream is never limited."""
    gradient_accumulation_steps: PositiveInt = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """adamw (Loshchilov & Hutter 2019); muon, which orthogonalizes the updates of hidden layers (Jordan et al. 2024),
    for random weights; or sgd with momentum 0.9."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate, before the scales of the parts."""
    scales: LearningRateScales = field(default_factory=LearningRateScales)
    """Factors of the learning rate for the parts of the model."""
    frozen_blocks: FrozenBlocks = 0
    """Number of frozen VGG16 blocks (of 5), counted from the first."""
    cache_features: bool = True
    """Compute the features of frozen encoders once and store them in the folder .features beside the run folder."""
    lora_rank: NonNegativeInt = 0
    """Rank of the LoRA adapters of a pretrained text encoder, whose own weights are then frozen; 0 disables LoRA."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, slower steps."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay; norms, biases and single vectors have none."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine decay to 0, step (times step_gamma every step_epochs) or constant."""
    warmup: ClosedUnitInterval = 0.1
    """Share of the steps in which the learning rate rises linearly."""
    step_epochs: PositiveInt = 5
    """Epochs between two decays of the step schedule."""
    step_gamma: ClosedUnitInterval = 0.1
    """Factor of each decay of the step schedule."""
    max_grad_norm: PositiveFloat = 1.0
    """Maximum norm of the gradient; larger gradients are clipped."""
    label_smoothing: ClosedUnitInterval = 0.0
    """Label smoothing: share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: inverse class frequency; for multi-label, positives are weighted by negatives / positives."""
    augment: bool = False
    """Augment images with random rotation, translation, scale and brightness, but no mirroring; useful with few
    images."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle uses each image once per epoch; balanced draws the same number of images, rare labels more often."""
    attention_penalty: NonNegativeFloat = 0.0
    """Weight in the loss of the mean squared L2 norm of the attention weights of a position: 1/49 for uniform
    attention, 1 for attention to a single slot. Needs --model.fusion cross."""
    gate_cost: NonNegativeFloat = 0.0
    """Weight in the loss of the share of gated work that is done. Needs --model.gated true."""
    gate_warmup: ClosedUnitInterval = 0.5
    """Share of the epochs at the start in which gates are held open. Gates train for at least one epoch, and only those
    epochs can be chosen as best."""
    best_by: BestBy = "auto"
    """Figure of the validation rows by which the best epoch is chosen: auto is the accuracy, and for multi-label the
    average precision (mean over the labels), because whole sets of labels are seldom exactly right."""
    early_stopping: NonNegativeInt = 0
    """Stop after this many epochs without a better figure of best_by; 0 disables early stopping."""
    linear_start: Literal["auto"] | bool = "auto"
    """Start the classifier pooled as logistic regression on the mean features of image and text, to which training adds
    (linear probing, then fine-tuning; Kumar et al. 2022). The start counts as epoch 0. auto: if both encoders are
    frozen and there are fewer than 5,000 training rows."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto is bf16 if the device computes it natively, otherwise float32."""
    target_risk: ClosedUnitInterval = 0.05
    """Allowed share of wrong answers above the confidence threshold. The threshold is chosen on the validation rows
    after training; answers below it are marked as not sure."""
    seed: NonNegativeInt = 0
    """Random seed of weights, order, dropout and validation split."""
    pictures: NonNegativeInt = 8
    """Number of held-out examples in where_it_looked.png."""
    baselines: bool = True
    """Compare the result with linear classifiers of the training rows, on each input and on all together."""
    checkpoint_steps: NonNegativeInt = 200
    """Steps between two checkpoints, from which an interrupted run resumes. One more is written after each epoch; 0
    writes only these."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Experiment trackers that accelerate supports: tensorboard, wandb, mlflow, …; [] for none."""


@dataclass
class Settings:
    """Everything a run depends on."""

    data: DataSettings = field(default_factory=DataSettings)
    """The data."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The classifier."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """The training."""
    recipe: str = ""
    """Recipe with which the settings start: probe, finetune, lora, scratch or article (see configs/recipes). The
    configuration file and the options override it."""
    run_dir: str = ""
    """Folder of the run. Default: runs/<name of the configuration file>."""
    overwrite: bool = False
    """Delete the run in the folder first. Otherwise an unfinished run with the same settings and data is resumed."""

    def __post_init__(self):
        """Paths may begin with ``~``."""
        for name in ("run_dir", *PATHS):
            section, _, field_name = name.rpartition(".")
            owner = getattr(self, section) if section else self
            if path := getattr(owner, field_name):
                setattr(owner, field_name, expand_home(path))


INCIDENTAL = {
    "recipe",
    "run_dir",
    "overwrite",
    "data.num_workers",
    "train.trackers",
    "train.pictures",
    "train.baselines",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
}
"""Settings that do not change the result of a run."""
LATER = {
    "train.epochs",
    "train.steps",
    "train.warmup",
    "train.gate_warmup",
    "train.early_stopping",
    "train.target_risk",
    "data.slice_by",
}
"""Settings that may change when a run is resumed, if all its steps so far would have been the same."""
BY_CONTENT = {
    "data.train",
    "data.validation",
    "data.test",
    "data.image_root",
    "data.exclude",
    "model.init",
    "model.text_encoder",
    "model.text_revision",
    "model.image_encoder",
    "model.image_revision",
    "model.image_weights",
}
"""Settings that name training data; resuming compares their content, not the name (`app.training.provenance`)."""


def setting_names(settings: type, prefix: str = "") -> list[str]:
    """Dotted names of all settings, in order."""
    names: list[str] = []
    for f in fields(settings):
        nested = isinstance(f.type, type) and is_dataclass(f.type)
        names += setting_names(f.type, f"{prefix}{f.name}.") if nested else [prefix + f.name]  # type: ignore[arg-type]
    return names


def flat(settings: Settings) -> dict[str, str | int | float | bool]:
    """All settings by dotted name, as experiment trackers accept them."""
    values: dict[str, str | int | float | bool] = {}
    for name in setting_names(Settings):
        value = attrgetter(name)(settings)
        values[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return values


def differences(before: Settings, after: Settings) -> dict[str, str]:
    """Settings that differ and change the result of a run: name → a phrase with both values."""
    old, new = flat(before), flat(after)
    return {
        name: f"{name} was {old[name]!r}, now {new[name]!r}"
        for name in old
        if name not in INCIDENTAL and old[name] != new[name]
    }
