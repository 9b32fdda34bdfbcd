"""Contexts beside the text: a second picture, columns of the table, vectors, a second text."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from app.settings_parser import parse_settings
from app.studies.data_checks import contradictions
from data import LabelFormat, prepare_data
from data.context_features import collate_features, encode_features, fit_features, refuse_unknown
from data.contexts import ContextCell, read_cell
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
        ({"prior": "picture"}, "of the kind 'picture'; kinds are text, image, audio, features"),
        ({"image": "image"}, "cannot be called 'image'"),
        ({"both": "image"}, "cannot be called 'both'"),
        ({"a.b": "image"}, "cannot be called 'a.b'"),
        ({"values": "image"}, "cannot be called 'values'"),
        ({"question": "text", "text": "text"}, "called 'text' is the first of the kind text"),
        ({"text": "image"}, "called 'text' is the first of the kind text"),
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
    values, mask = encode_features(spec, cells({"age": 40, "sex": "X"})[0].value)
    assert (values.tolist(), mask.tolist()) == ([2.0, 0.0], [True, False])
    with pytest.raises(UserError, match="'X' in the column sex, a category that no training row has; they have F, M"):
        refuse_unknown(spec, cells({"age": 1, "sex": "X"})[0].value)
    with pytest.raises(UserError, match="'old' in the column age, which holds numbers"):
        encode_features(spec, cells({"age": "old", "sex": "F"})[0].value)


def test_a_decimal_number_is_a_number():
    assert [cell.value for cell in cells({"age": Decimal("40.5"), "sex": "F"})] == [(40.5, "F")]


def test_a_column_of_one_value_is_not_divided_by_its_rounding_errors():
    spec = fit_features(PATIENT, cells(*[{"age": 1.7, "sex": "F"}] * 100))
    values, _ = encode_features(spec, cells({"age": 2.7, "sex": "F"})[0].value)
    assert values[0] == pytest.approx(1.0)


def test_a_training_row_with_too_many_vectors_is_named_before_training(shapes_folder, tmp_path):
    for name, length in (("long", 4097), ("short", 3)):
        np.save(tmp_path / f"{name}.npy", np.zeros((length, 1)))
    table = pd.read_csv(shapes_folder / "train.csv", keep_default_na=False)
    table["image"] = [str(shapes_folder / name) for name in table["image"]]
    train, validation = (str(tmp_path / f"{split}.csv") for split in ("train", "validation"))
    table.assign(v="short.npy").to_csv(validation, index=False)
    table.assign(v=["short.npy", "long.npy"] * (len(table) // 2)).to_csv(train, index=False)
    with pytest.raises(UserError, match="row 1, v: a sequence of 4,097 vectors; at most 4,096 are read"):
        prepare_data(DataSettings(train=train, validation=validation, context={"v": "features"}), 0)


def test_an_unknown_category_of_a_held_out_row_is_noted_and_read_as_an_empty_cell(shapes_folder, tmp_path):
    tables = [pd.read_csv(shapes_folder / f"{split}.csv", keep_default_na=False) for split in ("train", "test")]
    for table in tables:
        table["image"], table["sex"] = (
            [str(shapes_folder / name) for name in table["image"]],
            ["F", "M"] * (len(table) // 2),
        )
    files = [str(tmp_path / name) for name in ("train.csv", "test.csv")]
    settings = DataSettings(train=files[0], test=files[1], context={"question": "text", "sex": "features"})
    tables[1].loc[:2, "sex"] = ["X", "X", "Y"]
    for table, file in zip(tables, files, strict=True):
        table.rename(columns={"text": "question"}).to_csv(file, index=False)
    told = "test: 3 rows have a category in the column sex that no training row has; it is read as an empty cell"
    assert f"{told} ('X', 'Y')" in prepare_data(settings, 0).notes
    tables[1].assign(question=tables[1]["text"], sex="X").to_csv(files[1], index=False)
    with pytest.raises(
        UserError, match=rf"{len(tables[1])} of {len(tables[1])} rows .* in the column sex .*: 'X' .* are F, M"
    ):
        prepare_data(settings, 0)


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


def test_more_inputs_are_not_dropped_than_there_are_rows():
    contexts = [{"name": name, "kind": "vectors", "width": 3} for name in ("a", "b")]
    config = ImageTextConfig(image_size=32, has_text=False, num_labels=2, contexts=contexts, modality_dropout=0.4)
    with pytest.raises(UserError, match=r"0.4 of the rows for each of 3 inputs.*at most 0.33"):
        ImageTextClassifier(config)


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
    for fusion in model.fusions.values():
        torch.nn.init.normal_(fusion.attention.out_proj.weight, std=0.1)  # it starts at zero
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
def test_a_row_of_empty_cells_has_the_learned_token(model):
    inputs = whole_inputs()
    patient = inputs["contexts"]["patient"]
    inputs["contexts"]["patient"] = patient | {"mask": torch.tensor([[True, True], [False, False]])}
    empty = model(**inputs).logits
    inputs["contexts"]["patient"] = patient | {"index": torch.tensor([0, -1])}
    torch.testing.assert_close(empty, model(**inputs).logits)


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


def test_settings_keep_contexts_as_a_configuration_holds_them(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"data": {"context": {"prior": {"kind": "image", "columns": ["before"]}}}}))
    assert parse_settings([str(file)]).data.context["prior"].columns == ["before"]


def test_rows_with_other_contexts_are_told_apart():
    prepared = prepare_data(DataSettings(train="tones:6", validation="tones:2", context={"sound": "audio"}), 0)
    rows = prepared.splits["train"]
    assert len(set(rows.input_keys())) == len(rows) == 24
    assert not contradictions(rows, LabelFormat())
