"""Contexts beside the text: a second picture, columns of the table, vectors, a second text."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image
from tiny import TINY, shared_encoder

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.settings_parser import load_settings, parse_settings
from data.contexts import ContextCell, collate_features, encode_features, fit_features, read_cell
from data.errors import UserError
from data.settings import ContextSettings, DataSettings, NamedContext
from models import ImageTextClassifier, ImageTextConfig
from models.pair_indices import drop_inputs

PATIENT = NamedContext("features", ["age", "sex"], "patient")
CONTEXTS = ["--context.question", "text", "--context.prior", "image"]
CONTEXTS += ["--context.patient", "{kind: features, columns: [age, sex]}"]


def cells(*rows: dict, context: NamedContext = PATIENT) -> list[ContextCell | None]:
    return [read_cell(row, context, None, False) for row in rows]


def test_contexts_are_named_on_the_command_line_and_kept_with_the_run():
    settings = parse_settings(["--data.train", "a.csv", *CONTEXTS])
    assert settings.data.text == "question"
    assert [(c.name, c.kind, c.columns) for c in settings.data.further_contexts()] == [
        ("prior", "image", ["prior"]),
        ("patient", "features", ["age", "sex"]),
    ]
    assert not parse_settings(["--context.prior", "image"]).data.has_text


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"prior": "picture"}, "of the kind 'picture'; kinds are text, image, features"),
        ({"image": "image"}, "cannot be called 'image'"),
        ({"a.b": "image"}, "cannot be called 'a.b'"),
        ({"values": "image"}, "cannot be called 'values'"),
        ({"prior": ContextSettings("image", ["a", "b"])}, "has one column, got a, b"),
    ],
)
def test_a_context_that_cannot_be_is_refused(context, told):
    with pytest.raises(UserError, match=told):
        DataSettings(context=context)


def test_numbers_are_standardized_and_categories_indexed_as_in_training():
    spec = fit_features(PATIENT, cells({"age": 10, "sex": "M"}, {"age": "30", "sex": "F"}, {"age": None, "sex": "F"}))
    assert spec["kind"] == "columns"
    values, mask = encode_features(spec, cells({"age": 40.0, "sex": "M"})[0].value)
    assert values.tolist() == [2.0, 1.0]  # mean 20, standard deviation 10; F before M
    assert mask.all()
    values, mask = encode_features(spec, cells({"age": float("nan"), "sex": "F"})[0].value)
    assert mask.tolist() == [False, True]
    assert cells({"age": None, "sex": ""}) == [None]
    with pytest.raises(UserError, match="'X' in the column sex, a category that no training row has; they have F, M"):
        encode_features(spec, cells({"age": 1, "sex": "X"})[0].value)
    with pytest.raises(UserError, match="'old' in the column age, which holds numbers"):
        encode_features(spec, cells({"age": "old", "sex": "F"})[0].value)


def test_vectors_may_be_lists_files_and_sequences(tmp_path):
    context = NamedContext("features", ["v"], "v")
    np.save(tmp_path / "v.npy", np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    found = [read_cell({"v": cell}, context, tmp_path, False) for cell in ("v.npy", [3, 4], np.array([5.0, 0.0]), None)]
    assert [None if cell is None else cell.value.shape for cell in found] == [(3, 2), (1, 2), (1, 2), None]
    spec = fit_features(context, found)
    assert (spec["kind"], spec["width"], spec["mean"]) == ("vectors", 2, [3.4, 3.2])
    batch = collate_features(spec, [cell.value for cell in found[:2]], [0, 1])
    assert batch["values"].shape == (2, 3, 2)
    assert batch["mask"].tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(
        UserError, match="The context v of row 7 has vectors of width 3; the model was trained on width 2"
    ):
        collate_features(spec, [np.ones((1, 3), np.float32)], [7])


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([1.0, float("nan")], "NaN or infinite"),
        ([], "of shape"),
        ("none.npy", "none.npy.*cannot be read as a .npy file"),
        (["a", "b"], "no number, category, vector"),
        (float("inf"), "not finite"),
    ],
)
def test_a_cell_that_is_no_feature_is_refused(cell, told, tmp_path):
    with pytest.raises(UserError, match=told):
        read_cell({"v": cell}, NamedContext("features", ["v"], "v"), tmp_path, False)


def test_a_pickle_is_not_loaded(tmp_path):
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_cell({"v": "v.npy"}, NamedContext("features", ["v"], "v"), tmp_path, False)


def test_inputs_are_dropped_one_at_a_time_and_only_from_whole_pairs():
    torch.manual_seed(0)
    indices = [torch.zeros(4000, dtype=torch.long) for _ in range(3)]
    indices[1][0] = -1
    dropped = torch.stack(drop_inputs(indices, 0.2)) < 0
    assert dropped[:, 0].tolist() == [False, True, False]
    assert dropped[:, 1:].sum(dim=0).max() == 1
    assert dropped[:, 1:].float().mean(dim=1).tolist() == pytest.approx([0.2] * 3, abs=0.03)


@pytest.fixture(scope="module")
def model() -> ImageTextClassifier:
    torch.manual_seed(0)
    inputs = [{"name": "age", "categories": None}, {"name": "sex", "categories": ["F", "M"]}]
    contexts = [{"name": "prior", "kind": "image"}, {"name": "patient", "kind": "columns", "inputs": inputs}]
    contexts += [{"name": "vector", "kind": "vectors", "width": 6}, {"name": "report", "kind": "text"}]
    text = {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 1, "intermediate_size": 32}
    config = ImageTextConfig(image_size=32, text_config=text, num_labels=3, classifier="mixture", contexts=contexts)
    model = ImageTextClassifier(config)
    torch.nn.init.normal_(model.fusions["5"].attention.out_proj.weight, std=0.1)  # it starts at zero
    return model.eval()


def whole_inputs() -> dict:
    torch.manual_seed(1)
    tokens = {"input_ids": torch.randint(5, 50, (2, 4)), "attention_mask": torch.ones(2, 4).long()}
    index = {"index": torch.tensor([0, 1])}
    contexts = {
        "prior": {"pixel_values": torch.randn(2, 3, 32, 32)} | index,
        "patient": {"values": torch.tensor([[0.5, 1], [-1, 0]]), "mask": torch.ones(2, 2).bool()} | index,
        "vector": {"values": torch.randn(2, 3, 6), "mask": torch.ones(2, 3).bool()} | index,
        "report": {name: tensor.flip(1) for name, tensor in tokens.items()} | index,
    }
    return {"pixel_values": torch.randn(2, 3, 32, 32), **tokens, "contexts": contexts}


@torch.no_grad()
def test_every_context_changes_the_logits_and_a_missing_one_is_a_learned_token(model):
    inputs = whole_inputs()
    whole = model(**inputs).logits
    for name in inputs["contexts"]:
        others = {other: part for other, part in inputs["contexts"].items() if other != name}
        absent = model(**inputs | {"contexts": others}).logits
        assert not torch.allclose(absent, whole, atol=1e-6)
        marked = inputs["contexts"] | {name: inputs["contexts"][name] | {"index": torch.tensor([-1, -1])}}
        torch.testing.assert_close(model(**inputs | {"contexts": marked}).logits, absent)


@torch.no_grad()
def test_rows_do_not_depend_on_the_batch_and_an_index_of_one_serves_all(model):
    inputs = whole_inputs()
    whole = model(**inputs).logits
    swapped = {name: part | {"index": torch.tensor([1, 1])} for name, part in inputs["contexts"].items()}
    one = {name: part | {"index": torch.tensor([1])} for name, part in inputs["contexts"].items()}
    torch.testing.assert_close(
        model(**inputs | {"contexts": one}).logits, model(**inputs | {"contexts": swapped}).logits
    )
    alone = {name: value[1:] for name, value in inputs.items() if name != "contexts"}
    torch.testing.assert_close(model(**alone, contexts=one).logits, whole[1:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_stored_map_of_a_second_picture_replaces_it(model):
    inputs = whole_inputs()
    prior = inputs["contexts"]["prior"]
    maps = model.image_encoder.run(prior["pixel_values"], 0, 5)
    stored = inputs["contexts"] | {"prior": {"features": maps, "index": prior["index"]}}
    torch.testing.assert_close(model(**inputs | {"contexts": stored}).logits, model(**inputs).logits)


def test_a_saved_model_gives_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = ImageTextClassifier.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**whole_inputs()).logits, model(**whole_inputs()).logits)


@pytest.fixture(scope="module")
def folder(shapes_folder, tmp_path_factory):
    """Pairs of pictures, an age and a sex, with a question each; the second half of the ages is empty in test.csv."""
    folder = tmp_path_factory.mktemp("contexts")
    for split in ("train", "test"):
        rows = pd.read_csv(shapes_folder / f"{split}.csv", keep_default_na=False).iloc[::5]
        images = [str(shapes_folder / name) for name in rows["image"]]
        rows = rows.assign(image=images, prior=images[1:] + images[:1], question=rows["text"])
        rows = rows.assign(age=np.arange(len(rows)) % 80, sex=np.where(np.arange(len(rows)) % 2, "F", "M"))
        rows.drop(columns="text").to_csv(folder / f"{split}.csv", index=False)
    return folder


def command(folder, run, *options: str) -> list[str]:
    named = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv"), "--run_dir", str(run)]
    return [*named, *TINY, "--model.image_encoder", shared_encoder(), "--train.epochs", "1", *options]


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train.main(command(folder, run, *CONTEXTS, "--train.pictures", "2"))
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_run_reports_on_every_input_and_is_scored_again_with_the_same_figures(run, folder, capsys):
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    inputs = ["image", "text", "prior", "patient"]
    assert list(figures["inputs"]["parts"]) == inputs
    given = ["all inputs", *(f"without {name}" for name in inputs), *(f"{name} shuffled" for name in inputs)]
    assert list(figures["scores"])[: len(given)] == given
    assert load_settings(run / "config.yaml").data.context["prior"] == "image"
    again = evaluation.main([str(run), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]
    alone = evaluation.main([str(run / "model"), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert alone["scores"]["all inputs"]["accuracy"] == figures["scores"]["all inputs"]["accuracy"]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_tables_are_answered_with_their_contexts(run, folder, tmp_path, capsys):
    output = tmp_path / "answers.parquet"
    app(["predict", str(run), "--data.test", str(folder / "test.csv"), "--output", str(output)])
    answers = pd.read_parquet(output)
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")
    assert answers["prediction"].tolist() == scored["prediction"].tolist()
    assert answers["probability"].to_numpy() == pytest.approx(scored["probability"].to_numpy(), abs=1e-3)
    table = pd.read_csv(folder / "test.csv").drop(columns="prior").assign(sex="X")
    table.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(SystemExit):
        app(["predict", str(run), "--data.test", str(tmp_path / "rows.csv"), "--output", str(output)])
    told = capsys.readouterr()
    assert "its rows are answered without context.prior" in told.out
    assert "a category that no training row has" in told.err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_what_takes_an_image_and_a_text_refuses_other_contexts(run, tmp_path, capsys):
    from app.serving.server import ServeSettings, load_predictor

    with pytest.raises(UserError, match=r"the contexts text, prior, patient\. Answer tables instead"):
        load_predictor(str(run), ServeSettings())
    with pytest.raises(SystemExit):
        app(["export", str(run), "--output", str(tmp_path / "onnx")])
    assert "ONNX models take an image and a text" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_rows_pairs_and_commands_ask_with_contexts_and_get_the_answers_of_the_table(run, folder, tmp_path, capsys):
    predictor = Predictor.from_pretrained(run)
    scored = pd.read_parquet(run / "evaluation/test/predictions.parquet")["probability"][:3].to_numpy()
    frame = pd.read_csv(folder / "test.csv")[:3]
    rows = frame.to_dict("records")
    named = [{"prior": row["prior"], "patient": {"age": row["age"], "sex": row["sex"]}} for row in rows]
    pairs = [(row["image"], row["question"], contexts) for row, contexts in zip(rows, named, strict=True)]
    opened = [(image, text, given | {"prior": Image.open(given["prior"])}) for image, text, given in pairs]
    for asked in (frame, rows, Dataset.from_pandas(frame), pairs, opened):
        found = [answer.answers[0]["probability"] for answer in predictor.predict(asked)]
        assert found == pytest.approx(scored, abs=1e-3), type(asked)
    assert predictor(*pairs[0][:2], contexts=named[0])[0]["probability"] == pytest.approx(scored[0], abs=1e-3)
    explained = predictor.explain(*pairs[0][:2], contexts=named[0])
    assert explained.probability == pytest.approx(scored[0], abs=1e-3)
    patient = f"{{age: {rows[0]['age']}, sex: {rows[0]['sex']}}}"
    options = [str(run), "--image", rows[0]["image"], "--text", rows[0]["question"]]
    options += ["--context.prior", rows[0]["prior"], "--context.patient", patient]
    app(["predict", *options])
    assert f"{scored[0]:.1%}" in capsys.readouterr().out
    app(["explain", *options, "--output", str(tmp_path / "why.png")])
    assert (tmp_path / "why.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contexts", "told"),
    [
        (None, r"also has the contexts prior, patient\. Give a value for each name, contexts={'prior': …}, or None"),
        ({"sound": 1}, "no context 'sound'; its contexts are prior, patient"),
        ({"prior": None, "patient": 3}, "has the columns age, sex: give {column: value}"),
        ({"prior": None, "patient": {"weight": 3}}, "no column 'weight'; its columns are 'age', 'sex'"),
        ({"prior": None, "patient": {"age": "old"}}, "context patient has 'old' in the column age"),
        ({"prior": "none.png", "patient": None}, "The image none.png cannot be read"),
    ],
)
def test_contexts_that_do_not_fit_the_model_are_refused(run, contexts, told):
    with pytest.raises(UserError, match=told):
        Predictor.from_pretrained(run)(None, "what?", contexts=contexts)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_frozen_encoders_are_cached_for_both_pictures_and_another_run_starts_from_it(folder, run, tmp_path, capsys):
    frozen = ["--train.scales.image_encoder", "0", "--train.scales.text_encoder", "0"]
    first = train.main(command(folder, tmp_path / "first", *CONTEXTS, *frozen))
    assert (first / "summary.txt").is_file()
    sources = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    start = [
        *sources,
        "--model.init",
        str(run),
        "--train.epochs",
        "1",
        "--train.pictures",
        "0",
        "--train.trackers",
        "[]",
    ]
    train.main([*start, *CONTEXTS, "--run_dir", str(tmp_path / "second")])
    with pytest.raises(SystemExit):
        train.main([*start, "--context.question", "text", "--run_dir", str(tmp_path / "third")])
    assert "has the contexts a text, prior (image), patient (columns)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_model_without_a_text_trains_without_a_text_encoder(folder, tmp_path):
    options = ["--context.prior", "image", "--model.text_encoder", "nobody/has-this"]
    run = train.main(command(folder, tmp_path / "run", *options))
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert list(figures["inputs"]["parts"]) == ["image", "prior"]
    predictor = Predictor.from_pretrained(run)
    with pytest.raises(UserError, match="The model has no text"):
        predictor.prepare_one(None, "what?", 0, predictor.pictures())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prior": "nowhere.png"}, "row 1, prior: cannot open the file"),
        ({"prior": ""}, "row 1, prior: the cell is empty"),
        ({"age": "old"}, "row 1, patient: 'old' in the column age"),
    ],
)
def test_a_faulty_context_is_named_by_row_and_column_before_training(folder, tmp_path, change, told, capsys):
    table = pd.read_csv(folder / "train.csv", dtype=str)
    for name, value in change.items():
        table.loc[1, name] = value
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(SystemExit):
        train.main(command(tmp_path, tmp_path / "run", *CONTEXTS, "--data.test", str(folder / "test.csv")))
    assert told in capsys.readouterr().err


def test_the_doctor_examines_data_with_contexts(folder, capsys):
    options = [*TINY, "--model.image_encoder", shared_encoder(), *CONTEXTS]
    app(["doctor", "--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv"), *options])
    assert "warnings. Train with: python train.py --data.train" in capsys.readouterr().out


def test_settings_keep_contexts_as_a_configuration_holds_them(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"data": {"context": {"prior": {"kind": "image", "columns": ["before"]}}}}))
    assert parse_settings([str(file)]).data.context["prior"].columns == ["before"]
