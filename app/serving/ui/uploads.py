"""Where uploads and answers lie while the page needs them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from gradio.utils import get_upload_folder

KEPT = 600
"""Seconds after which what was uploaded, and the answers to whole tables, may be deleted."""
ANSWERS = "answers-"


def make_upload_folder() -> str:
    """Where gradio puts uploads and serves files from; `app.serving.server.serve` names one that goes with it."""
    folder = get_upload_folder()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def forget_old_answers() -> None:
    """Delete what was answered to whole tables some time ago; gradio deletes its own files only."""
    for folder in Path(make_upload_folder()).glob(f"{ANSWERS}*"):
        if time.time() - folder.stat().st_mtime > KEPT:
            shutil.rmtree(folder, ignore_errors=True)
