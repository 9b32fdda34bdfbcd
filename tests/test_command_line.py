"""The command lines: errors, spelling of options, help."""

import pytest

import eval as evaluation
from app.__main__ import COMMANDS
from app.__main__ import main as app
from data.errors import UserError

MAINS = [(app, ["predict", "MODEL", "--text", "x"]), (evaluation.main, ["MODEL"])]


def fail(error: Exception):
    def raises(*_, **__):
        raise error

    return raises


@pytest.mark.parametrize(("main", "command"), MAINS, ids=["app", "eval"])
def test_an_error_of_the_user_ends_with_its_message_and_code_2(main, command, monkeypatch, capsys):
    for place in ("app.inference.predictor.load_any", "eval.load_any"):
        monkeypatch.setattr(place, fail(UserError("no such model")))
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such model\n"


@pytest.mark.parametrize(("main", "command"), MAINS, ids=["app", "eval"])
@pytest.mark.parametrize("error", [ValueError("operands could not be broadcast"), KeyError("x"), RuntimeError("bug")])
def test_any_other_error_keeps_its_traceback(main, command, error, monkeypatch):
    for place in ("app.inference.predictor.load_any", "eval.load_any"):
        monkeypatch.setattr(place, fail(error))
    with pytest.raises(type(error)) as found:
        main(command)
    assert found.value is error


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
