import json

import pytest

from app.__main__ import main
from app.studies.ablate import Variant, ablate, parse_variant, table_of, validation_accuracy
from data.errors import UserError

TINY = {
    "data": {"train": "shapes:8", "validation": "shapes:4", "test": "shapes:4"},
    "model": {"image_size": 32, "text_hidden_size": 16, "text_layers": 1},
    "train": {"epochs": 1, "batch_size": 8, "pictures": 0},
}


def test_the_table_tells_mean_spread_and_paired_difference():
    base = Variant("base", [], {0: 0.90, 1: 0.80}, {0: 0.7, 1: 0.8}, {0: 1.0, 1: 2.0})
    other = Variant("other", ["--a", "b c"], {0: 0.88, 1: 0.74}, {0: 0.9, 1: 0.9}, {0: 3.0, 1: 3.0})
    once = Variant("once", [], {1: 0.5}, {1: 0.6}, {1: 1.0})
    lines = table_of([base, other, once, Variant("not yet", [])]).splitlines()
    assert lines[2] == "| base |  | 90.0, 80.0 | 85.0 | 7.1 |  | 75.0 | 1.5 |"
    assert lines[3] == "| other | `--a 'b c'` | 88.0, 74.0 | 81.0 | 9.9 | -4.0 (2.8) | 90.0 | 3.0 |"
    assert lines[4] == "| once |  | 50.0 | 50.0 | – | -30.0 (–) | 60.0 | 1.0 |"
    assert len(lines) == 5


def test_the_validation_accuracy_is_that_of_the_epoch_whose_model_was_kept():
    """Not of a better one in which gates were still held open."""
    epochs = [{"validation_accuracy": a, "best": best} for a, best in ((0.9, True), (0.7, True), (0.6, False))]
    assert validation_accuracy([{"loss": 1.0}, *epochs]) == 0.7
    assert validation_accuracy([{"validation_accuracy": a} for a in (0.5, 0.8, 0.6)]) == 0.8, "runs without the mark"


def test_an_ablation_trains_each_variant_and_seed_once(tmp_path, capfd):
    config, folder = tmp_path / "tiny.yaml", tmp_path / "runs"
    config.write_text(json.dumps(TINY))
    command = [
        "ablate",
        str(config),
        "--output",
        str(folder),
        "--seeds",
        "[3]",
        "--variant",
        "[as it is]",
        "--train.epochs",
        "2",
    ]
    main(command)
    assert len((folder / "as_it_is_3" / "metrics.jsonl").read_text().splitlines()) == 5, "two epochs and the result"
    assert (folder / "as_it_is_3" / "summary.txt").is_file()
    first = (folder / "ablation.md").read_text()
    assert "| as it is |" in first
    assert "seed 3" in capfd.readouterr().out
    main(command)
    assert "seed 3" not in capfd.readouterr().out, "it was trained again"
    assert (folder / "ablation.md").read_text() == first
    with pytest.raises(SystemExit):
        main([*command[:-1], "1"])
    assert "has other settings: train.epochs was 2, now 1" in capfd.readouterr().err


def test_a_run_that_fails_ends_the_ablation_with_its_folder(tmp_path, capfd):
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(TINY))
    with pytest.raises(UserError, match="odd_0 ended with code 2"):
        ablate(config, [Variant("odd", ["--train.gate_cost", "1"])], [0], tmp_path / "runs")
    assert "add --model.gated true" in capfd.readouterr().err


def test_what_an_ablation_needs_is_said(tmp_path):
    with pytest.raises(ValueError, match="There is no configuration file"):
        ablate(type(tmp_path)("missing.yaml"), [Variant("a", [])], [0], tmp_path)
    with pytest.raises(ValueError, match=r"name: options of train\.py"):
        parse_variant(" : --x")
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(TINY))
    for one, other in (("a", "a"), ("a b", "a_b")):
        with pytest.raises(ValueError, match=f"different names, got {one}, {other}"):
            ablate(config, [Variant(one, []), Variant(other, [])], [0], tmp_path)
