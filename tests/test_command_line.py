"""The command lines: errors, spelling of options, help."""

import pytest
from accelerate import Accelerator

import eval as evaluation
import train
from app.__main__ import COMMANDS
from app.__main__ import main as app
from app.training.exit_codes import exit_codes
from data.errors import UserError

MAINS = [(app, ["predict", "MODEL", "--text", "x"]), (evaluation.main, ["MODEL"])]


def fail(error: Exception):
    def raises(*_, **__):
        raise error

    return raises


@pytest.mark.parametrize(("main", "command"), MAINS, ids=["app", "eval"])
def test_an_error_of_the_user_ends_with_its_message_and_code_2(main, command, monkeypatch, capsys):
    for place in ("app.inference.predictor.load_any", "app.command_line.score_run.load_any"):
        monkeypatch.setattr(place, fail(UserError("no such model")))
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such model\n"


@pytest.mark.parametrize(("main", "command"), MAINS, ids=["app", "eval"])
@pytest.mark.parametrize("error", [ValueError("operands could not be broadcast"), KeyError("x"), RuntimeError("bug")])
def test_any_other_error_keeps_its_traceback(main, command, error, monkeypatch):
    for place in ("app.inference.predictor.load_any", "app.command_line.score_run.load_any"):
        monkeypatch.setattr(place, fail(error))
    with pytest.raises(type(error)) as found:
        main(command)
    assert found.value is error


@pytest.mark.parametrize(
    ("main", "command"),
    [
        (train.main, ["--train.epoch", "3"]),
        (train.main, ["missing.yaml"]),
        (train.main, ["--train.trackers", "[unknown]"]),
        (evaluation.main, ["MODEL", "--splits", "test"]),
        (evaluation.main, ["no/such/model"]),
    ],
)
def test_an_error_in_the_arguments_is_printed_by_the_first_process_alone(main, command, monkeypatch, capsys):
    printed = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        printed[rank] = "".join(capsys.readouterr())
    assert "error: " in printed["0"]
    assert printed["1"] == ""


def test_an_error_in_the_rows_of_a_process_is_printed_by_that_process(monkeypatch, capsys):
    Accelerator(cpu=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), exit_codes("again"):
        raise UserError("a bad row")
    assert capsys.readouterr().err == "error: a bad row\n"


@pytest.mark.parametrize(
    ("main", "command", "option", "nearest"),
    [
        (app, ["predict", "MODEL"], "--data.imag", "data.image"),
        (app, ["serve", "MODEL"], "--prot", "port"),
        (app, ["kfold", "c.yaml"], "--train.epoch", "train.epochs"),
        (evaluation.main, ["MODEL"], "--data.slice", "data.slice_by"),
        (evaluation.main, ["compare", "A", "B"], "--outputs", "output"),
    ],
)
def test_an_unknown_option_names_the_nearest_of_its_command(main, command, option, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, option, "x"])
    assert stop.value.code == 2
    assert f"did you mean '{nearest}'?" in capsys.readouterr().err


def test_booleans_are_spelled_true_and_false(capsys):
    with pytest.raises(SystemExit) as stop:
        app(["serve", "MODEL", "--page", "maybe"])
    assert stop.value.code == 2
    assert "page" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_describes_each_of_its_options_in_one_screen(command, capsys):
    with pytest.raises(SystemExit) as stop:
        app([command, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"python -m app {command} " in lines[0]
    assert len(lines) < 70
