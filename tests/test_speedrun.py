"""The benchmark of the time to a level of accuracy."""

from tiny import arguments

from app.settings_parser import parse_settings
from benchmarks.speedrun import Run, run, table_of


def settings(shapes_folder, tmp_path, *more: str):
    return parse_settings(arguments(shapes_folder, tmp_path / "run", *more))


def test_a_training_ends_at_the_first_validation_that_reaches_the_target(shapes_folder, tmp_path):
    seen = []
    found = run(settings(shapes_folder, tmp_path), 0.0, 1, lambda *validation: seen.append(validation))
    assert len(seen) == found.steps == 1
    assert found.seconds == found.step > 0
    assert found.accuracy == seen[0][1]


def test_a_training_that_does_not_reach_the_target_goes_on_to_its_last_step(shapes_folder, tmp_path):
    seen = []
    options = settings(shapes_folder, tmp_path, "--train.epochs", "2")
    found = run(options, 1.01, 1000, lambda step, accuracy: seen.append(step))
    assert found.seconds is None
    assert seen == [found.steps // 2, found.steps]


def test_a_line_has_the_median_and_the_gain_over_the_first_if_every_seed_reached_the_target():
    found = {
        "as configured": [Run(100, 50, 0.99, 2.0), Run(120, 60, 0.99, 2.0)],
        "faster": [Run(40, 20, 0.99, 2.0), Run(60, 30, 0.991, 2.0)],
        "fails": [Run(40, 20, 0.99, 2.0), Run(None, 90, 0.5, 2.0)],
        "not run": [],
    }
    lines = table_of(found, 99.0).splitlines()[2:]
    assert lines == [
        "| as configured | 100, 120 | 110 | 1.00 | 50, 60 | 2.00 | 99.0%, 99.0% |",
        "| faster | 40, 60 | 50 | 2.20 | 20, 30 | 2.00 | 99.0%, 99.1% |",
        "| fails | 40, not reached | – | – | 20, 90 | 2.00 | 99.0%, 50.0% |",
    ]
