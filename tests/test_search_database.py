"""A search that several processes share through a real PostgreSQL server."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
import yaml
from forked import Forked
from live import until
from optuna.trial import TrialState
from tiny import ROOT

from app.studies.search.search import Search, SearchOptions
from app.studies.search.storage import open_storage
from data.errors import UserError

PLACES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/bin"), Path("/usr/bin")]
BIN = next((place for place in PLACES if (place / "initdb").exists()), None)
SPACE = {"extends": "none", "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
TRIALS = 9

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BIN is None, reason="no PostgreSQL on this machine: apt-get install postgresql"),
]


class Server:
    """A PostgreSQL server with a database, in a folder of its own; it does not run as root."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.user = "postgres" if os.getuid() == 0 else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        folder.mkdir()
        if self.user:
            shutil.chown(folder, self.user)
        self.data = str(folder / "data")
        self.call("initdb", "-D", self.data, "-U", "tester", "--auth", "trust", "-E", "UTF8", "--locale", "C")
        self.start()

    def call(self, program: str, *options: str) -> None:
        assert BIN is not None
        command = [str(BIN / program), *options]
        subprocess.run(command, user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.call("pg_ctl", "-D", self.data, "-w", "-l", str(self.folder / "log"), "-o", settings, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


@pytest.fixture
def server():
    folder = Path("/tmp") / f"search_{os.getpid()}"  # a socket's path is short, and a user of its own must reach it
    shutil.rmtree(folder, ignore_errors=True)
    server = Server(folder)
    yield server
    with suppress(subprocess.CalledProcessError):  # a test has stopped it
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    data = {"train": "shapes:8", "validation": "shapes:4"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": data}))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


def start_worker(folder: Path, url: str, output: Path) -> Forked:
    command = [str(ROOT / "tests/search_worker.py"), str(folder), url, str(TRIALS)]
    return Forked(command, output, ROOT, os.environ | {"OMP_NUM_THREADS": "1"})


def running(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.RUNNING,))


def test_three_workers_share_a_search_and_the_trial_of_one_that_is_killed_goes_on(server, folder):
    first, others = folder / "first", folder / "others"
    workers = [start_worker(folder, server.url, first)]
    until(lambda: first.exists() and "ready\n" in first.read_text(), "the first worker is ready", 120)
    workers += [start_worker(folder, server.url, others) for _ in range(2)]
    study = optuna.load_study(study_name="study", storage=server.url)
    deadline = time.monotonic() + 90
    while not any(trial.last_step for trial in running(study)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers[0].send_signal(signal.SIGKILL)
    killed = running(study)
    for worker in workers[1:]:
        assert worker.wait(timeout=120) == 0
    by_folder = Counter(trial.user_attrs.get("folder") for trial in study.trials if trial.state == TrialState.COMPLETE)
    assert by_folder.total() == TRIALS
    assert set(by_folder.values()) == {1}, "no trial was trained twice"
    dead = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(dead) == 1
    assert dead[0].number in [trial.number for trial in killed]
    (again,) = [t for t in study.trials if t.system_attrs.get("retry_history") == [dead[0].number]]
    assert again.params == dead[0].params
    records = (folder / "study" / again.user_attrs["folder"] / "metrics.jsonl").read_text().splitlines()
    assert len(records) == 6, "it went on after the epochs that it had"
    assert len({trial.user_attrs["worker"] for trial in study.trials}) == 3


def test_a_database_that_goes_away_ends_the_search_with_one_message_and_it_goes_on_later(server, folder, monkeypatch):
    def train(settings, on_epoch) -> None:
        if not stopped:
            stopped.append(True)
            server.stop()
        Path(settings.run_dir).mkdir(parents=True, exist_ok=True)
        (Path(settings.run_dir) / "metrics.jsonl").write_text(
            '{"epoch": 1, "validation_accuracy": 0.5, "best": true}\n'
        )
        on_epoch(1, 0.5)

    stopped: list[bool] = []
    monkeypatch.setattr("app.studies.search.search.train_in_new_process", train)
    monkeypatch.setattr("app.studies.search.storage.GRACE", 2)
    monkeypatch.setattr("app.studies.search.storage.HEARTBEAT", 1)

    def open_search() -> Search:
        options = SearchOptions(trials=2, storage=server.url)
        return Search.open(folder / "mine.yaml", folder / "space.yaml", folder / "study", options, [])

    with pytest.raises(UserError, match=r"does not answer.*repeat the same command"):
        open_search().run()
    server.start()
    time.sleep(3)
    search = open_search()
    search.run()
    assert [t.state.name for t in search.study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_tables_of_another_version_of_optuna_are_refused(server, folder):
    open_storage(server.url, folder)
    import psycopg

    with psycopg.connect(server.url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(UserError, match="holds studies of another version"):
        open_storage(server.url, folder)
