"""Settings of the server; importing them is fast, for the options of the command."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts connections from the network."""
    port: int = 7860
    """Port to listen on; 0 chooses a free one."""
    page: bool = True
    """Serve the page in addition to the API."""
    batch_size: int = 32
    """Maximum number of pairs in a batch."""
    linger: float = 2.0
    """Time an incomplete batch waits for more pairs, in milliseconds."""
    max_waiting: int = 256
    """Maximum number of waiting pairs; further requests get 429."""
    timeout: float = 30.0
    """Maximum time for an answer (504) and for receiving a body (408), in seconds."""
    max_bytes: int = 20_000_000
    """Maximum size of a request, in bytes; larger ones get 413."""
    max_pixels: int = 50_000_000
    """Maximum size of an image, in pixels; larger ones are refused before they are decoded."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """no (float32), bf16, fp16 or auto (bf16 if the processor supports it natively)."""
    embed_in: str = ""
    """Origin whose pages may embed this one in a frame, for example https://huggingface.co."""
    root_path: str = ""
    """Path (/clf) or address (https://example.org/clf) under which a reverse proxy publishes the server."""
