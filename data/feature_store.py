"""Store outputs of frozen encoders on disk, so that they are computed once."""

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
    """A mapping from image, text or sound keys to feature tensors.

    Features are in memory-mapped safetensors files. Files are written atomically, so several processes can add to a
    folder at the same time, and a killed process loses only the file it was writing.

    Args:
        folder: for one encoder with its weights and preprocessing. It is created when features are added.
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
        """Pickle only the folder; another process maps the files itself."""
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def refresh(self) -> None:
        """Open new files. Damaged files are printed and deleted, so that their features are computed again."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self.opened):
            try:
                with safe_open(path, "pt") as file:
                    keys, lengths = (json.loads(file.metadata()[name]) for name in ("keys", "lengths"))
                    parts = file.get_tensor("features").split(lengths)
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                print(f"The features in {path} are damaged ({error}) and will be computed again.")
                path.unlink()
                continue
            self.features.update(zip(keys, parts, strict=True))
            self.opened.add(path)

    def add(self, features: Mapping[str, Tensor]) -> None:
        """Write features. The tensors may differ only in their first dimension.

        Raises:
            UserError: the disk is full, or the folder is not writable.
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
                f"Features could not be written to {self.folder}: {error}. Free some space, or compute them in every "
                "epoch with --train.cache_features false."
            ) from error
        self.refresh()
