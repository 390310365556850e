"""What is named in words is found, or the message says what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from amux_asgi import plugins
from amux_asgi.errors import ConfigError


def test_a_module_and_an_attribute_are_found() -> None:
    """Both forms of a name."""
    assert plugins.load("amux_asgi.errors:ConfigError") is ConfigError
    assert plugins.load("amux_asgi.errors").ConfigError is ConfigError


@pytest.mark.parametrize(
    ("name", "part"), [("nowhere.at_all:x", "no module 'nowhere'"), ("amux_asgi.errors:Nothing", "has no 'Nothing'")]
)
def test_what_is_not_there_is_named(name: str, part: str) -> None:
    """The module, or the attribute."""
    with pytest.raises(ConfigError, match=part):
        plugins.load(name)


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("amux_asgi.transport.aiohttp", "aiohttp", "fast"),
        ("amux_asgi.transport.direct", "aiohappyeyeballs", "fast"),
        ("amux_asgi.transport.direct", "httptools", "fast"),
        ("amux_asgi.commands", "typer", "cli"),
        ("amux_asgi.server", "uvicorn", "standalone"),
        ("amux_asgi.sandbox", "PIL", "sandbox"),
        ("amux_asgi.stores.objects", "obstore", "s3"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(module: str, missing: str, extra: str) -> None:
    """In an environment without it."""
    code = f"import sys; sys.modules[{missing!r}] = None; from amux_asgi import plugins; plugins.load({module!r})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert f'{missing} is not installed: pip install "amux-asgi[{extra}]"' in done.stderr


def test_an_adapter_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """An installed package offers one under the group's name."""
    package = tmp_path / "other-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[amux_asgi.adapters]\nmine = other:MINE\nwrong = other:WRONG\n")
    (tmp_path / "other.py").write_text(
        "from amux_asgi.adapters.openai import COMPATIBLE\nfrom msgspec.structs import replace\n"
        "MINE = replace(COMPATIBLE, name='mine')\nWRONG = 5\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom amux_asgi import plugins, ConfigError\n"
        "print(plugins.adapter('mine').name, plugins.adapter('nobody'))\n"
        "try:\n    plugins.adapter('wrong')\nexcept ConfigError as error:\n    print(error)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["mine None", "'other:WRONG', offered as the adapter 'wrong', is no Adapter"]
