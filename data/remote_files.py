"""Files with a URL, such as s3://bucket/train.parquet, read and written through fsspec.

Credentials come from the environment alone, in the variables that the package of each storage reads.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit
from uuid import uuid4

from filelock import FileLock
from fsspec import AbstractFileSystem, get_filesystem_class

from data.errors import UserError
from data.messages import excerpt

URL = re.compile(r"([a-z][a-z0-9+.-]+)://.+", re.DOTALL)
"""A URL and its protocol. A Windows drive has a single letter."""
CONTENT = ("ETag", "etag", "blob_id", "Content-MD5", "Digest", "md5Hash", "content_md5", "generation")
TIME = ("LastModified", "Last-Modified", "last_modified", "mtime", "created")
"""What storages say about the content of a file. One of these is enough to know that it has changed."""
ORIGIN = "url.txt"
"""File beside a fetched one with its URL."""
LOCK = ".lock"
"""File beside it that one process at a time holds."""
AWS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
CREDENTIALS = {"s3": AWS, "s3a": AWS, "hf": "HF_TOKEN", "az": "AZURE_STORAGE_CONNECTION_STRING"}
CREDENTIALS |= dict.fromkeys(("gs", "gcs"), "GOOGLE_APPLICATION_CREDENTIALS")
"""Protocol → environment variables with its credentials."""


class NoSuchFileError(UserError):
    """There is no file with a URL, or it is a folder."""


def is_url(name: str) -> bool:
    """Whether a name is the URL of a file on some storage, of a known protocol or not."""
    return URL.fullmatch(name) is not None


def fetch(url: str) -> Path:
    """Copy a file into the cache of `datasets`, unless its present version is there.

    Returns:
        the copy, which has the name of the file and a folder of its own.

    Raises:
        NoSuchFileError: the file is not there.
        UserError: it cannot be read; says what to do.
    """
    with open_storage(url) as (storage, path):
        info = storage.info(path)
        if info["type"] != "file":
            raise NoSuchFileError(f"{url} is a folder; give the URL of a file in it.")
        version = [f"{name} {info[name]}" for name in (*CONTENT, *TIME, "size") if info.get(name) is not None]
        copy = cache_folder(url, *version) / PurePosixPath(path).name
        is_known = any(not name.startswith("size ") for name in version)
        with FileLock(copy.with_name(LOCK)):
            if not (is_known and copy.exists()):
                part = copy.with_name(".part")
                try:
                    storage.get_file(path, str(part))
                    copy.with_name(ORIGIN).write_text(url, encoding="utf-8")
                    os.replace(part, copy)
                finally:
                    part.unlink(missing_ok=True)
    return copy


def fetch_beside(folder: Path, name: str) -> None:
    """Copy the present version of a file beside a table with a URL to its place beside the copy of the table.

    If there is none any more, that of an earlier time is deleted.

    Args:
        folder: that of a table which `fetch` has copied; for any other nothing is done.
        name: path relative to the table. One that leads out of its folder is not followed.

    Raises:
        UserError: the file cannot be read; says what to do.
    """
    url, path = origin(folder), PurePosixPath(name.replace("\\", "/"))
    if url is None or path.is_absolute() or ".." in path.parts or not path.parts:
        return
    if str(path) in (ORIGIN, LOCK, PurePosixPath(urlsplit(url).path).name):  # files of the copy itself
        return
    spelled = quote(str(path)) if urlsplit(url).scheme in ("http", "https") else str(path)
    target = folder / path
    try:
        copy = fetch(f"{url.rpartition('/')[0]}/{spelled}")
    except NoSuchFileError:
        if target.is_file():
            target.unlink()
        return
    if not (target.exists() and target.samefile(copy)):
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f".{uuid4().hex}")
        os.link(copy, link)
        os.replace(link, target)


def upload(file: Path, url: str) -> None:
    """Copy a local file to a URL.

    Raises:
        UserError: it cannot be written; says what to do.
    """
    with open_storage(url) as (storage, path):
        storage.put_file(str(file), path)


def file_exists(url: str) -> bool:
    """Whether there is a file with a URL now.

    Raises:
        UserError: the storage cannot be asked; says what to do.
    """
    with open_storage(url) as (storage, path):
        try:
            storage.info(path)
        except FileNotFoundError:
            return False
        return True


def list_files(pattern: str) -> list[str]:
    """The URLs of the files that match a pattern of fsspec (``*``, ``?``, ``[…]``, ``**``), in order.

    Raises:
        UserError: the storage cannot be asked; says what to do.
    """
    with open_storage(pattern) as (storage, path):
        found = storage.glob(path, detail=True)
        return sorted(storage.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file")


def normal_url(url: str) -> str:
    """The one spelling of a URL, without a slash at its end, as `list_files` gives it.

    Raises:
        UserError: a URL that cannot be used; says what to do.
    """
    with open_storage(url) as (storage, path):
        return storage.unstrip_protocol(path).rstrip("/")


def fetched_files() -> Path:
    """The folder in the cache of `datasets` with a folder for each fetched file."""
    from datasets import config  # slow to import, and most files are local

    return Path(config.HF_DATASETS_CACHE) / "remote_files"


def cache_folder(*key: str) -> Path:
    """The folder in the cache of `datasets` for what has this key; it is created."""
    folder = fetched_files() / hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def origin(folder: Path) -> str | None:
    """The URL of the file that `fetch` has put into a folder; ``None`` for any other folder."""
    file = folder / ORIGIN
    in_cache = folder.parent == fetched_files().absolute()
    return file.read_text(encoding="utf-8") if in_cache and file.is_file() else None


@contextmanager
def open_storage(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """The storage of a URL and the path in it; errors of the block are explained.

    Raises:
        UserError: in place of any other exception, because each storage has a package with its own.
    """
    refuse_secrets(url)
    protocol = urlsplit(url).scheme
    try:
        kind = get_filesystem_class(protocol)
        storage = kind(**kind._get_kwargs_from_urls(url))  # not url_to_fs: "::" in a name would chain storages
        storage.invalidate_cache()  # other processes write there
        yield storage, kind._strip_protocol(url)
    except UserError:
        raise
    except Exception as error:
        is_missing = isinstance(error, FileNotFoundError) and not lost_connection(protocol, error)
        raise (NoSuchFileError if is_missing else UserError)(explain(url, protocol, error)) from error


def lost_connection(protocol: str, error: Exception) -> OSError | None:
    """The cause of an error that fsspec takes for a file that is not there, although the connection failed."""
    lost = error.__cause__ if protocol in ("http", "https") else None
    return lost if isinstance(lost, OSError) and not isinstance(lost, FileNotFoundError) else None


def refuse_secrets(url: str) -> None:
    """Refuse URLs that cannot be read, are a local path or may hold a secret: settings of a run and reports show them.

    Raises:
        UserError: such a URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{excerpt(url, 100)} is not a URL: {error}.") from error
    shown = f"{parts.scheme}://…{parts.path}"
    if parts.scheme in ("file", "local"):
        raise UserError(f"{url} is a path on this machine: give it without {parts.scheme}://.")
    if parts.password is not None:
        raise UserError(f"{shown} has a password in it, and a run would show it: put credentials in the environment.")
    if parts.scheme in ("http", "https") and parts.query:
        raise UserError(f"{shown} goes on after ?, which may be a key, and a run would show it: download the file.")


def explain(url: str, protocol: str, error: Exception) -> str:
    """Why a storage does not do what it was asked for, and what helps."""
    cause = excerpt(" ".join(str(error).split()), 300) or type(error).__name__
    variables = CREDENTIALS.get(protocol, "the variables of its package")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"There is no space for {url} on the disk with {fetched_files()}; HF_DATASETS_CACHE names another folder."
        )
    if isinstance(error, ImportError):
        return f"{url} needs a package that is not installed: {cause}."
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return (
            f"{url} has an unknown protocol, {protocol}://; known are s3, gs, az, hf, https, sftp and others of fsspec."
        )
    if lost := lost_connection(protocol, error):
        cause = excerpt(str(lost), 300)
    elif isinstance(error, FileNotFoundError):
        return f"There is no file {url}. If it is private, check the credentials in the environment ({variables})."
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"No access to {url}: {cause}. Put credentials in the environment ({variables})."
    return f"{url} cannot be reached: {type(error).__name__}: {cause}. Check the address and the network, and repeat."
