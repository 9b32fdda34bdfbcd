"""The tab with the code that asks the question of the first tab."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.route_utils import get_api_call_path, get_root_url

from app.serving.ui.context_inputs import ContextInputs
from data.errors import UserError


def code_tab(
    inputs: list[Component], contexts: ContextInputs, tab: gr.Tab, run: Path, has_key: bool, root_path: str
) -> None:
    """Build the tab. Its code is filled in when the tab is selected, with the address that the browser uses.

    Args:
        inputs: those of the first tab: the picture, the text, and those of further contexts.
    """
    gr.Markdown("Code for the question on the first tab. `/openapi.json` describes all routes.")
    shell = gr.Code(language="shell", label="curl", interactive=False)
    remote = gr.Code(language="python", label="Python, over the network", interactive=False)
    local = gr.Code(language="python", label="Python, without a server", interactive=False)

    def write(request: gr.Request, path: str | None, words: str | None, *further: Any) -> tuple[str, str, str]:
        assert request.request is not None
        address = get_root_url(request.request, get_api_call_path(request.request), root_path)
        if not further:
            return code_examples(path, words or "", address, run, has_key)
        try:
            given = contexts.given(further)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        files = {name for name, kind in contexts.kinds.items() if kind in ("image", "audio") and given[name]}
        given |= {name: Path(given[name]).name for name in files}
        return code_with_contexts(Path(path).name if path else None, words or None, given, files, address, run, has_key)

    tab.select(write, inputs, [shell, remote, local], api_visibility="private")


def code_examples(path: str | None, text: str, address: str, run: Path, has_key: bool) -> tuple[str, str, str]:
    """Code for curl, requests and `Predictor`. The key is read from an environment variable."""
    name = Path(path).name if path else None
    quoted = '"' + (name or "").replace("\\", "\\\\").replace('"', '\\"') + '"'
    form = (f" -F {shlex.quote(f'image=@{quoted}')}" if name else "") + (
        f" --form-string {shlex.quote(f'text={text}')}" if text else ""
    )
    key = ' -H "Authorization: Bearer $API_KEY"' if has_key else ""
    shell = f"curl{key}{form or ' -F text=TEXT'} {address}/v1/predict"
    image = f'"image": open({name!r}, "rb")' if name else f'"text": (None, {text!r})'
    headers = 'headers={"Authorization": "Bearer " + os.environ["API_KEY"]}, ' if has_key else ""
    data = f', data={{"text": {text!r}}}' if name and text else ""
    remote = (
        ("import os\n\n" if has_key else "") + "import requests\n\n"
        f'reply = requests.post("{address}/v1/predict", {headers}files={{{image}}}{data})\n'
        'print(reply.json()["predictions"][0])'
    )
    local = (
        "from app import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({str(run)!r})\n"
        f"print(predictor({name!r}, {text or None!r}))"
    )
    return shell, remote, local


def escape(text: str) -> str:
    """A text that a shell reads as it is in a here-document."""
    return re.sub(r"[\\$`]", lambda found: f"\\{found[0]}", text)


def code_with_contexts(
    image: str | None,
    text: str | None,
    contexts: dict[str, Any],
    files: Collection[str],
    address: str,
    run: Path,
    has_key: bool,
) -> tuple[str, str, str]:
    """Code for curl, requests and `Predictor` that asks with further contexts.

    Args:
        image: name of a file.
        contexts: values by name; of pictures and sounds, the names of their files.
        files: the contexts that are pictures or sounds.
    """
    pair = {name: value for name, value in (("image", image), ("text", text)) if value}
    body = json.dumps({"inputs": [pair | {"contexts": contexts}]}, ensure_ascii=False)
    body = escape(body)
    python = repr(pair | {"contexts": contexts})
    for file in filter(None, [image, *(contexts[name] for name in files)]):
        quoted = escape(json.dumps(file, ensure_ascii=False))
        body = body.replace(f": {quoted}", f': "$(base64 -w0 {shlex.quote(file)})"')
        python = python.replace(f": {file!r}", f": read({file!r})")
    key = ' -H "Authorization: Bearer $API_KEY"' if has_key else ""
    shell = f'curl{key} -H "Content-Type: application/json" -d @- {address}/v1/predict <<END\n{body}\nEND'
    headers = ', headers={"Authorization": "Bearer " + os.environ["API_KEY"]}' if has_key else ""
    remote = (
        "import base64\n" + ("import os\n" if has_key else "") + "from pathlib import Path\n\nimport requests\n\n"
        "read = lambda file: base64.b64encode(Path(file).read_bytes()).decode()\n"
        f"inputs = [{python}]\n"
        f'reply = requests.post("{address}/v1/predict", json={{"inputs": inputs}}{headers})\n'
        'print(reply.json()["predictions"][0])'
    )
    local = (
        "from app import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({str(run)!r})\n"
        f"print(predictor({image!r}, {text!r}, contexts={contexts!r}))"
    )
    return shell, remote, local
