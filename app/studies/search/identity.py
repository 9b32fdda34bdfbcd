"""What a study is for: settings, data and space, so that no other search goes on with its trials."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from app.run_paths import places_of
from app.settings import INCIDENTAL, flat
from app.studies.search.space import Space

VERSION = 1
"""Of what a study records about itself."""


def identity_of(space: Space, search: Mapping[str, str]) -> dict[str, Any]:
    """What all processes of a search must agree on, as JSON gives it back.

    Args:
        search: options of the search itself.
    """
    settings = space.base.settings()
    values = {name: value for name, value in flat(settings).items() if name not in INCIDENTAL}
    places = {name: place.sha256 or place.path for name, place in places_of(settings).items() if name != "run_dir"}
    found = {
        "version": VERSION,
        "optuna": optuna.__version__.partition(".")[0],
        "settings": values | places,
        "space": space.description(),
        "search": search,
    }
    return json.loads(json.dumps(found))


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two identities, a phrase each."""
    if before.get("version") != now["version"] or before["optuna"] != now["optuna"]:
        return [f"version {before.get('version')} with Optuna {before.get('optuna')} wrote it"]
    found = []
    for part, told in (("settings", ""), ("space", "the space of "), ("search", "--")):
        names = sorted(before[part].keys() | now[part].keys())
        changed = [name for name in names if before[part].get(name) != now[part].get(name)]
        found += [f"{told}{name} was {before[part].get(name)!r}, now {now[part].get(name)!r}" for name in changed]
    return found
