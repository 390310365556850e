"""What foreign text may say to a client."""

import pytest

from amux_asgi.redact import LONGEST, redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("see https://platform.openai.com/account?key=1 now", "see [hidden] now"),
        ("contact us at help.openai.com please", "contact us at [hidden] please"),
        ("Incorrect API key provided: sk-abc***wxyz.", "Incorrect API key provided: [hidden]"),
        ("in organization org-Ab12Cd34", "in organization [hidden]"),
        ("Authorization: Bearer abc.def", "Authorization: [hidden]"),
        ("dial 10.0.0.1:8080 failed", "dial [hidden] failed"),
        ("dial [fe80:0:0:0:1:2:3:4]:80 failed", "dial [hidden] failed"),
        ("AIzaSyA1234567890abcdefghijk is bad", "[hidden] is bad"),
        ("x" * 40, "[hidden]"),
        ("image.png and parameters.n are wrong", "image.png and parameters.n are wrong"),
        ("safety_violations=[violence, self-harm]", "safety_violations=[violence, self-harm]"),
        ('boom\n  File "/srv/app/main.py", line 3', "boom"),
        ("bell\x07 and\x1b[31m colour", "bell and[31m colour"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_secrets_are_masked_and_words_stay(text: str, clean: str) -> None:
    """Keys, hosts, addresses and traces are hidden; file names, fields and reasons stay readable."""
    assert redact(text) == clean


def test_a_long_text_is_cut() -> None:
    """An upstream cannot make our answers long."""
    assert len(redact("word " * 1000)) == LONGEST
