"""A process that takes part in a search on a database; its trainings only pass the time."""

import sys
import time
from pathlib import Path

from app.studies.search import search as search_module
from app.studies.search import storage
from app.studies.search.search import Search, SearchOptions
from app.training.run_folder import RunDir

EPOCHS, SECONDS = 6, 0.25


def train(settings, on_epoch) -> None:
    """Go on after the epochs that the folder records; one more each quarter of a second."""
    run = RunDir(settings.run_dir)
    run.path.mkdir(parents=True, exist_ok=True)
    for epoch in range(len(run.records()) + 1, EPOCHS + 1):
        time.sleep(SECONDS)
        run.log({"step": epoch, "epoch": epoch, "validation_accuracy": epoch / 10, "best": True})
        if not on_epoch(epoch, epoch / 10):
            return


def main(folder: Path, url: str, trials: int) -> None:
    storage.HEARTBEAT, storage.GRACE = 1, 3
    search_module.train_in_new_process = train
    options = SearchOptions(trials=trials, storage=url, pruner="none")
    search = Search.open(folder / "mine.yaml", folder / "space.yaml", folder / "study", options, [])
    print("ready", flush=True)
    search.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
