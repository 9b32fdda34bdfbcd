"""Folder of uploaded files and of answers to tables."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from gradio.utils import get_upload_folder

MAX_AGE = 600
"""Age in seconds after which uploads and answers to tables are deleted."""


def make_upload_folder() -> str:
    """Make the folder that gradio stores uploads in and serves files from.

    `app.serving.server.serve` sets it to a temporary folder, which is deleted with the process.
    """
    folder = get_upload_folder()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def make_answers_folder() -> Path:
    """Make a folder for the answers to a table. It is deleted after `MAX_AGE` seconds, or with the upload folder."""
    folder = Path(tempfile.mkdtemp(prefix="answers-", dir=make_upload_folder()))
    deletion = threading.Timer(MAX_AGE, shutil.rmtree, (folder,), {"ignore_errors": True})
    deletion.daemon = True
    deletion.start()
    return folder
