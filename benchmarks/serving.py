"""The overhead of the server, and the effect of batching, ONNX and int8.

python -m benchmarks.serving RUN                     # all parts, as the Markdown tables of docs/serving.md
python -m benchmarks.serving RUN latency runtimes    # some of them

RUN is a trained run, such as that of the quick start: accuracy and memory are measured with it. Speed is measured with
an untrained VGG16 at 224 px.
"""

import argparse
import base64
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import torch
from accelerate.utils import set_seed
from PIL import Image

from app.evaluation.targets import Targets
from app.inference.load import load_model
from app.inference.onnx_export import export_onnx, quantize
from app.inference.predictor import Predictor
from app.settings_parser import load_settings
from benchmarks.photos import photo
from benchmarks.quartiles import with_quartiles
from benchmarks.timing import timed
from data import Example, Rows, decode_image, load_rows, verify_images
from models import ImageTextClassifier, ImageTextProcessor
from models.build import build_model
from models.settings import ModelSettings

SIZE = 224
PHOTO = (640, 480)
"""Width and height of the JPEG files that are sent."""
CLIENTS = 32
QUESTIONS = ("is there a red circle?", "what is on the left?", "how many are there?", "is it broken?")
TEST_ROWS = 2000


def main() -> None:
    parts = {part.__name__: part for part in (latency, throughput, sharing, runtimes, accuracy, memory)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a trained run folder")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help=f"{', '.join(parts)} (default: all)")
    parser.add_argument("--rounds", type=int, default=30, help="number of paired measurements (default: 30)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_vgg(model)
        for name in args.parts or parts:
            print(f"\n## {name}\n")
            for line in parts[name](args, model):
                print(line, flush=True)


def build_vgg(size: int = SIZE) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """An untrained classifier, which is as fast as a trained one, and its processor."""
    set_seed(0)
    names = [f"class {number}" for number in range(100)]
    settings = ModelSettings(image_size=size, text_encoder="scratch", image_weights="none")
    return build_model(settings, names, QUESTIONS * 10)


def write_vgg(folder: Path) -> None:
    """Save an untrained classifier."""
    for part in build_vgg():
        part.save_pretrained(folder)


def photos(number: int) -> list[bytes]:
    """Different JPEG files."""
    return [photo(one, PHOTO) for one in range(number)]


@contextmanager
def served(model: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Serve a model in a new process; yields the address and the process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app", "serve", str(model), "--page", "false", "--port", str(port), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while not is_ready(address):
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}: {' '.join(command)}")
            time.sleep(0.2)
        yield address, server.pid
    finally:
        server.terminate()
        server.wait()


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, address: str, image: bytes, *texts: str) -> dict:
    """The reply to one image with several texts."""
    reply = client.post(f"{address}/v1/predict", files={"image": image}, data={"text": list(texts)})
    return reply.raise_for_status().json()


def latency(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Time of a request, and of the model call in it with prepared inputs."""
    predictor, images = Predictor.from_pretrained(model), photos(args.rounds)
    pairs: list[tuple[float, float]] = []
    with served(model) as (address, _), httpx.Client(timeout=60) as client:
        ask(client, address, images[0], QUESTIONS[0])
        for image in images:
            ready = predictor.processor([decode_image(image)], [QUESTIONS[0]])
            ready["pixel_values"] = ready["pixel_values"].contiguous(memory_format=torch.channels_last)
            bare = timed(lambda ready=ready: forward(predictor, ready))
            pairs.append((bare, timed(lambda image=image: ask(client, address, image, QUESTIONS[0]))))
    ratios = [request / bare for bare, request in pairs]
    yield "| | median ms | p95 ms |\n| --- | --- | --- |"
    for name, times in zip(("model call", "request"), zip(*pairs, strict=True), strict=True):
        yield f"| {name} | {1000 * statistics.median(times):.0f} | {1000 * np.quantile(times, 0.95):.0f} |"
    yield f"\nrequest / model call, {len(ratios)} paired rounds: {with_quartiles(ratios)}"


@torch.inference_mode()
def forward(predictor: Predictor, batch: dict) -> None:
    """One pass of the model over prepared inputs."""
    with predictor.autocast():
        predictor.model(**batch)


def throughput(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Requests per second by runtime: one after another, and from many clients at once."""
    images = photos(CLIENTS)
    folders = {"torch": model, "onnxruntime, int8": model.with_name("int8")}
    export_onnx(*load_model(model), folders["onnxruntime, int8"])
    quantize(folders["onnxruntime, int8"], load_model(model)[1], calibration(images))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=120, limits=httpx.Limits(max_connections=64)))
        clients = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        addresses = {name: stack.enter_context(served(folder))[0] for name, folder in folders.items()}
        for number in range(-1, max(3, args.rounds // 6)):
            for name, address in addresses.items():

                def one(image: bytes, address: str = address) -> dict:
                    return ask(client, address, image, QUESTIONS[0])

                alone = timed(lambda one=one: [one(image) for image in images])
                together = timed(lambda one=one: list(clients.map(one, images)))
                if number >= 0:  # the first round warms up
                    times[name].append((alone, together))
    yield f"| runtime | one client, requests/s | {CLIENTS} clients | / one client | / one client of torch |"
    yield "| --- | --- | --- | --- | --- |"
    for name, rounds in times.items():
        rates = [f"{len(images) / statistics.median(column):.1f}" for column in zip(*rounds, strict=True)]
        own = [alone / together for alone, together in rounds]
        over = [first[0] / mine[1] for first, mine in zip(times["torch"], rounds, strict=True)]
        yield f"| {name} | {' | '.join(rates)} | {with_quartiles(own)} | {with_quartiles(over)} |"


def calibration(images: Sequence[bytes]) -> list[Example]:
    """Rows on which int8 is calibrated: each question about each of eight images."""
    return [Example(0, decode_image(image), text) for image in images[:8] for text in QUESTIONS]


def sharing(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Time of eight questions about one image, and of one question about each of eight images."""
    images, texts = photos(8), [f"{text} {number}" for number, text in enumerate(QUESTIONS * 2)]
    inputs = [{"image": base64.b64encode(i).decode(), "text": t} for i, t in zip(images, texts, strict=True)]
    ratios = []
    with served(model) as (address, _), httpx.Client(timeout=60) as client:
        for _ in range(args.rounds // 2):
            several = timed(lambda: client.post(f"{address}/v1/predict", json={"inputs": inputs}).raise_for_status())
            shared = timed(lambda: ask(client, address, images[0], *texts))
            ratios.append(several / shared)
    yield f"eight images / one image, eight questions: {with_quartiles(ratios)} times as long"


def runtimes(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Time of the model call by runtime, for one image and for eight."""
    predictors = by_runtime(model, calibration(photos(8)))
    yield "| runtime | one image, ms | times bf16 (quartiles) | eight images, ms | times bf16 (quartiles) |"
    yield "| --- | --- | --- | --- | --- |"
    found: dict[str, list[list[float]]] = {name: [] for name in predictors}
    for number in (1, 8):
        examples = [
            Example(i, decode_image(p), QUESTIONS[i % 4], image_key=str(i)) for i, p in enumerate(photos(number))
        ]
        times: dict[str, list[float]] = {name: [] for name in predictors}
        for _ in range(args.rounds):
            for name, predictor in predictors.items():
                times[name].append(timed(partial(predictor.probabilities, examples)))
        for name, measured in times.items():
            found[name].append(measured)
    for name, columns in found.items():
        cells = [
            f"{1000 * statistics.median(own):.0f} | "
            + with_quartiles([mine / other for mine, other in zip(own, bf16, strict=True)])
            for own, bf16 in zip(columns, found["torch, bf16"], strict=True)
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def by_runtime(model: Path, examples: list[Example]) -> dict[str, Predictor]:
    """The same model in four runtimes; int8 is calibrated on examples."""
    classifier, processor = load_model(model)
    predictors = {
        "torch, bf16": Predictor.from_pretrained(model, precision="bf16"),
        "torch, float32": Predictor.from_pretrained(model, precision="no"),
    }
    for name in ("onnxruntime, float32", "onnxruntime, int8"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            export_onnx(classifier, processor, folder)
            if name.endswith("int8"):
                quantize(folder, processor, examples)
            predictors[name] = Predictor.from_pretrained(folder)
    return predictors


def accuracy(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Accuracy of a trained run on held-out rows by runtime; int8 is calibrated on training rows."""
    data = load_settings(args.run / "config.yaml").data
    assert data.train is not None
    assert data.test is not None
    rows, _ = verify_images(load_rows(data.test, "test", data), data)
    train, _ = verify_images(load_rows(data.train, "train", data), data)
    predictors = by_runtime(args.run, take(train, 256))
    examples = take(rows, TEST_ROWS)
    config = next(iter(predictors.values())).model.config
    labels = Targets.of(
        [example.label for example in examples], config.label2id, predictors["torch, bf16"].label_format
    )
    yield "| runtime | accuracy | answers that differ from bf16 |\n| --- | --- | --- |"
    reference: np.ndarray | None = None
    for name, predictor in predictors.items():
        blocks = [examples[start : start + 64] for start in range(0, len(examples), 64)]
        found = np.concatenate([predictor.probabilities(block) for block in blocks])
        reference = found if reference is None else reference
        differ = int((found.argmax(axis=1) != reference.argmax(axis=1)).sum())
        yield f"| {name} | {labels.correctness(found).mean():.2%} | {differ} of {len(examples):,} |"


def take(rows: Rows, number: int) -> list[Example]:
    """Evenly spaced rows with decoded images."""
    places = np.linspace(0, len(rows) - 1, number).astype(int)
    found = []
    for place in places:
        example = rows[int(place)]
        assert example.image is not None
        found.append(Example(example.row, decode_image(example.image), example.text, example.label, str(example.row)))
    return found


def memory(args: argparse.Namespace, model: Path) -> Iterator[str]:
    """Memory of the server of a trained run during 10,000 requests from 8 clients."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "PNG")
    image = file.getvalue()
    yield "| requests | memory, MiB |\n| --- | --- |"
    steps = (0, 100, 1000, 2000, 4000, 6000, 8000, 10_000)
    server, clients = served(args.run), ThreadPoolExecutor(8)
    with server as (address, process), clients, httpx.Client(timeout=60) as client:
        for before, done in pairwise(steps):
            list(clients.map(lambda i: ask(client, address, image, f"question {i}?"), range(before, done)))
            yield f"| {done:,} | {resident(process)} |"


def resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


if __name__ == "__main__":
    main()
