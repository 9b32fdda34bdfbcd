"""A search whose trainings are not carried out, and its configuration."""

from pathlib import Path

import yaml

from app.studies.search import search as search_module
from app.studies.search import winner as winner_module
from app.studies.search.search import Search, SearchOptions
from app.training.run_folder import RunDir

EPOCHS = 9
SPACE = {"extends": "none", "model.fusion": {"choices": ["cross", "self", "concat", "none"]}}
SPACE |= {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


def write_config(folder: Path) -> Path:
    """Write a configuration on the built-in data, and the space beside it."""
    data = {"train": "shapes:8", "validation": "shapes:4", "test": "shapes:4"}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": data, "train": {"epochs": EPOCHS}}))
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return path


def record_trainings(monkeypatch) -> list:
    """Let searches record the settings of their trainings: cross-attention and a rate of 0.001 are best."""
    found: list = []

    def train(settings, on_epoch) -> None:
        found.append(settings)
        run = RunDir(settings.run_dir)
        run.path.mkdir(parents=True, exist_ok=True)
        for folder in (run.model, run.checkpoints):
            folder.mkdir(exist_ok=True)
        quality = {"cross": 0.9, "self": 0.8, "concat": 0.7, "none": 0.4}[settings.model.fusion]
        quality -= abs(settings.train.learning_rate - 1e-3) * 10
        for epoch in range(1, settings.train.epochs + 1):
            figure = quality * epoch / settings.train.epochs
            run.log({"step": epoch, "epoch": epoch, "validation_accuracy": figure, "best": True})
            if not on_epoch(epoch, figure):
                return

    for module in (search_module, winner_module):
        monkeypatch.setattr(module, "train_in_new_process", train)
    return found


def open_search(config: Path, *training: str, space: str = "space.yaml", **options) -> Search:
    place = config.parent / space if space else None
    return Search.open(config, place, config.parent / "study", SearchOptions(**options), training)


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.trials]
