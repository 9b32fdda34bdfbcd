"""Shared fixtures; all are small, offline and made by code."""

import copy
import gc
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="gradio-")  # servers of other workers delete their own uploads
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers share the cores

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from api_client import BASE, PAGE_SETTINGS, SETTINGS
from interrupted import RANDOM
from live import live
from PIL import Image
from starlette.testclient import TestClient
from tiny import RUN_DIR, arguments, blank_charts
from transformers import BertModel

import train
from app import Predictor
from app.serving.server import build_app, load_predictor
from data.shapes import write_shapes
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.processor import build_processor
from models.text_encoder import scratch_text_config, train_tokenizer

TEXTS = ["what color is the circle?", "is there a red square?", "how many shapes are there?"]
IMAGE_SIZE = 32


SLOW_MODULES = {"test_ablate", "test_compare", "test_course", "test_doctor", "test_feature_cache", "test_learning"}
SLOW_MODULES |= {"test_lora", "test_odd_images", "test_onnx", "test_page", "test_places", "test_provenance"}
SLOW_MODULES |= {"test_checkpoints", "test_out_of_memory", "test_start_from", "test_training_signals"}
SLOW_MODULES |= {"test_proxy", "test_resume", "test_sharding", "test_sound_cache", "test_stopping"}
SLOW_MODULES |= {"test_train", "test_values"}
"""Modules in which most tests train a model or start a process."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests as slow that train a model, directly or through a fixture, or start a process."""
    for item in items:
        calls_training = {"train", "main"} <= set(item.function.__code__.co_names)
        if item.module.__name__ in SLOW_MODULES or "run_dir" in item.fixturenames or calls_training:
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure():
    """Delete the upload folder of this process."""
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


def pytest_collection_finish():
    """Exclude the objects made by imports, about a million, from later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_accelerator_state():
    """Accelerate keeps device and precision for the whole process; reset it before and after each test."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(name="blank_charts")
def _blank_charts():
    """For tests that train or evaluate and do not look at the charts."""
    with blank_charts():
        yield


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def config(tokenizer) -> ImageTextConfig:
    return ImageTextConfig(
        text_config=scratch_text_config(tokenizer, 64, 1),
        id2label={0: "red", 1: "yes", 2: "two"},
        label2id={"red": 0, "yes": 1, "two": 2},
        image_size=IMAGE_SIZE,
        classifier="pooled",
        classifier_hidden_size=32,
    )


@pytest.fixture(scope="session")
def untrained(config) -> ImageTextClassifier:
    torch.manual_seed(0)
    model = ImageTextClassifier(config).eval()
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)
    return model


@pytest.fixture
def model(untrained) -> ImageTextClassifier:
    """An untrained classifier whose text matters: the cross-attention's output is not zero."""
    return copy.deepcopy(untrained)  # building VGG16 takes longer


@pytest.fixture(scope="session")
def processor(tokenizer) -> ImageTextProcessor:
    return build_processor(tokenizer, IMAGE_SIZE, 16)


@pytest.fixture
def batch(processor):
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    return dict(processor(images, ["what color is the circle?", "how many shapes are there?"]))


@pytest.fixture
def asked(model, processor) -> Predictor:
    """A predictor in this process, whose tables have the columns file, question and answer."""
    model.config.columns = {"image": "file", "text": "question", "label": "answer"}
    return Predictor(model, processor, "cpu", precision="no")


@pytest.fixture
def pretrained(tokenizer, tmp_path) -> str:
    """A folder with an encoder as transformers saves it, and its tokenizer."""
    folder = tmp_path / "bert"
    BertModel(scratch_text_config(tokenizer, 32, 1), add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory) -> Path:
    """The built-in data as a user's own: train.csv, test.csv and pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, 24, "train")
    write_shapes(folder, 8, "test")
    return folder


@pytest.fixture(scope="session")
def run_dir(shapes_folder, tmp_path_factory) -> Path:
    """A run of train.py that tests read and leave as it is."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    AcceleratorState._reset_state(reset_partial_state=True)  # other fixtures may have left theirs
    train.main(arguments(shapes_folder, run_dir, *RUN_DIR))
    return run_dir


@pytest.fixture(scope="session")
def predictor(run_dir):
    """The model of `run_dir`, as the server loads it."""
    return load_predictor(str(run_dir), SETTINGS)


@pytest.fixture
def build_api(predictor, run_dir):
    """Build an application of the API, and its engine, around the one loaded model."""
    return lambda settings=SETTINGS, api_key=None: build_app(predictor, run_dir, settings, api_key)


@pytest.fixture(scope="module")
def client(predictor, run_dir):
    """A client of the API, for the tests of a module that do not change the application."""
    app, _ = build_app(predictor, run_dir, SETTINGS)
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def served(predictor, run_dir):
    """The address of a server with the page, for the tests of a module, and its engine."""
    app, engine = build_app(predictor, run_dir, PAGE_SETTINGS)
    with live(app) as address:
        yield address, engine


@pytest.fixture(scope="module")
def address(served) -> str:
    """The address of `served`."""
    return served[0]


@pytest.fixture(scope="session")
def whole(shapes_folder, tmp_path_factory) -> Path:
    """A run with everything random that nothing interrupts: 2 epochs of 3 steps."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    with blank_charts():
        train.main(arguments(shapes_folder, run_dir, *RANDOM))
    return run_dir
