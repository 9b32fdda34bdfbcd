"""Resolve the paths in the settings of a run from any folder, also after run and data were moved together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.hashing import sha256

if TYPE_CHECKING:
    from app.settings import Settings
    from data.settings import DataSettings

RECORD = "provenance.parquet"
"""File of a run folder with its training rows (`app.training.provenance`); its metadata holds the paths."""
PATHS = (
    *(f"data.{name}" for name in ("train", "validation", "test", "image_root", "exclude")),
    *(f"model.{name}" for name in ("init", "text_encoder", "audio_encoder", "image_encoder", "image_weights")),
)
"""Settings that can name a file or a folder; besides them, contexts can have an encoder (`context_encoders`)."""


@dataclass(frozen=True)
class Place:
    """A path as written in the settings, the absolute path at training time, and for a file the hash of its content."""

    written: str
    path: str
    sha256: str | None = None


def context_encoders(data: DataSettings) -> dict[str, str]:
    """The image encoders that contexts have of their own, by the name of the setting."""
    return {f"data.context.{context.name}.encoder": context.encoder for context in data.contexts() if context.encoder}


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def split_path(name: str, value: str) -> tuple[str, str]:
    """Split a setting into its path (``""`` if it is none) and a suffix: ``:ClassName`` of a custom encoder."""
    if name == "model.text_encoder" and (match := re.fullmatch(r"(.+\.py)(:\w+)", value)):
        return match[1], match[2]
    return ("", value) if is_built_in(name, value) else (value, "")


def is_built_in(name: str, value: str) -> bool:
    """Whether a value names something built in, not a path or a Hub id."""
    from data.sources import BUILT_IN_SOURCE  # these three are slow to import; a command line needs none of them
    from models.backbone import is_backbone_type
    from models.picture_encoder import VGG16

    if name == "model.image_encoder" or name.startswith("data.context."):
        return value == VGG16 or is_backbone_type(value)
    if name.startswith("model."):
        return value in ("scratch", "none", "imagenet")
    return BUILT_IN_SOURCE.fullmatch(value) is not None


def places_of(settings: Settings) -> dict[str, Place]:
    """The places of all existing paths in the settings, and of the run folder, by the name of the setting."""
    found = {"run_dir": Place(settings.run_dir, os.path.realpath(settings.run_dir))}
    values = {name: attrgetter(name)(settings) or "" for name in PATHS} | context_encoders(settings.data)
    for name, value in values.items():
        path, _ = split_path(name, value)
        if path and os.path.exists(there := absolute(path)):
            found[name] = Place(path, there, sha256(Path(there)) if os.path.isfile(there) else None)
    return found


def read_places(run_dir: str | Path) -> dict[str, Place]:
    """The places at training time, as `places_of` returned them; empty if the folder has no readable record."""
    if not Path(run_dir, RECORD).is_file():
        return {}
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(Path(run_dir) / RECORD).metadata
        return {name: Place(*values) for name, values in json.loads(metadata[b"places"]).items()}
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return {}


def find_path(run_dir: str | Path, places: dict[str, Place], name: str, written: str) -> str:
    """Find a path of a run's settings.

    Candidates are, in this order: its place relative to the run folder, for data that were moved with the run; its
    absolute path at training time; its path relative to the current folder. Among several existing files, one with the
    content of the training is preferred.

    Returns:
        The path as written if it leads to the same place, otherwise an absolute path. Values that are not paths (a Hub
        id, ``shapes:N``) or differ from the recorded ones are returned unchanged.

    Raises:
        UserError: no candidate exists; the message lists them.
    """
    if (place := places.get(name)) is None:
        return written
    path, rest = split_path(name, written)
    if not path or place.written != path:
        return written
    candidates = [place.path, absolute(path)]
    try:
        from_run = os.path.relpath(place.path, places["run_dir"].path)
        candidates.insert(0, os.path.normpath(Path(run_dir).resolve() / from_run))
    except ValueError:  # another drive (Windows)
        pass
    there = [candidate for candidate in dict.fromkeys(candidates) if os.path.exists(candidate)]
    if not there:
        tried = "; ".join(dict.fromkeys(candidates))
        raise UserError(
            f"{name} of the run in {run_dir} is {path!r}, which does not exist. The places that were searched are "
            f"relative to the run folder, the path at training time, and relative to the current folder: {tried}. Put "
            f"it back in one of these places, or name another: --{name} for train.py, --data.test or "
            "--data.image_root for eval.py."
        )
    if len(there) > 1 and place.sha256:
        there.sort(key=lambda candidate: not os.path.isfile(candidate) or sha256(Path(candidate)) != place.sha256)
    return written if absolute(path) == there[0] else there[0] + rest


def find_data(run_dir: str | Path, settings: DataSettings, names: Iterable[str]) -> DataSettings:
    """The data settings of a run with the named paths resolved by `find_path`.

    Raises:
        UserError: a path does not exist any more.
    """
    places = read_places(run_dir)
    found: dict[str, Any] = {}
    for name in names:
        if value := getattr(settings, name):
            found[name] = find_path(run_dir, places, f"data.{name}", value)
    return replace(settings, **found)


def find_all(run_dir: str | Path, settings: Settings) -> Settings:
    """The settings of a run, read from its own ``config.yaml``, with all paths and the run folder resolved.

    Raises:
        UserError: a path does not exist any more.
    """
    places = read_places(run_dir)
    found: dict[str, dict[str, Any]] = {"data": {}, "model": {}}
    for name in PATHS:
        section, _, key = name.partition(".")
        if value := attrgetter(name)(settings):
            found[section][key] = find_path(run_dir, places, name, value)
    context = dict(settings.data.context)
    for name, value in context_encoders(settings.data).items():
        given = context[key := name.split(".")[2]]
        assert not isinstance(given, str)
        context[key] = replace(given, encoder=find_path(run_dir, places, name, value))
    own = "run_dir" in places and settings.run_dir == places["run_dir"].written
    is_here = os.path.realpath(settings.run_dir) == os.path.realpath(run_dir)
    return replace(
        settings,
        data=replace(settings.data, context=context, **found["data"]),
        model=replace(settings.model, **found["model"]),
        run_dir=str(run_dir) if own and not is_here else settings.run_dir,
    )


MODEL_FOLDER = "model"
"""Subfolder of a run folder with the best model."""
