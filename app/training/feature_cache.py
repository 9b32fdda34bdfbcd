"""Cache of the features of frozen encoders: computed once per image, text and sound, shared by all epochs and runs."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.utils import PushToHubMixin

from data import FeatureStore, ImageBatchSampler, InputCollate, Rows, make_loader, text_key
from data.audio import extractor_of
from data.errors import UserError
from models import ImageTextProcessor
from models.audio import AudioTokens
from models.image_encoder import ImageEncoder
from models.picture_encoder import PictureEncoder
from models.text_encoder import TextEncoder
from models.vgg import LAST
from models.video import run_frames

FOLDER = ".features"
"""Folder beside the run folders, shared by all runs."""
BATCHES_A_FILE = 16
"""Batches per file; an interruption loses at most one file."""


@dataclass
class FeatureCache:
    """Computes missing features, shared among processes.

    With bf16 training the features have the same bits as those computed in each epoch. With float32 training they are
    rounded to float16.

    Args:
        folder: the folder of all caches; each combination of weights, preprocessing and precision has a subfolder.
        processor: the processor of the frozen encoders.
        accelerator: devices, processes and precision.
        batch_size: images, texts or sounds per batch.
        num_workers: processes that decode images and sounds.
    """

    folder: Path
    processor: ImageTextProcessor
    accelerator: Accelerator
    batch_size: int
    num_workers: int = 0

    def images(
        self, encoder: ImageEncoder | PictureEncoder, splits: Iterable[Rows], collate: InputCollate, level: int
    ) -> FeatureStore:
        """Feature maps after the first ``level`` blocks for the images of all rows.

        Raises:
            UserError: the disk is too small, or half precision cannot represent a feature.
        """
        store = self.open("image", encoder.blocks(0, level), *self.about_images(level, collate))
        missing = not_stored(splits, attrgetter("image_keys"), store)
        batches = (batch for rows in missing for batch in self.image_batches(encoder, rows, collate, level))
        self.fill(store, encoder, batches, sum(map(len, missing)), "image")
        return store

    def image_means(self, encoder: ImageEncoder, splits: Sequence[Rows], collate: InputCollate) -> FeatureStore:
        """Means ``(1, D)`` over the positions of the last map, for the images of all rows.

        Maps that `images` has stored are not computed again.

        Raises:
            UserError: as `images`.
        """
        about = (encoder.blocks(0, LAST), *self.about_images(LAST, collate))
        maps, means = self.open("image", *about), self.open("image_mean", *about)
        missing = not_stored(splits, attrgetter("image_keys"), means)
        stored = {key: maps[key] for rows in missing for key in rows.image_keys if key and key in maps}
        if stored and self.accelerator.is_main_process:
            means.add({key: self.to_half(mean_over_positions(found), "image") for key, found in stored.items()})
        self.accelerator.wait_for_everyone()
        means.refresh()
        left = not_stored(missing, attrgetter("image_keys"), means)
        batches = (
            {key: mean_over_positions(found) for key, found in batch.items()}
            for rows in left
            for batch in self.image_batches(encoder, rows, collate, LAST)
        )
        self.fill(means, encoder, batches, sum(map(len, left)), "image")
        return means

    def about_images(self, level: int, collate: InputCollate) -> tuple:
        """What determines the features of images besides the encoder."""
        fit = () if self.processor.fit == "squeeze" else (self.processor.fit,)
        frames = () if collate.frames == 1 else (collate.frames,)
        return self.processor.image_processor, level, collate.value_range, *fit, *frames

    def image_batches(
        self, encoder: ImageEncoder | PictureEncoder, rows: Rows, collate: InputCollate, level: int
    ) -> Iterator[dict[str, Tensor]]:
        for keys, batch in self.load(rows, rows.image_keys, replace(collate, contexts=())):
            pixels = batch["pixel_values"].to(self.accelerator.device)
            maps = run_frames(encoder, pixels, 0, level, collate.frames)
            yield dict(zip(keys, maps.split(1), strict=True))

    def load(self, rows: Rows, keys: Sequence[str | None], collate: Callable) -> Iterator[tuple[list[str], dict]]:
        """This process's share of the rows, whose keys all differ: batches as collated, with their keys."""
        share = {"num_processes": self.accelerator.num_processes, "process_index": self.accelerator.process_index}
        sampler = ImageBatchSampler(keys, self.batch_size, shuffle=False, **share)
        for indices, batch in zip(sampler, make_loader(rows, sampler, collate, self.num_workers), strict=True):
            yield [str(keys[i]) for i in indices], batch

    def texts(self, encoder: TextEncoder, splits: Iterable[Rows]) -> FeatureStore:
        """Token features ``(L, hidden)`` for the texts of all rows."""
        store = self.open("text", encoder, self.processor.tokenizer)
        texts = dict.fromkeys(text for rows in splits for text in rows.texts if text is not None)
        missing = [text for text in texts if text_key(text) not in store]
        self.fill(store, encoder, self.text_batches(encoder, missing), len(missing), "text")
        return store

    def text_batches(self, encoder: TextEncoder, texts: list[str]) -> Iterator[dict[str, Tensor]]:
        own = texts[self.accelerator.process_index :: self.accelerator.num_processes]
        for start in range(0, len(own), self.batch_size):
            batch = own[start : start + self.batch_size]
            inputs = self.processor(None, batch).to(self.accelerator.device)
            features = encoder(**inputs)
            mask = inputs["attention_mask"].bool()
            yield {text_key(text): row[real] for text, row, real in zip(batch, features, mask, strict=True)}

    def sounds(
        self, encoder: AudioTokens, splits: Iterable[Rows], collate: InputCollate, spec: Mapping[str, Any]
    ) -> FeatureStore:
        """Tokens before the padding ``(L, hidden_size)`` for the sounds that all rows have for a context.

        Args:
            spec: the context's entry of ``config.contexts``.

        Raises:
            UserError: as `images`, or a sound that cannot be decoded.
        """
        store = self.open("sound", encoder, extractor_of(spec), spec["seconds"])
        missing = not_stored(splits, lambda rows: rows.context_keys[spec["name"]], store)
        batches = (batch for rows in missing for batch in self.sound_batches(encoder, rows, collate, spec))
        self.fill(store, encoder, batches, sum(map(len, missing)), "sound")
        return store

    def sound_batches(
        self, encoder: AudioTokens, rows: Rows, collate: InputCollate, spec: Mapping[str, Any]
    ) -> Iterator[dict[str, Tensor]]:
        for keys, batch in self.load(rows, rows.context_keys[spec["name"]], partial(collate.collate_context, spec)):
            values, filled = (batch[name].to(self.accelerator.device) for name in ("values", "filled"))
            tokens, mask = encoder(values, filled)
            yield {key: row[real] for key, row, real in zip(keys, tokens, mask, strict=True)}

    def open(self, kind: str, encoder: nn.Module, preprocessing: PushToHubMixin, *more) -> FeatureStore:
        """The store of an encoder; other weights, preprocessing or precision give another folder."""
        precision = torch.float32 if self.accelerator.mixed_precision == "no" else self.dtype
        return FeatureStore(self.folder / f"{kind}_{fingerprint(encoder, preprocessing, precision, *more)}")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float16

    def fill(
        self, store: FeatureStore, encoder: nn.Module, batches: Iterator[dict[str, Tensor]], number: int, kind: str
    ) -> None:
        """Write the features of all batches, after a check of the free disk space."""
        self.accelerator.wait_for_everyone()  # so that all have listed what is missing before one adds to it
        encoder.eval()
        with torch.inference_mode(), self.accelerator.autocast():
            held: list[dict[str, Tensor]] = []
            bar = tqdm(batches, f"features of {kind}s", leave=False, disable=not self.accelerator.is_main_process)
            for count, batch in enumerate(bar):
                if count == 0:
                    self.check_room(store.folder, number, next(iter(batch.values())).numel() * 2, kind)
                held.append({key: self.to_half(features, kind) for key, features in batch.items()})
                if len(held) == BATCHES_A_FILE:
                    store.add({key: features for batch in held for key, features in batch.items()})
                    held = []
            if held:
                store.add({key: features for batch in held for key, features in batch.items()})
        self.accelerator.wait_for_everyone()
        store.refresh()

    def check_room(self, folder: Path, number: int, size: int, kind: str) -> None:
        needed = number * size
        about = f"features of {number:,} {kind}s from their frozen encoder, about {needed / 2**20:,.1f} MiB"
        self.accelerator.print(f"  {about}, are computed once and kept in {folder} (--train.cache_features)")
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise UserError(
                f"The {about}, do not fit on the disk, which has {free / 2**20:,.0f} MiB left. Make room there, or "
                "compute them in every epoch: --train.cache_features false."
            )

    def to_half(self, features: Tensor, kind: str) -> Tensor:
        half = features.to(self.dtype).cpu().contiguous()
        if not bool(half.isfinite().all()):
            raise UserError(
                f"Features of {kind}s are larger than {self.dtype} can hold: compute them in every epoch, "
                "--train.cache_features false."
            )
        return half


def mean_over_positions(maps: Tensor) -> Tensor:
    """Means ``(I, D)`` of maps ``(I, D, h, w)``."""
    return maps.float().mean(dim=(2, 3))


def not_stored(
    splits: Iterable[Rows], keys_of: Callable[[Rows], Sequence[str | None]], store: FeatureStore
) -> list[Rows]:
    """The rows of each split whose key is neither in the store nor that of an earlier row of any split."""
    seen: set[str] = set()
    found = []
    for rows in splits:
        numbers = []
        for number, key in enumerate(keys_of(rows)):
            if key is not None and key not in store and key not in seen:
                seen.add(key)
                numbers.append(number)
        found.append(rows.select(numbers))
    return found


def fingerprint(encoder: nn.Module, preprocessing: PushToHubMixin, *more) -> str:
    """Hash of everything besides the input that determines features: structure, weights, preprocessing and ``more``."""
    digest = hashlib.sha256(f"{encoder} {more}".encode())
    update_with_weights(digest, encoder)
    with tempfile.TemporaryDirectory() as folder:
        preprocessing.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:16]


def update_with_weights(digest: "hashlib._Hash", module: nn.Module) -> None:
    """Add the names and the bytes of a module's weights to a hash."""
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
