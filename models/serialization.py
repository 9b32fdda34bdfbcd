"""Saving and loading of a classifier: complete weights, aligned memory, and the file of a custom text encoder."""

import shutil
from itertools import chain
from pathlib import Path

from transformers import PreTrainedModel

from models.custom_encoder import SAVED_NAME, find_file, split_name
from models.weight_check import RESAVE, check_weights, no_loading_report

ALIGNMENT = 64
"""Alignment in bytes of tensors from torch's CPU allocator."""
ENCODERS = ("text_encoder.", "image_encoder.")
"""Prefixes of weights that must always come from the file."""
NEW_HEAD = "For a new head with other labels: from_pretrained(…, num_labels=…, ignore_mismatched_sizes=True)."
"""Advice when shapes do not match."""


class SavedModel(PreTrainedModel):
    """Base class of `models.ImageTextClassifier`, with `from_pretrained` and `save_pretrained`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """Load as any HuggingFace model, but refuse weights that do not cover the model.

        With ``ignore_mismatched_sizes``, parts of another shape outside the encoders (a head for other labels) are
        initialized as in a new model.

        Tensors are copied to aligned memory. A safetensors file is memory-mapped at any offset, and matrix-vector
        kernels on CPUs sum in an order that depends on alignment: without the copy the last bits of the logits would
        differ from those of the model that was saved.

        Raises:
            UserError: weights that do not cover the model, or a custom text encoder without trust.
        """
        with no_loading_report():
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        mismatched = {name for name, *_ in info["mismatched_keys"]}
        reinitialized = {name for name in mismatched if ignore_mismatched_sizes and not name.startswith(ENCODERS)}
        check_weights(
            str(pretrained_model_name_or_path),
            "the classifier that its config.json describes",
            set(model.state_dict()) - reinitialized,
            info,
            NEW_HEAD if mismatched - reinitialized else RESAVE,
        )
        if absent := info["missing_keys"] | mismatched:
            new = cls(model.config, trust_custom_encoder=kwargs.get("trust_custom_encoder", False)).state_dict()
            model.load_state_dict({name: new[name] for name in absent}, strict=False)
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
                tensor.data = tensor.data.clone()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, **kwargs):
        """Save as any HuggingFace model, with the file of a custom text encoder beside the weights."""
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
