"""Pretrained weights are the default; without them a run stops before it reads data and says what to do."""

import re

import pytest
from tiny import TINY, arguments, save_encoder
from torchvision.models import VGG16_BN_Weights, VGG16_Weights

import train
from app.training.progress import ESTIMATED_STEPS, SlowTrainingNote
from data.errors import UserError
from models.build import fetch_pretrained
from models.hub_errors import fetch_weights
from models.settings import ModelSettings


@pytest.fixture
def offline(monkeypatch):
    """No download of torchvision's weights; the Hub is offline in all tests."""

    def fail(self, **options):
        raise OSError("no connection")

    for weights in (VGG16_Weights, VGG16_BN_Weights):
        monkeypatch.setattr(weights, "get_state_dict", fail)


def test_without_a_network_training_stops_before_it_reads_data_and_names_the_ways_out(offline, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--data.train", "nothing.csv", "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "nothing.csv" not in told
    assert "hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir FOLDER" in told
    assert re.search(r"download https://download.pytorch.org/models/vgg16_bn-\w+.pth .* into .*checkpoints", told)
    assert "--recipe scratch" in told
    assert not (tmp_path / "run").exists()


def test_only_what_is_missing_is_named(offline, pretrained):
    with pytest.raises(ValueError, match="vgg16-") as error:
        fetch_pretrained(ModelSettings(text_encoder=pretrained, batch_norm=False))
    assert "hf download" not in str(error.value)


@pytest.mark.parametrize("encoder", ["resnet", "vgg16"])
def test_random_weights_need_no_download(offline, encoder):
    fetch_pretrained(ModelSettings(text_encoder="scratch", image_encoder=encoder, image_weights="none"))


def test_an_image_encoder_of_transformers_ignores_the_default_weights_of_vgg16(offline):
    fetch_pretrained(ModelSettings(text_encoder="scratch", image_encoder="resnet"))


def test_the_scratch_recipe_reaches_the_data_without_a_network(offline, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main([*TINY, "--recipe", "scratch", "--data.train", "nothing.csv", "--run_dir", str(tmp_path / "run")])
    assert "There is no file or folder 'nothing.csv'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "applies", "told"), [(10.0, True, True), (10.0, False, False), (0.001, True, False)]
)
def test_a_training_that_takes_hours_on_a_cpu_names_the_faster_recipe_once(monkeypatch, seconds, applies, told):
    now = iter(seconds * step for step in range(10))
    monkeypatch.setattr("app.training.progress.time.monotonic", lambda: next(now))
    note = SlowTrainingNote(1000, applies)
    found = [text for _ in range(ESTIMATED_STEPS + 3) if (text := note.step())]
    assert len(found) == told
    assert all("--recipe probe" in text for text in found)


def test_the_weights_of_all_encoders_are_fetched_with_the_rest(monkeypatch, tmp_path, pretrained):
    save_encoder(tmp_path)
    fetched = []
    for module in ("models.text_encoder", "models.backbone"):
        monkeypatch.setattr(f"{module}.fetch_weights", lambda name, *rest: fetched.append(name))
    fetch_pretrained(ModelSettings(text_encoder=pretrained, image_encoder=str(tmp_path)))
    assert fetched == [pretrained, str(tmp_path)]


def test_weights_that_cannot_be_downloaded_are_explained_and_a_folder_needs_no_download(tmp_path):
    fetch_weights(str(tmp_path), None, "the text encoder", "")
    with pytest.raises(UserError, match=r"Could not load the text encoder 'someone/encoder'.*hf download"):
        fetch_weights("someone/encoder", None, "the text encoder", "")


@pytest.mark.usefixtures("blank_charts")
@pytest.mark.parametrize(("scale", "shown"), [("1", True), ("0", False)])
def test_only_a_training_of_the_image_encoder_is_estimated(shapes_folder, tmp_path, monkeypatch, capsys, scale, shown):
    monkeypatch.setattr("app.training.progress.SLOW_HOURS", 0.0)
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    options = ["--train.scales.image_encoder", scale, "--train.batch_size", "4"]
    train.main(arguments(shapes_folder, tmp_path / "run", *options))
    assert ("--recipe probe" in capsys.readouterr().out) == shown
