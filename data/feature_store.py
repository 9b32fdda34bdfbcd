"""Features of frozen encoders on disk: computed once, then read in place of pictures and texts."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data.errors import UserError


class FeatureStore:
    """Features by the key of what they are of.

    They lie in safetensors files that are mapped into memory, so that the disk's cache holds them and not the
    process. A file gets its name when it is whole, so several processes may add to a folder at once, and one that is
    killed loses no more than the file it was writing.

    Args:
        folder: of one encoder with its weights and preprocessing; made when the first features are added.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.opened: set[Path] = set()
        self.features: dict[str, Tensor] = {}
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self.features

    def __getitem__(self, key: str) -> Tensor:
        return self.features[key]

    def __getstate__(self) -> Path:
        """Another process maps the files itself."""
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def refresh(self) -> None:
        """Open the files that have come since; one that is damaged is named and deleted, to be computed anew."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self.opened):
            try:
                with safe_open(path, "pt") as file:
                    keys, lengths = (json.loads(file.metadata()[name]) for name in ("keys", "lengths"))
                    parts = file.get_tensor("features").split(lengths)
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                print(f"The features in {path} are damaged ({error}) and are computed anew.")
                path.unlink()
                continue
            self.features.update(zip(keys, parts, strict=True))
            self.opened.add(path)

    def add(self, features: Mapping[str, Tensor]) -> None:
        """Write features of equal width: tensors that may differ in their first dimension alone.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        new = path.with_suffix(".writing")
        parts = list(features.values())
        about = {"keys": json.dumps(list(features)), "lengths": json.dumps([len(part) for part in parts])}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": torch.cat(parts)}, new, metadata=about)
            os.replace(new, path)
        except (OSError, SafetensorError) as error:
            new.unlink(missing_ok=True)
            raise UserError(
                f"Features could not be written to {self.folder}: {error}. Make room there, or compute them in every "
                "epoch: --train.cache_features false."
            ) from error
        self.refresh()
