"""Folder of uploaded files and of answers to tables."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from gradio.utils import get_upload_folder

MAX_AGE = 600
"""Age in seconds after which uploads and answers to tables may be deleted."""
ANSWERS = "answers-"
"""Prefix of folders with answers."""


def make_upload_folder() -> str:
    """Make the folder that gradio stores uploads in and serves files from.

    `app.serving.server.serve` sets it to a temporary folder, which is deleted with the process.
    """
    folder = get_upload_folder()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def delete_old_answers() -> None:
    """Delete old answers to tables. gradio deletes only files that it wrote itself."""
    for folder in Path(make_upload_folder()).glob(f"{ANSWERS}*"):
        if time.time() - folder.stat().st_mtime > MAX_AGE:
            shutil.rmtree(folder, ignore_errors=True)
