"""Foreign values are shown shortly and harmlessly, and lists read like OpenAI's."""

import pytest

from amux_asgi.words import join, quote, type_word


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a", "'a'"), ("a\nb\x1b[0m", "'a?b?[0m'"), ("x" * 61, f"'{'x' * 60}...'"), ("", "''")],
)
def test_a_foreign_word_is_shown_in_quotes(value: str, shown: str) -> None:
    """Never long, never with what a terminal would obey."""
    assert quote(value) == shown


@pytest.mark.parametrize(
    ("values", "text"),
    [(["a"], "'a'"), (["a", "b"], "'a' and 'b'"), (["a", "b", "c"], "'a', 'b', and 'c'")],
)
def test_a_list_reads_like_a_sentence(values: list[str], text: str) -> None:
    """With a comma before the last of three."""
    assert join(values) == text


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "null"),
        ("", "a string"),
        (True, "a boolean"),
        (1, "an integer"),
        (1.5, "a decimal number"),
        ([], "an array"),
    ],
)
def test_types_are_named_as_json_names_them(value: object, word: str) -> None:
    """With their article."""
    assert type_word(value) == word
