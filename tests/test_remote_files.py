"""Tables with a URL: on S3, as moto serves it, in the memory of the process, and errors in the place of tracebacks."""

import errno
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pandas as pd
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFile
from moto.server import ThreadedMotoServer
from predict_command import ask
from tiny import NUM_TEST, ROOT, arguments

import eval as evaluation
import train
from app.run_paths import read_places
from data import DataSettings
from data.errors import UserError
from data.exclusion import exclude_images
from data.image_cells import resolve_image
from data.image_check import verify_images
from data.image_formats import BadImageError
from data.loading import load_rows
from data.remote_files import NoSuchFileError, fetch, fetched_files, file_exists, is_url
from data.settings import NamedContext
from data.sources import load_source

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
CSV = b"image,text,label\n,a,red\n,b,blue\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def memory():
    """An empty storage in the memory of this process."""
    storage = fsspec.filesystem("memory")
    yield storage
    storage.rm("/", recursive=True)


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """A client of the local S3 server; the environment has its address and keys."""
    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    storage = s3fs.S3FileSystem()
    storage.mkdir("bucket")
    yield storage
    storage.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def with_bytes(table: Path) -> pd.DataFrame:
    """A table with the bytes of its images in place of their paths."""
    rows = pd.read_csv(table)
    rows["image"] = [(table.parent / image).read_bytes() for image in rows["image"]]
    return rows


def test_a_table_with_a_url_has_the_rows_of_the_file(s3, tmp_path):
    for name in ("rows.csv", "a [1]*::50%.csv"):
        s3.pipe_file(f"bucket/folder/{name}", CSV)
        (tmp_path / name).write_bytes(CSV)
        remote, _ = load_source(f"s3://bucket/folder/{name}", "train")
        assert remote.to_list() == load_source(str(tmp_path / name), "train")[0].to_list(), name


def test_a_version_of_a_file_is_fetched_once_and_a_new_one_is_fetched_again(memory, monkeypatch):
    fetched, get = [], type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda *args, **given: fetched.append(1) or get(*args, **given))
    memory.pipe("/rows.csv", b"text\nold\n")
    assert fetch("memory://rows.csv") == fetch("memory://rows.csv")
    assert len(fetched) == 1
    memory.pipe("/rows.csv", b"text\nnew\n")
    assert fetch("memory://rows.csv").read_bytes() == b"text\nnew\n"
    assert len(fetched) == 2


def test_a_file_whose_storage_knows_no_version_is_fetched_every_time(memory, monkeypatch):
    info = type(memory).info
    monkeypatch.setattr(
        type(memory), "info", lambda *args, **given: {k: v for k, v in info(*args, **given).items() if k != "created"}
    )
    for text in (b"text\nold\n", b"text\nnew\n"):
        memory.pipe("/rows.csv", text)
        assert fetch("memory://rows.csv").read_bytes() == text


def test_a_download_that_ends_early_leaves_nothing(memory, monkeypatch):
    memory.pipe("/rows.csv", CSV)

    def end_early(self, path, target):
        Path(target).write_bytes(CSV[:5])
        raise ConnectionError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", end_early)
        with pytest.raises(UserError, match=r"memory://rows.csv cannot be reached: ConnectionError: reset by peer"):
            fetch("memory://rows.csv")
        assert not [path for path in fetched_files().rglob("*") if path.name in (".part", "rows.csv")]
    assert fetch("memory://rows.csv").read_bytes() == CSV


def test_a_full_disk_is_not_taken_for_a_failed_connection(memory, monkeypatch):
    def find_no_space(self, path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    memory.pipe("/rows.csv", CSV)
    monkeypatch.setattr(type(memory), "get_file", find_no_space)
    with pytest.raises(UserError, match=r"There is no space for memory://rows.csv on the disk with .*remote_files; HF"):
        fetch("memory://rows.csv")


def test_an_error_in_a_table_names_its_url(memory):
    memory.pipe("/rows.csv", b'text,label\n"a,b\n')
    with pytest.raises(UserError, match=r"memory://rows.csv") as error:
        load_source("memory://rows.csv", "train")
    assert "cache" not in str(error.value)


def upload_images(storage, shapes_folder: Path, place: str) -> bytes:
    """Put the test table and its pictures into a storage; returns the first picture."""
    storage.pipe(f"{place}/test.csv", (shapes_folder / "test.csv").read_bytes())
    for image in (shapes_folder / "images/test").iterdir():
        storage.pipe(f"{place}/images/test/{image.name}", image.read_bytes())
    return (shapes_folder / pd.read_csv(shapes_folder / "test.csv").image[0]).read_bytes()


def test_images_beside_a_table_with_a_url_are_fetched_once_and_again_when_they_change(
    memory, shapes_folder, monkeypatch
):
    first, fetched, get = upload_images(memory, shapes_folder, "/data"), [], type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda *args, **given: fetched.append(1) or get(*args, **given))
    for _ in range(2):
        rows = load_rows("memory://data/test.csv", "test", DataSettings())
        assert Path(rows.read_image(0)).read_bytes() == first
        assert len(fetched) == 1 + len(set(pd.read_csv(shapes_folder / "test.csv").image))
    name = pd.read_csv(shapes_folder / "test.csv").image[0]
    memory.pipe(f"/data/{name}", b"another picture")
    rows = load_rows("memory://data/test.csv", "test", DataSettings())
    assert Path(rows.read_image(0)).read_bytes() == b"another picture"
    rows = load_rows("memory://data/test.csv", "test", DataSettings(image_root=str(shapes_folder)))
    assert Path(rows.read_image(0)).read_bytes() == first, "a folder can be named in their place"
    memory.rm(f"/data/{name}")
    with pytest.raises(BadImageError, match=r"is not a file in the folder of memory://data/test.csv"):
        load_rows("memory://data/test.csv", "test", DataSettings()).read_image(0)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", ["/secret.png", "../secret.png", "a/../../secret.png", "..\\secret.png", "none.png"])
def test_only_files_in_the_folder_of_the_table_are_fetched(memory, name, is_stream):
    for place in ("/secret.png", *(f"/data/{up}/secret.png" for up in ("..", "a/../.."))):
        memory.store[place] = MemoryFile(memory, place, b"not for this table")
    memory.pipe("/data/rows.csv", f"image,text,label\n{name},a,red\n".encode())
    rows = load_rows("memory://data/rows.csv", "train", DataSettings(streaming=is_stream))
    with pytest.raises(BadImageError, match=r"is not a file in the folder of memory://data/rows.csv"):
        next(iter(rows)) if is_stream else rows.read_image(0)
    assert not [path for path in fetched_files().rglob("*") if path.name == "secret.png"]


def test_a_picture_is_fetched_from_a_server_of_the_web_whatever_its_name(tmp_path):
    (tmp_path / "a b#1?.png").write_bytes(b"picture")
    (tmp_path / "rows.csv").write_text("image,text,label\na b#1?.png,a,red\n")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/rows.csv"
        assert Path(load_rows(url, "test", DataSettings()).read_image(0)).read_bytes() == b"picture"
        server.shutdown()


def test_pictures_that_may_not_be_read_end_the_reading_of_a_table_with_one_message(memory, shapes_folder, monkeypatch):
    upload_images(memory, shapes_folder, "/data")
    info = type(memory).info

    def refuse(self, path, **given):
        if path.endswith(".png"):
            raise PermissionError("Forbidden")
        return info(self, path, **given)

    monkeypatch.setattr(type(memory), "info", refuse)
    with pytest.raises(UserError, match=r"No access to memory://data/images/test/.*png: Forbidden"):
        load_rows("memory://data/test.csv", "test", DataSettings())


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_stream_and_a_column_of_images_as_datasets_stores_them_are_fetched_anew_too(memory, tmp_path, is_stream):
    cell = {"bytes": None, "path": "a.png"}
    pd.DataFrame({"image": [cell], "text": "a", "label": "red"}).to_parquet(tmp_path / "rows.parquet")
    memory.pipe("/data/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    for content in (b"one", b"two"):
        memory.pipe("/data/a.png", content)
        rows = load_rows("memory://data/rows.parquet", "train", DataSettings(streaming=is_stream))
        stored = resolve_image(next(iter(rows.table))["image"], rows.image_root)
        assert Path(str(stored)).read_bytes() == content


def test_sounds_and_arrays_beside_a_table_are_fetched_and_numbers_and_names_are_not_looked_up(memory, monkeypatch):
    asked, info = [], type(memory).info
    monkeypatch.setattr(
        type(memory), "info", lambda self, path, **given: asked.append(path) or info(self, path, **given)
    )
    memory.pipe(
        "/data/rows.csv", b"image,text,label,sound,vector,age\na.png,a,red,a.wav,a.npy,12.5\n,b,blue,,old,x.png\n"
    )
    for name in ("a.png", "a.wav", "a.npy"):
        memory.pipe(f"/data/{name}", name.encode())
    kinds = {"sound": "audio", "vector": "features", "age": "features"}
    contexts = [NamedContext(kind, [column], name=column) for column, kind in kinds.items()]
    monkeypatch.setattr(DataSettings, "further_contexts", lambda self: contexts)
    root = load_rows("memory://data/rows.csv", "test", DataSettings()).image_root
    assert {path.name for path in root.iterdir()} >= {"a.png", "a.wav", "a.npy"}
    assert set(asked) == {f"/data/{name}" for name in ("rows.csv", "a.png", "a.wav", "a.npy")}


def test_a_connection_that_fails_is_not_taken_for_a_missing_file(memory):
    with pytest.raises(NoSuchFileError):
        fetch("memory://none.png")
    with pytest.raises(UserError, match="cannot be reached") as error:
        fetch("http://127.0.0.1:1/a.png")
    assert not isinstance(error.value, NoSuchFileError)


def test_the_pictures_of_a_table_to_exclude_are_fetched(memory, shapes_folder):
    upload_images(memory, shapes_folder, "/data")
    settings = DataSettings(exclude="memory://data/test.csv")
    rows = load_rows(str(shapes_folder / "test.csv"), "train", DataSettings())
    rows, _ = verify_images(rows, settings)
    with pytest.raises(UserError, match=r"No row is left .*: its images are all in memory://data/test.csv"):
        exclude_images({"train": rows}, settings.exclude, settings)


def test_a_windows_path_and_a_hub_id_are_no_urls():
    assert [is_url(name) for name in ("C:/a.csv", "c://a.csv", "owner/name:train", "shapes:9", "s3://b/a.csv")] == [
        *[False] * 4,
        True,
    ]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://none.csv", "There is no file memory://none.csv. If it is private, check the credentials"),
        ("memory://folder.csv", "memory://folder.csv is a folder; give the URL of a file in it"),
        ("memory://folder.csv/rows.txt", "is not the URL of a table; expected one that ends in .csv, .tsv"),
        ("s4://bucket/rows.csv", "has an unknown protocol, s4://; known are s3, gs, az, hf"),
        ("sftp://host/rows.csv", "needs a package that is not installed: .*paramiko"),
        ("file:///tmp/rows.csv", "is a path on this machine: give it without file://"),
        ("http://127.0.0.1:1/rows.csv", "http://127.0.0.1:1/rows.csv cannot be reached: .*Check the address"),
        ("sftp://me:secret@host/rows.csv", "has a password in it.*put credentials in the environment"),
        ("https://host/rows.csv?key=secret", "goes on after \\?, which may be a key"),
        ("s3://[bucket/rows.csv", "s3://\\[bucket/rows.csv is not a URL: Invalid IPv6 URL"),
    ],
)
def test_a_url_that_cannot_be_read_is_explained(memory, url, told):
    memory.pipe("/folder.csv/rows.csv", CSV)
    with pytest.raises(UserError, match=told) as error:
        load_source(url, "train")
    assert "secret" not in str(error.value)


def test_s3_without_file_credentials_permission_or_server_is_explained(s3, monkeypatch, tmp_path):
    def refuse(path):
        raise PermissionError("Forbidden")

    with pytest.raises(UserError, match=r"There is no file s3://bucket/none.csv"):
        fetch("s3://bucket/none.csv")
    with pytest.raises(UserError, match=r"There is no file s3://nowhere/none.csv"):
        fetch("s3://nowhere/none.csv")
    with monkeypatch.context() as patch:
        patch.setattr(s3, "info", refuse)
        with pytest.raises(
            UserError, match=r"No access to s3://bucket/a.csv: Forbidden. Put credentials .*AWS_PROFILE"
        ):
            fetch("s3://bucket/a.csv")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(
        UserError, match=r"No access to s3://bucket/a.csv: Unable to locate credentials. Put credentials"
    ):
        fetch("s3://bucket/a.csv")
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"s3://bucket/a.csv cannot be reached: EndpointConnectionError"):
        file_exists("s3://bucket/a.csv")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_run_is_trained_and_scored_on_tables_of_s3(s3, shapes_folder, tmp_path, blank_charts, monkeypatch):
    for name in ("train", "test"):
        s3.pipe(f"bucket/data/{name}.parquet", with_bytes(shapes_folder / f"{name}.csv").to_parquet())
    urls = ["--data.train", "s3://bucket/data/train.parquet", "--data.test", "s3://bucket/data/test.parquet"]
    run = tmp_path / "run"
    train.main(arguments(shapes_folder, run, *urls, "--train.epochs", "1"))
    assert "train: s3://bucket/data/train.parquet" in (run / "config.yaml").read_text()
    assert set(read_places(run)) & {"data.train", "data.test"} == set(), "a URL is no place on this machine"
    monkeypatch.chdir(tmp_path)
    assert evaluation.main([str(run), "--pictures", "0"])["rows"] == NUM_TEST
    output = "s3://bucket/answers.parquet"
    assert ask(run, "--data.test", "s3://bucket/data/test.parquet", "--output", output) == 0
    with s3.open("bucket/answers.parquet") as file:
        assert pd.read_parquet(file)["prediction"].notna().sum() == NUM_TEST
    assert not (tmp_path / "s3:").exists()


def test_a_table_of_s3_and_the_pictures_beside_it_are_answered(s3, run_dir, shapes_folder, tmp_path):
    upload_images(s3, shapes_folder, "bucket/data")
    assert ask(run_dir, "--data.test", "s3://bucket/data/test.csv", "--output", tmp_path / "remote.csv") == 0
    assert ask(run_dir, "--data.test", shapes_folder / "test.csv", "--output", tmp_path / "local.csv") == 0
    remote, local = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("remote", "local"))
    assert remote.prediction.notna().all()
    assert remote.prediction.tolist() == local.prediction.tolist()


def test_shards_of_s3_are_answered_into_a_folder_of_s3(s3, run_dir, shapes_folder, capsys):
    rows = with_bytes(shapes_folder / "test.csv").drop(columns="label")
    for number, part in enumerate(np.array_split(np.arange(12), 3)):
        s3.pipe(f"bucket/in/part-{number}.parquet", rows.iloc[part].to_parquet())
    options = [run_dir, "--rows", "s3://bucket/in/part-*.parquet", "--output", "s3://bucket/out/"]
    s3.pipe("bucket/out/part-1.parquet", b"mine")
    assert ask(*options) == 0
    assert "3 shards: 2 answered, 1 done before" in capsys.readouterr().out
    s3.invalidate_cache()
    assert s3.ls("bucket/out", detail=False) == [f"bucket/out/part-{number}.parquet" for number in range(3)]
    assert s3.cat("bucket/out/part-1.parquet") == b"mine"
    with s3.open("bucket/out/part-2.parquet") as file:
        assert pd.read_parquet(file)["prediction"].notna().sum() == 4
    assert ask(*options[:-1], "s3://bucket/in") == 2
    assert "--output s3://bucket/in is the folder of the shard s3://bucket/in/part-0.parquet" in capsys.readouterr().err


def test_local_shards_are_answered_into_memory_and_its_shards_into_a_folder(memory, run_dir, tmp_path):
    (tmp_path / "in").mkdir()
    pd.DataFrame({"text": ["what color is the circle?"]}).to_csv(tmp_path / "in/one.csv", index=False)
    assert ask(run_dir, "--rows", tmp_path / "in/*.csv", "--output", "memory://out") == 0
    assert memory.find("/out") == ["/out/one.csv"]
    assert ask(run_dir, "--rows", "memory://out/*.csv", "--output", tmp_path / "again") == 0
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["one.csv"]
    assert ask(run_dir, "--rows", "memory://out/none-*.csv", "--output", tmp_path / "again") == 2


def test_the_command_line_ends_with_one_message(tmp_path):
    env = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "app", "doctor", "--data.train", "gs://bucket/train.csv"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gs://bucket/train.csv needs a package that is not installed: Please install gcsfs" in done.stderr
    assert "Traceback" not in done.stderr
