"""Values from the files of a user are quoted and shortened in messages."""

import pytest

from data.messages import MAX_CHARS, enumerate_names, excerpt, percents, quote


def test_a_text_of_80_characters_is_whole_and_a_longer_one_is_cut():
    assert excerpt("a" * MAX_CHARS) == "a" * MAX_CHARS
    assert excerpt("a" * (MAX_CHARS + 1)) == "a" * (MAX_CHARS - 1) + "…"


@pytest.mark.parametrize("value", ["a" * 150_000, b"\0" * 150_000, ["a" * 90], {"bytes": b"x" * 99}, 10**200])
def test_a_value_of_any_kind_is_quoted_in_at_most_80_characters(value):
    assert len(quote(value)) == MAX_CHARS
    assert quote(value).startswith(repr(value)[:10])


def test_names_are_quoted_and_the_rest_is_counted():
    assert enumerate_names(["a", "b"]) == "'a', 'b'"
    assert enumerate_names(range(1203), shown=2) == "0, 1 and 1,201 more"
    assert len(enumerate_names(["x" * 500] * 3)) <= 3 * (MAX_CHARS + 2)


def test_shares_have_the_digits_that_tell_them_apart():
    assert percents(0.5, 0.25) == ["50.0%", "25.0%"]
    assert percents(0.49996, 0.5) == ["49.996%", "50.000%"]
    assert percents(0.5, 0.5) == ["50.0%", "50.0%"]
    assert percents(0.5, 0.5 + 1e-12) == ["50.00000%", "50.00000%"]
