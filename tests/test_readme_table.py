"""What the README says of each adapter is what the code does."""

from amux_asgi.adapters import ADAPTERS
from amux_asgi.models import CATALOGUE
from tests.readme_table import README, SERVED, block, table


def test_the_readme_says_of_every_adapter_what_it_does() -> None:
    """The table between the marks is the generated one: `python -m tests.readme_table` writes it anew."""
    assert block(README.read_text(encoding="utf-8")) == table()


def test_every_adapter_has_a_row_and_every_model_an_adapter() -> None:
    """No vendor is forgotten."""
    rows = table().splitlines()[2:]
    begin = tuple(prefix for name in ADAPTERS for prefix in SERVED.get(name, ()))

    assert [row.split("`")[1] for row in rows] == list(ADAPTERS)
    assert [model for model in CATALOGUE if not model.lower().startswith(begin)] == []
