"""The tab with the code that asks the question of the first tab."""

from __future__ import annotations

import shlex
from pathlib import Path

import gradio as gr
from gradio.route_utils import get_api_call_path, get_root_url


def code_tab(image: gr.Image, text: gr.Textbox, tab: gr.Tab, run: Path, has_key: bool, root_path: str) -> None:
    """Build the tab. Its code is filled in when the tab is selected, with the address that the browser uses."""
    gr.Markdown("Code for the question on the first tab. `/openapi.json` describes all routes.")
    shell = gr.Code(language="shell", label="curl", interactive=False)
    remote = gr.Code(language="python", label="Python, over the network", interactive=False)
    local = gr.Code(language="python", label="Python, without a server", interactive=False)

    def write(path: str | None, words: str | None, request: gr.Request) -> tuple[str, str, str]:
        assert request.request is not None
        address = get_root_url(request.request, get_api_call_path(request.request), root_path)
        return code_examples(path, words or "", address, run, has_key)

    tab.select(write, [image, text], [shell, remote, local], api_visibility="private")


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
