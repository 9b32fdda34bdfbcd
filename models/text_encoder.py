"""The text encoder: a pretrained HuggingFace encoder, a small BERT trained from scratch, or a custom class."""

import inspect
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data.errors import UserError
from models.configuration import ImageTextConfig
from models.custom_encoder import build_custom_encoder
from models.hub_errors import explain_hub_errors, fetch_weights
from models.weight_check import RESAVE, check_weights, load_pretrained, needed_names

LAUNCH_MULTIPLICATIONS = {"cpu": 1e9, "gpu": 1e11}
"""Multiplications that a device does in the time in which an encoder starts on one more group of texts."""
INSTEAD = ", or train a small text encoder from scratch (--model.text_encoder scratch)"
"""Suggestion when a pretrained encoder cannot be loaded."""


class TextEncoder(PreTrainedModel):
    """Encode the tokens of a text with the encoder that the configuration defines.

    Texts of similar length are encoded together, so that little padding is computed; see `length_groups`.

    Args:
        config: its ``custom_text_encoder`` is imported, or its ``text_config`` is built, with random weights until
            `load_pretrained`.
        trust_custom_encoder: allow running the file of a custom encoder.

    Shape:
        - input_ids: ``(B, L)`` int64; attention_mask: ``(B, L)`` int64, 1 on real tokens and 0 on padding
        - returns: ``(B, L, hidden_size)``; zero after the last real token of a group of shorter texts

    Raises:
        UserError: an encoder that cannot be built, or a custom encoder without trust.
    """

    config_class = ImageTextConfig
    supports_gradient_checkpointing = True

    hidden_size: int

    def __init__(self, config: ImageTextConfig, trust_custom_encoder: bool = False):
        super().__init__(config)
        if config.custom_text_encoder:
            self.encoder = build_custom_encoder(config, trust=trust_custom_encoder)
            self.hidden_size = int(self.encoder.hidden_size)  # type: ignore[arg-type]
        else:
            model_class, kwargs = text_model_class(config.text_config)
            encoder = model_class(config.text_config, **kwargs)
            self.encoder = encoder.get_encoder() if encoder.config.is_encoder_decoder else encoder
            self.hidden_size = int(encoder.config.hidden_size)
        self.post_init()

    def _init_weights(self, module):
        """Do nothing: the encoders initialize their own layers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return self.encode(input_ids, attention_mask)
        lengths = (attention_mask * torch.arange(1, attention_mask.shape[1] + 1, device=input_ids.device)).amax(dim=1)
        groups = length_groups(lengths.tolist(), self.launch_cost(input_ids.device.type))
        if len(groups) == 1:
            return self.encode(input_ids, attention_mask)
        order = torch.tensor([row for rows, _ in groups for row in rows], device=input_ids.device)
        parts = zip(groups, order.split([len(rows) for rows, _ in groups]), strict=True)
        encoded = [self.encode(input_ids[rows, :length], attention_mask[rows, :length]) for (_, length), rows in parts]
        padded = [nn.functional.pad(part, (0, 0, 0, input_ids.shape[1] - part.shape[1])) for part in encoded]
        return torch.cat(padded)[order.argsort()]

    def launch_cost(self, device: str) -> float:
        """Number of tokens whose encoding takes as long as starting the encoder once more.

        Infinite while weights are in shards: processes gather them together in each layer, so each process must start
        its encoder equally often, whatever its texts.
        """
        if any(isinstance(parameter, DTensor) for parameter in self.encoder.parameters()):
            return float("inf")
        embeddings = sum(m.weight.numel() for m in self.encoder.modules() if isinstance(m, nn.Embedding))
        multiplications = max(1, sum(p.numel() for p in self.encoder.parameters()) - embeddings)
        return LAUNCH_MULTIPLICATIONS["cpu" if device == "cpu" else "gpu"] / multiplications

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens of texts that are all padded to the same length."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return output if isinstance(output, Tensor) else output.last_hidden_state

    @property
    def max_positions(self) -> int | None:
        """Maximum length in tokens that the position embeddings allow; ``None`` without a limit.

        RoBERTa and its relatives number positions from ``padding_idx + 1``.
        """
        for name, module in self.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        return getattr(getattr(self.encoder, "config", None), "max_position_embeddings", None)

    def load_pretrained(self, name: str, revision: str | None = None) -> None:
        """Load the pretrained weights of a Hub id or local folder (safetensors only).

        A saved `ImageTextClassifier` provides those of its text encoder.

        Raises:
            UserError: weights that cannot be read, or that do not cover the encoder; or a PEFT adapter.
        """
        model_class, kwargs = text_model_class(self.config.text_config)
        part = "the text encoder"
        pretrained, info = load_pretrained(
            model_class,
            name,
            self.config.text_config,
            part=part,
            instead=INSTEAD,
            prefix="text_encoder.encoder.",
            revision=revision,
            **kwargs,
        )
        if getattr(pretrained, "_hf_peft_config_loaded", False):
            raise UserError(
                f"{name} contains a PEFT adapter. Merge it into its encoder with merge_and_unload(), save the result "
                "with save_pretrained, and use the new folder."
            )
        encoder = pretrained.get_encoder() if pretrained.config.is_encoder_decoder else pretrained
        own = {*encoder.parameters(), *encoder.buffers()}
        of_encoder = {key for key, tensor in pretrained.state_dict(keep_vars=True).items() if tensor in own}
        check_weights(name, part, needed_names(pretrained) & of_encoder, info, RESAVE)
        self.encoder.load_state_dict(encoder.float().state_dict())


def length_groups(lengths: Sequence[int], launch_cost: float) -> list[tuple[list[int], int]]:
    """Partition texts by length so that padding and the number of groups cost least, by dynamic programming.

    Args:
        lengths: tokens of each text.
        launch_cost: cost of a group in tokens.

    Returns:
        for each group the numbers of its texts and its length, at least 1; the last group has the longest texts.
    """
    values, of_text = np.unique(np.maximum(lengths, 1), return_inverse=True)
    counted = np.concatenate([[0], np.bincount(of_text).cumsum()])
    least, first = np.zeros(len(values) + 1), np.zeros(len(values), dtype=int)
    for end, length in enumerate(values, start=1):
        cost = least[:end] + (counted[end] - counted[:end]) * length + launch_cost
        first[end - 1] = int(cost.argmin())
        least[end] = cost.min()
    groups, end = [], len(values)
    while end:
        start = first[end - 1]
        rows = np.flatnonzero((of_text >= start) & (of_text < end)).tolist()
        groups.append((rows, int(values[end - 1])))
        end = start
    return groups[::-1]


def text_model_class(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], dict]:
    """The transformers class for a text configuration, and its arguments (no pooling layer, which would be unused).

    Raises:
        UserError: a configuration without a text model.
    """
    mapping = MODEL_FOR_TEXT_ENCODING_MAPPING if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else MODEL_MAPPING
    if type(config) not in mapping:
        raise UserError(f"transformers has no text model for a configuration of type {config.model_type!r}.")
    model_class = mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    pools = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return model_class, {"add_pooling_layer": False} if pools else {}


def pretrained_text_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The text configuration of a Hub id or local folder; for a two-tower model (CLIP …) that of its text tower.

    Raises:
        UserError: a configuration that cannot be loaded, or a saved classifier without a HuggingFace text encoder.
    """
    with explain_hub_errors(name, "the text encoder", INSTEAD):
        config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    if isinstance(config, ImageTextConfig) and config.custom_text_encoder:
        raise UserError(
            f"{name} is a classifier with a custom text encoder. To train a new encoder of this class, use its file: "
            f"--model.text_encoder {name}/{config.custom_text_encoder}."
        )
    if isinstance(config, ImageTextConfig) and config.context_hidden_size:
        raise UserError(f"{name} is a classifier of context features: it has no text encoder.")
    return config if config.is_encoder_decoder else config.get_text_config()


def fetch_text_encoder(name: str, revision: str | None = None) -> None:
    """Download the configuration, tokenizer and weights of a Hub id, unless they are in the cache already.

    Raises:
        UserError: one of them cannot be loaded.
    """
    pretrained_text_config(name, revision)
    pretrained_tokenizer(name, revision)
    fetch_weights(name, revision, "the text encoder", INSTEAD)


def pretrained_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or local folder, which pads on the right: positions are counted from the left.

    If it has no padding token (GPT-2 …), the end token is used, or else its first one: padding is masked.

    Raises:
        UserError: a tokenizer that cannot be loaded.
    """
    with explain_hub_errors(name, "the tokenizer", INSTEAD):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"
    return tokenizer


def scratch_text_config(tokenizer: PreTrainedTokenizerBase, hidden_size: int, num_layers: int) -> BertConfig:
    """The configuration of a small BERT (Devlin et al. 2019) to train from scratch, with heads of width 64."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // 64),
        intermediate_size=4 * hidden_size,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019, section 2.2) on training texts.

    Text is lower-cased. There are no unknown tokens, and the same texts always give the same vocabulary. (WordPiece is
    not used, because its trainer breaks ties by the order of a hash map, huggingface/tokenizers issue 1794.)

    Args:
        texts: the training texts.
        vocab_size: maximum vocabulary size, including the 4 special tokens and the 256 bytes.

    Raises:
        UserError: the texts contain no word.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = list(special.values())  # they get the first indices, in this order
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(names) + 256:
        raise UserError("The training texts contain no word to train a tokenizer on. Check the text column.")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.BertProcessing(("[SEP]", names.index("[SEP]")), ("[CLS]", names.index("[CLS]"))),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
