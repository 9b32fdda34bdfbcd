"""Sounds as a context: decoding, encoders, and a run on pictures with tones."""

import io
import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import requests
import soundfile
import torch
from api_client import base64_of
from gradio_client import Client, handle_file
from live import live
from PIL import Image
from tiny import TINY, blank_charts, shared_encoder
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)
from videos import make_video

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.serving.server import ServeSettings, build_app, load_predictor
from data.audio import check_sound, collate_sounds, decode_sound, resolve_sound, sound_seconds
from data.errors import UserError
from data.images import decode_image
from data.shape_contexts import TONES, make_tones
from data.shapes import CELL, COLORS, PLACES
from models.audio import AudioTokens, audio_encoder
from models.settings import ModelSettings


def tone(seconds: float = 0.5, rate: int = 8000, channels: int = 1, pitch: float = 440) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def encode(samples: np.ndarray, rate: int = 8000, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def pitch_of(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (16000, 1)])
def test_sounds_of_any_format_and_rate_become_mono_samples_of_one_rate(format, rate, channels):
    data = encode(tone(1, rate, channels), rate, format)
    found = decode_sound(data, 16000)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(16000, rel=0.1)  # MP3 pads
    assert pitch_of(found, 16000) == pytest.approx(440, abs=3)
    assert 0.3 < np.abs(found).max() < 0.7
    assert sound_seconds(data) == pytest.approx(1, rel=0.1)
    assert len(decode_sound(data, 16000, seconds=0.25)) == pytest.approx(4000, abs=5)


def test_a_cell_may_be_a_file_bytes_samples_or_what_datasets_stores(tmp_path):
    data, samples = encode(tone()), tone()[:, 0]
    (tmp_path / "a.wav").write_bytes(data)
    whole = decode_sound(data, 8000)
    stored = {"bytes": data, "path": None}, {"bytes": None, "path": "a.wav"}, {"array": samples, "sampling_rate": 8000}
    for cell in ("a.wav", data, bytearray(data), (samples, 8000), ((samples * 32767).astype(np.int16), 8000), *stored):
        found = resolve_sound(cell, tmp_path, False)
        np.testing.assert_allclose(decode_sound(found, 8000), whole, atol=1e-3)
    for cell in (None, "", float("nan"), b""):
        assert resolve_sound(cell, tmp_path, False) is None


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (3, "a sound is the path or the bytes"),
        ((np.zeros(4), 0), "whole number of Hz"),
        ((np.zeros(0, np.float32), 8000), "zero length"),
        ((np.array([0.1, np.nan]), 8000), "NaN or infinite"),
        ((np.zeros((2, 2, 2)), 8000), "expected \\(N,\\) or \\(channels, N\\)"),
        (encode(np.zeros((0, 1))), "zero length"),
        (encode(tone())[:30], "no sound"),
        (b"RIFF" * 30, "no sound"),
        (make_video([Image.new("RGB", (32, 32))]), "a video without sound"),
        (make_video([], "matroska", np.zeros(4096))[:150], "no sound"),
        ("none.wav", "cannot open the file"),
    ],
)
def test_what_is_no_sound_is_refused(cell, told, tmp_path):
    with pytest.raises(UserError, match=told):
        decode_sound(resolve_sound(cell, tmp_path, False), 16000)
    with pytest.raises(UserError, match=told):
        check_sound(resolve_sound(cell, tmp_path, False))


def test_a_long_sound_in_a_small_file_is_decoded_as_far_as_it_is_needed():
    data = encode(np.zeros((48000 * 600, 1), np.float32), 48000, "FLAC")
    assert len(data) < 200_000
    tracemalloc.start()
    assert len(decode_sound(data, 16000, seconds=1)) == pytest.approx(16000, abs=5)
    check_sound(data)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_the_sound_of_a_video_is_taken():
    samples = tone(1, 16000)[:, 0]
    data = make_video([Image.new("RGB", (32, 32))] * 10, sound=samples)
    found = decode_sound(data, 16000)
    assert len(found) == pytest.approx(16000, abs=2048)
    assert pitch_of(found[:16000], 16000) == pytest.approx(440, abs=5)
    assert len(decode_sound(data, 8000, seconds=0.5)) == pytest.approx(4000, abs=2)
    assert np.abs(found).max() == pytest.approx(0.5, abs=0.05)
    assert sound_seconds(make_video([Image.new("RGB", (32, 32))] * 50, sound=samples)) == pytest.approx(1, abs=0.2)
    check_sound(data)


def test_the_channels_of_a_video_are_averaged():
    samples = tone(1, 16000)[:, 0]
    stereo = make_video([Image.new("RGB", (32, 32))], sound=np.stack([samples, samples]))
    assert np.abs(decode_sound(stereo, 16000)[1000:15000]).max() == pytest.approx(0.5, abs=0.05)


def test_a_path_outside_the_folder_is_refused_if_paths_are_confined(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.wav").write_bytes(encode(tone()))
    with pytest.raises(UserError, match="leads out of the folder"):
        resolve_sound("../a.wav", tmp_path / "in", True)


def test_odd_rates_and_unsigned_samples_are_read():
    assert len(decode_sound((tone(1, 44101)[:, 0], 44101), 16000)) == pytest.approx(16000, abs=60)
    silence = decode_sound(resolve_sound((np.full(800, 128, np.uint8), 8000), None, False), 8000)
    assert np.abs(silence).max() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_untrained_small_encoder_already_tells_pitches_apart_whatever_their_volume(seed):
    torch.manual_seed(seed)
    model, pitches = AudioTokens(SPEC).eval(), (300, 800, 1700, 3200)
    sounds = [(volume * tone(1, 8000, pitch=pitch)[:, 0], 8000) for pitch in pitches for volume in (0.4, 1.0)]
    with torch.no_grad():
        tokens, _ = model(**collate_sounds(SPEC, sounds, range(len(sounds))))
    soft, loud = tokens.mean(dim=1).unflatten(0, (len(pitches), 2)).unbind(dim=1)
    between = torch.cdist(loud, loud)[~torch.eye(len(pitches), dtype=torch.bool)].min()
    assert between > 3, "of vectors with a norm of about 11"
    assert between > 4 * (loud - soft).norm(dim=1).max()


SPEC = {"name": "sound", "kind": "audio"} | audio_encoder(ModelSettings(audio_encoder="scratch", audio_seconds=1))


@torch.no_grad()
def test_sounds_are_padded_or_cut_to_one_length_and_padding_is_masked():
    inputs = collate_sounds(SPEC, [encode(tone(0.25)), encode(tone(3))], [0, 1])
    assert inputs["values"].shape == (2, 80, 100)
    assert inputs["filled"].tolist() == pytest.approx([0.25, 1.0])
    tokens, mask = AudioTokens(SPEC).eval()(**inputs)
    assert tokens.shape == (2, 50, 128)
    assert mask.sum(dim=1).tolist() == [13, 50]
    with pytest.raises(UserError, match="The context sound of row 7 is a file that is no sound"):
        collate_sounds(SPEC, [b"no"], [7])


def save_ast(folder) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ASTModel(ASTConfig(**sizes, max_length=100, num_mel_bins=32))
    ASTFeatureExtractor(num_mel_bins=32, max_length=100).save_pretrained(folder)
    return model


def save_wav2vec2(folder) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    layers = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    rest = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False}
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return Wav2Vec2Model(Wav2Vec2Config(**sizes, **layers, **rest))


@pytest.mark.parametrize("save", [save_ast, save_wav2vec2])
@torch.no_grad()
def test_a_pretrained_encoder_gives_the_features_it_has_in_transformers(save, tmp_path):
    model = save(tmp_path).eval()
    model.save_pretrained(tmp_path)
    spec = {"name": "sound", "kind": "audio"}
    spec |= json.loads(json.dumps(audio_encoder(ModelSettings(audio_encoder=str(tmp_path), audio_seconds=1))))
    tokens = AudioTokens(spec).eval()
    tokens.load_pretrained(str(tmp_path))
    inputs = collate_sounds(spec, [encode(tone(0.5)), encode(tone(1, pitch=700))], [0, 1])
    found, mask = tokens(**inputs)
    torch.testing.assert_close(found, model(inputs["values"]).last_hidden_state)
    assert tokens(**collate_sounds(spec, [encode(tone(0.005))], [0]))[0].isfinite().all(), "shorter than a window"
    assert mask.all() == (save is save_ast), "patches of a spectrogram are not in the order of time"
    for parameter in model.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path, safe_serialization=True)
    other = AudioTokens(spec).eval()
    other.load_pretrained(str(tmp_path))
    assert not torch.equal(other(**inputs)[0], found)


def test_an_encoder_that_is_not_there_names_the_way_out(tmp_path, capsys):
    options = ["--data.train", "tones:20", "--context.sound", "audio", "--model.image_weights", "none"]
    with pytest.raises(SystemExit):
        train.main([*options, "--run_dir", str(tmp_path / "run")])
    assert "Could not load the audio encoder 'MIT/ast" in (told := capsys.readouterr().err)
    assert "--model.audio_encoder scratch" in told
    with pytest.raises(UserError, match="the audio encoder"):
        audio_encoder(ModelSettings(audio_encoder=str(tmp_path)))


@pytest.fixture(scope="module")
def tones():
    """Pictures with tones, and the colour that the pitch of each means."""
    rows = make_tones(200, "train").to_pandas()
    pitches = [pitch_of(decode_sound(cell["bytes"], 8000), 8000) for cell in rows["sound"]]
    return rows.assign(heard=[min(TONES, key=lambda color: abs(TONES[color] - pitch)) for pitch in pitches])


def test_neither_the_picture_nor_the_tone_alone_tells_where_the_shape_is(tones):
    for _, labels in tones.groupby("heard")["label"]:
        assert labels.value_counts(normalize=True).reindex(list(PLACES)).between(0.12, 0.4).all()
    for _, labels in tones.groupby(tones["image"].map(lambda cell: cell["path"]))["label"]:
        assert sorted(labels) == sorted(PLACES)


def test_the_answer_is_the_corner_of_the_colour_that_the_pitch_means(tones):
    for _, row in tones.iterrows():
        left, top = CELL * ("right" in row["label"]), CELL * ("bottom" in row["label"])
        pixels = np.asarray(decode_image(row["image"]).crop((left, top, left + CELL, top + CELL))).astype(int)
        distance = np.abs(pixels - np.array(COLORS[row["heard"]])).max(axis=2)
        assert (distance <= 15).sum() > 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with tones as files."""
    folder = tmp_path_factory.mktemp("tones")
    for split, number in (("train", 24), ("test", 6)):
        rows = make_tones(number, split).to_pandas()
        for column, name in (("image", "png"), ("sound", "wav")):
            paths = [f"{split}_{place}.{name}" for place in range(len(rows))]
            for path, cell in zip(paths, rows[column], strict=True):
                (folder / path).write_bytes(cell["bytes"])
            rows[column] = paths
        rows.to_csv(folder / f"{split}.csv", index=False)
    return folder


def command(folder, run, *options: str) -> list[str]:
    named = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv"), "--run_dir", str(run)]
    sound = ["--context.sound", "audio", "--model.audio_encoder", "scratch", "--model.audio_seconds", "1"]
    return [*named, *TINY, *sound, "--model.image_encoder", shared_encoder(), "--train.epochs", "1", *options]


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    with blank_charts():
        return train.main(command(folder, tmp_path_factory.mktemp("runs") / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_model_that_hears_is_scored_asked_and_served(run, folder, tmp_path, capsys):
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert list(figures["inputs"]["parts"]) == ["image", "sound"]
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"].to_numpy()
    again = evaluation.main([str(run), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]
    app(["predict", str(run), "--data.test", str(folder / "test.csv"), "--output", str(tmp_path / "a.parquet")])
    answered = pd.read_parquet(tmp_path / "a.parquet")["probability"].to_numpy()
    assert answered == pytest.approx(scored, abs=1e-3)
    row = pd.read_csv(folder / "test.csv").iloc[0]
    image, sound = folder / row["image"], folder / row["sound"]
    app(["predict", str(run), "--image", str(image), "--context.sound", str(sound)])
    assert f"{scored[0]:.1%}" in capsys.readouterr().out
    predictor = Predictor.from_pretrained(run)
    samples, rate = soundfile.read(sound)
    for given in (sound, sound.read_bytes(), (samples, rate)):
        assert predictor(image, contexts={"sound": given})[0]["probability"] == pytest.approx(scored[0], abs=1e-3)
    with pytest.raises(UserError, match="The context sound is a file that is no sound"):
        predictor(image, contexts={"sound": image})
    app(["export", str(run), "--output", str(tmp_path / "onnx")])
    exported = Predictor.from_pretrained(tmp_path / "onnx")
    assert exported(image, contexts={"sound": sound})[0]["probability"] == pytest.approx(scored[0], abs=1e-2)
    application, _ = build_app(load_predictor(str(run), ServeSettings()), run, ServeSettings())
    with live(application) as address:
        pair = {"image": base64_of(image.read_bytes()), "contexts": {"sound": base64_of(sound.read_bytes())}}
        reply = requests.post(f"{address}/v1/predict", json={"inputs": [pair]}).json()["predictions"][0]
        assert reply["answers"][0]["probability"] == pytest.approx(scored[0], abs=1e-3)
        pair["contexts"] = {"sound": base64_of(image.read_bytes())}
        reply = requests.post(f"{address}/v1/predict", json={"inputs": [pair]})
        assert (reply.status_code, "no sound" in reply.json()["error"]["message"]) == (422, True)
        answer, *_ = Client(address, verbose=False).predict(
            handle_file(image), None, handle_file(sound), api_name="/ask"
        )
        assert f"{100 * scored[0]:.1f} %" in answer


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_share_of_sounds_that_are_cut_is_told(folder, tmp_path, capsys):
    rows = pd.read_csv(folder / "train.csv")
    (tmp_path / "long.wav").write_bytes(encode(tone(2.5)))
    rows["image"] = [str(folder / name) for name in rows["image"]]
    rows["sound"] = [str(tmp_path / "long.wav"), *(str(folder / name) for name in rows["sound"][1:])]
    rows.to_csv(tmp_path / "train.csv", index=False)
    data = ["--data.train", str(tmp_path / "train.csv"), "--data.validation", str(folder / "test.csv")]
    train.main([*command(folder, tmp_path / "run"), *data])
    assert "context sound: sounds of 0.5 to 2.5 s; 1 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "row 1, sound: cannot open the file"),
        (b"no sound", "row 1, sound: a file that is no sound"),
        (encode(np.zeros((0, 1))), "row 1, sound: a sound of zero length"),
    ],
)
def test_a_faulty_sound_is_named_by_its_row_before_training(folder, tmp_path, content, told, capsys):
    rows = pd.read_csv(folder / "train.csv")
    for name in ("image", "sound"):
        rows[name] = [str(folder / path) for path in rows[name]]
    rows.loc[1, "sound"] = str(tmp_path / "bad.wav")
    if content is not None:
        (tmp_path / "bad.wav").write_bytes(content)
    rows.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(SystemExit):
        train.main([*command(folder, tmp_path / "run"), "--data.train", str(tmp_path / "train.csv")])
    assert told in capsys.readouterr().err
