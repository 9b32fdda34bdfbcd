"""The space of a search: what users write, what trials get, and what is refused."""

from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.settings import Settings
from app.settings_parser import parse_settings
from app.studies.search.read_space import DEFAULT, read_space
from app.studies.search.space import Base
from app.training.trainer import learning_rate_scales
from data.errors import UserError

SCRATCH = ("--model.text_encoder", "scratch", "--model.image_weights", "none")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("space") / "mine.yaml"
    path.write_text("train: {epochs: 3}")
    return str(path)


def space_of(config: str, tmp_path: Path, entries: object, *options: str):
    (tmp_path / "space.yaml").write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
    return read_space(tmp_path / "space.yaml", Base(config, options))


def sampled(space, number: int = 60) -> list[dict]:
    """Values of trials drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask()) for _ in range(number)]


@pytest.mark.parametrize(
    "options", [SCRATCH, ("--recipe", "probe"), ("--recipe", "lora"), ("--model.image_encoder", "resnet", *SCRATCH[:2])]
)
def test_every_trial_of_the_default_space_has_settings_that_are_accepted(config, options):
    space = read_space(None, Base(config, options))
    for values in sampled(space, 15):
        found = parse_settings([config, *options, *space.options(values)], exits=False)
        frozen = learning_rate_scales(found.train, found.model)["image_encoder"] == 0
        assert not (frozen and found.train.augment)
        assert ("model.attention_top_k" in values) == (found.model.attention == "top_k")
        assert ("model.levels" in values) == (found.model.image_encoder == "vgg16" and found.model.fusion != "none")
        assert ("train.scales.image_encoder" in values) <= (not frozen)
        assert ("recipe" in values) == ("lora" in options)


def test_the_default_is_the_configuration_and_belongs_to_the_space(config, tmp_path):
    options = (*SCRATCH, "--model.num_heads", "2", "--train.learning_rate", "0.1", "--model.fusion", "concat")
    space = read_space(None, Base(config, options))
    default = space.default()
    assert default.get("model.num_heads", True)
    assert default["train.learning_rate"] == 0.1
    assert default["train.scales.image_encoder"] == 0.3, "the scale that holds for random weights"
    assert "model.attention" not in default, "there is nothing to attend to"
    study = optuna.create_study()
    study.enqueue_trial(default)
    values = space.suggest(study.ask())
    found, plain = (parse_settings([config, *options, *more]) for more in (space.options(values), ()))
    found.train.scales, plain.train.scales = Settings().train.scales, Settings().train.scales
    assert (found.model, found.train) == (plain.model, plain.train)


def test_the_default_leaves_what_the_space_does_not_hold_to_the_sampler(config, tmp_path):
    entries = {
        "extends": "none",
        "model.fusion": {"choices": ["cross", "self"]},
        "model.num_heads": {"choices": [2], "when": {"model.fusion": "self"}},
        "train.warmup": {"low": 0.2, "high": 0.4, "when": {"model.fusion": "self"}},
    }
    space = space_of(config, tmp_path, entries, *SCRATCH)
    assert space.default() == {"model.fusion": "cross"}
    assert space.default(**{"model.fusion": "self"}) == {"model.fusion": "self"}
    assert space.default(**{"model.fusion": "concat"}) == {}
    study = optuna.create_study()
    study.enqueue_trial(space.default(**{"model.fusion": "self"}))
    assert space.suggest(study.ask()).keys() == {"model.fusion", "model.num_heads", "train.warmup"}


def test_a_file_replaces_removes_fixes_and_adds_settings(config, tmp_path):
    entries = {
        "model.num_heads": {"choices": [2]},
        "train.learning_rate": {"low": 0.001, "high": 0.002},
        "model.fusion": "cross",
        "train.schedule": None,
        "model.classifier_hidden_size": {"low": 64, "high": 256, "log": True},
    }
    space = space_of(config, tmp_path, entries, *SCRATCH)
    found = {dimension.name: dimension for dimension in space.dimensions}
    assert found["model.num_heads"].choices == {"8": 8, "2": 2}
    assert found["model.num_heads"].when == {"model.fusion": ["cross", "self"]}, "conditions stay"
    assert (found["train.learning_rate"].low, found["train.learning_rate"].log) == (0.001, False)
    assert not {"model.fusion", "train.schedule"} & found.keys()
    assert space.fixed == ("--model.fusion", "cross")
    sizes = {values["model.classifier_hidden_size"] for values in sampled(space, 10)}
    assert all(isinstance(size, int) for size in sizes)
    assert found["model.classifier_hidden_size"].high == 512, "the configuration's own"


def test_a_space_can_start_from_nothing(config, tmp_path):
    space = space_of(config, tmp_path, {"extends": "none", "model.fusion": {"choices": ["self"]}})
    assert [dimension.name for dimension in space.dimensions] == ["model.fusion"]


def test_conditions_are_met_by_values_of_the_trial_or_of_its_recipe(config, tmp_path):
    entries = {
        "extends": "none",
        "train.scales.image_encoder": {"low": 0.1, "high": 1, "unless": {"train.scales.image_encoder": 0}},
        "recipe": {"choices": ["probe", "finetune"]},
        "model.attention_top_k": {"choices": [4], "when": {"model.attention": "top_k"}},
        "model.attention": {"choices": ["full", "top_k"]},
    }
    space = space_of(config, tmp_path, entries, "--recipe", "probe")
    for values in sampled(space):
        assert ("train.scales.image_encoder" in values) == (values["recipe"] == "finetune")
        assert ("model.attention_top_k" in values) == (values["model.attention"] == "top_k")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            {"train.learningrate": {"choices": [1]}},
            "Unknown key 'train.learningrate'; did you mean 'train.learning_rate'",
        ),
        ({"data.train": {"choices": ["a.csv"]}}, "this cannot be searched. Unknown key 'data.train'"),
        ({"train.seed": {"choices": [1, 2]}}, "this cannot be searched"),
        (
            {"train.learning_rate": {"low": 0.1, "high": 0.1}},
            "learning_rate: an empty range: low 0.1 is not below",
        ),
        ({"train.learning_rate": {"low": 0.1}}, "a range has numbers as low and high, got 0.1 and None"),
        ({"train.learning_rate": {"low": 0, "high": 1, "log": True}}, "starts above 0, got low 0"),
        ({"train.learning_rate": {"low": -1, "high": 1}}, "train.learning_rate"),
        ({"train.learning_rate": {"low": True, "high": 2}}, "a range has numbers"),
        ({"model.fusion": {"choices": []}}, "model.fusion: choices are a list of at least one value"),
        ({"model.fusion": {"choices": ["cross", "crosss"]}}, "model.fusion: .*\n.*crosss"),
        ({"model.fusion": {"low": 1, "high": 2}}, "model.fusion"),
        ({"model.fusion": {"choices": ["cross"], "low": 1}}, "without low and high"),
        ({"model.fusion": {"choice": ["cross"]}}, "unknown key 'choice'; an entry has choices"),
        ({"model.fusion": "crosss"}, "crosss"),
        ({"model.num_heads": {"choices": [4], "when": {"model.fusio": "cross"}}}, "did you mean 'model.fusion'"),
        (
            {"model.fusion": {"choices": ["cross"], "when": ["recipe"]}},
            "model.fusion: a condition maps a setting to its",
        ),
        (
            {"model.num_heads": {"choices": [4], "when": {"model.fusion": "crosss"}}},
            "the condition model.fusion: .*\n.*crosss",
        ),
        (
            {"model.num_heads": {"choices": [4], "when": {"recipe": ["lor"]}}},
            "the condition recipe: There is no recipe 'lor'; did you mean 'lora'",
        ),
        ({"train.learning_rate": {"low": 0.1, "high": float("inf")}}, "a range has numbers as low and high, got 0.1"),
        ({"extends": "all"}, "extends is default or none, got 'all'"),
        ({"extends": "none"}, "there is nothing to search"),
        ({"extends": "none", "model.fusion": "cross"}, "there is nothing to search"),
        ("[1, 2]", "a space maps settings"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_entry_that_cannot_be_searched_is_named(config, tmp_path, entries, told):
    with pytest.raises(UserError, match=told) as error:
        space_of(config, tmp_path, entries, *SCRATCH)
    assert "space.yaml" in str(error.value)


def test_numbers_that_yaml_reads_as_texts_are_the_numbers_of_a_configuration(config, tmp_path):
    entries = "extends: none\ntrain.learning_rate: {choices: [1e-3, 3e-4]}\ntrain.weight_decay: {low: 1e-3, high: 1e-1}"
    rate, decay = space_of(config, tmp_path, entries, "--train.weight_decay", "0.01").dimensions
    assert list(rate.choices.values()) == [0.001, 0.0003], "the configuration's own 0.001 is not another value"
    assert (decay.low, decay.high) == (0.001, 0.1)


def test_conditions_that_depend_on_each_other_are_refused(config, tmp_path):
    entries = {
        "extends": "none",
        "model.fusion": {"choices": ["cross"], "when": {"model.num_heads": 8}},
        "model.num_heads": {"choices": [8], "when": {"model.fusion": "cross"}},
    }
    with pytest.raises(UserError, match=r"conditions of model\.fusion, model\.num_heads depend on each other"):
        space_of(config, tmp_path, entries)


def test_an_option_that_all_trials_share_is_not_an_error_of_the_space(config):
    with pytest.raises(UserError, match=r"did you mean 'train\.epochs'") as error:
        read_space(None, Base(config, ("--train.epoch", "3")))
    assert "default.yaml" not in str(error.value)


def test_a_file_that_is_not_there_is_named(config, tmp_path):
    with pytest.raises(UserError, match=r"The space .*none\.yaml cannot be read"):
        read_space(tmp_path / "none.yaml", Base(config))


@settings(max_examples=25, deadline=None)
@given(low=st.floats(1e-6, 1), width=st.floats(1e-6, 10), log=st.booleans())
def test_values_of_a_range_lie_in_it(config, tmp_path_factory, low, width, log):
    entries = {"extends": "none", "train.weight_decay": {"low": low, "high": low + width, "log": log}}
    space = space_of(config, tmp_path_factory.mktemp("range"), entries)
    ends = min(low, 0.05), max(low + width, 0.05)
    assert all(ends[0] <= values["train.weight_decay"] <= ends[1] for values in sampled(space, 5))


def test_the_default_space_explains_itself():
    text = DEFAULT.read_text()
    assert all(f"#   {example}" in text for example in ("train.schedule: null", "extends: none", "model.fusion: cross"))
