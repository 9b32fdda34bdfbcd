"""Saving and loading of a classifier: complete weights, aligned memory, and the file of a custom text encoder."""

from collections.abc import Set
from itertools import chain
from pathlib import Path

from transformers import PreTrainedModel

from models.configuration import FITTED
from models.custom_encoder import CODE, SAVED_NAME, build_custom_encoder, restore, split_name, tied_names
from models.weight_check import RESAVE, check_weights, no_loading_report

ALIGNMENT = 64
"""Alignment in bytes of tensors from torch's CPU allocator."""
ENCODERS = ("text_encoder.", "image_encoder.")
"""Prefixes of weights that must always come from the file."""
CUSTOM = "text_encoder.encoder."
"""Prefix of the weights of a custom text encoder."""
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
        initialized as in a new model, and what was fitted to the old ones (thresholds, calibration) is reset.

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
        if model.config.custom_text_encoder:
            info["missing_keys"] -= model.restore_custom_encoder(info["missing_keys"] | mismatched)
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
        if reinitialized:
            model.config.update(FITTED | {"majority_answer": (0,)})
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
                tensor.data = tensor.data.clone()
        return (model, info) if output_loading_info else model

    def restore_custom_encoder(self, absent: Set[str]) -> set[str]:
        """Construct the custom text encoder anew and give it its weights.

        transformers leaves buffers that are not saved without values, and knows nothing of shared weights.

        Args:
            absent: names of weights that the file does not have.

        Returns:
            names of weights that the encoder has now.
        """
        loaded = self.text_encoder.encoder
        weights = {name: tensor for name, tensor in loaded.state_dict().items() if CUSTOM + name not in absent}
        encoder = build_custom_encoder(self.config, trust=True).to(self.device, self.dtype)
        found = restore(encoder, weights)
        self.text_encoder.encoder = encoder.train(loaded.training)
        return {CUSTOM + name for name in found}

    def save_pretrained(self, save_directory, **kwargs):
        """Save as any HuggingFace model, with the file of a custom text encoder, as it was loaded, beside the weights.

        Weights that share a tensor in a custom encoder are saved once.
        """
        named = self.config.custom_text_encoder
        if named is not None:
            copies = {CUSTOM + copy for names in tied_names(self.text_encoder.encoder) for copy in names[1:]}
            weights = kwargs.get("state_dict") or self.state_dict()
            kwargs["state_dict"] = {name: tensor for name, tensor in weights.items() if name not in copies}
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            Path(save_directory, SAVED_NAME).write_bytes(CODE[type(self.text_encoder.encoder)])
            self.config.custom_text_encoder = f"{SAVED_NAME}:{split_name(named)[1]}"
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.custom_text_encoder = named
