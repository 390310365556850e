"""The commands for keys, accounts and usage, as a person or a script runs them."""

import csv
import io
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.command import run

ROOT = Path(__file__).parents[1]
CONFIG = """
[gateway]
database = "sqlite:///{folder}/amux.db"

[[channels]]
name = "openai"
adapter = "openai"
credentials = ["${{A_VENDORS_CREDENTIAL}}"]
models = ["gpt-image-2"]

[[keys]]
name = "fixed"
key = "${{A_KEY_THAT_IS_FIXED}}"
"""


def run_apart(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a process, with pipes for what it says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AMUX_")}
    command = [sys.executable, "-m", "amux_asgi", *arguments]
    env = {**inherited, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def answered(*arguments: str | Path, **environment: str) -> Any:
    done = run(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_says_the_same(file: str) -> None:
    """The other tests here run the commands in their own process; a shell is told the same."""
    commands = [
        ("accounts", "create", "shop", "--balance", "10"),
        ("accounts", "list", "--json"),
        ("accounts", "topup", "shop", "much"),
        ("keys", "lost"),
    ]

    apart = [run_apart(*command, AMUX_DATABASE=file) for command in commands]
    Path(file.removeprefix("sqlite:///")).unlink()
    here = [run(*command, AMUX_DATABASE=file) for command in commands]

    assert [(done.returncode, done.stdout) for done in apart] == [(done.returncode, done.stdout) for done in here]
    assert [done.stderr.splitlines()[-1] for done in apart[::2]] == [done.stderr.splitlines()[-1] for done in here[::2]]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/amux.db"


def test_a_script_makes_keys_and_keeps_them(database: str) -> None:
    """The key alone stands on standard output; all else is said beside it."""
    where = {"AMUX_DATABASE": database}
    made = run(
        *("keys", "create", "web", "--account", "shop", "--models", "gpt-*", "--models", "dall-e-3"),
        *("--passthrough", "speech", "--networks", "10.0.0.0/8", "--expires", "2030-01-01", "--budget", "2.50"),
        **where,
    )
    key = made.stdout.strip()
    shown = answered("keys", "show", key[4:12], **where)
    rolled = run("keys", "roll", key[4:12], "--overlap", "60", "--expires", "never", **where)
    (old, new) = answered("keys", "list", "--account", "shop", **where)
    changed = answered(
        *("keys", "allow", new["id"], "--models", "all", "--passthrough", "none", "--networks", "all"),
        *("--expires", "2031-01-01T00:00:00+01:00", "--budget", "none"),
        **where,
    )
    more = answered("keys", "allow", new["id"], "--passthrough", "speech", "--expires", "never", **where)
    revoked = answered("keys", "revoke", old["id"], **where)

    assert made.stdout == f"{key}\n"
    assert (len(key), key[:4]) == (52, "amx_")
    assert key not in made.stderr
    assert "accounts create shop" in made.stderr  # nobody opened it, so it is only metered
    assert (shown["models"], shown["networks"], shown["budget"]["granted"]) == (
        ["gpt-*", "dall-e-3"],
        ["10.0.0.0/8"],
        "2.50",
    )
    assert (old["id"], new["expires"]) == (key[4:12], None)
    assert rolled.stdout.startswith(f"amx_{new['id']}_")
    assert (changed["models"], changed["passthrough"], changed["networks"], changed["budget"]) == (None, [], None, None)
    assert changed["expires"] == "2030-12-31T23:00:00Z"
    assert (more["passthrough"], more["expires"]) == (["speech"], None)
    assert revoked["state"] == "revoked"


def test_every_answer_can_be_had_as_json(file: str) -> None:
    """What a new key is beside itself, and what a top-up led to."""
    where = {"AMUX_DATABASE": file}
    opened = answered("accounts", "create", "shop", **where)
    made = answered("keys", "create", "web", "--account", "shop", **where)
    topped = answered("accounts", "topup", "shop", "1.5", "--id", "a", **where)
    accounts = answered("accounts", "list", **where)

    assert opened["available"] == "0.00"
    assert (made["key"][4:12], made["unlimited"]) == (made["info"]["id"], False)
    assert (topped["repeated"], topped["account"]) == (False, accounts[0])


def test_a_person_reads_tables(file: str) -> None:
    """No line is broken where a program reads them."""
    where = {"AMUX_DATABASE": file}
    opened = run("accounts", "create", "shop", "--balance", "10", **where)
    key_name = "a-name-that-is-long-enough-to-break-a-line"
    made = run("keys", "create", key_name, "--account", "shop", "--models", "gpt-*", "--models", "dall-e-*", **where)
    key = made.stdout[4:12]
    topped = run("accounts", "topup", "shop", "-2.5", "--note", "a correction, because of [red]that[/red]", **where)
    credit = run("accounts", "credit", "shop", "unlimited", **where)
    free = [run("accounts", "topup", "shop", "1", "--id", "inv-1", **where) for _ in range(2)][1]
    outputs = {
        name: run(*name.split(), **where)
        for name in ("keys list", f"keys show {key}", "accounts list", "accounts show shop", "usage")
    }
    history = run("accounts", "history", "shop", "--limit", "2", **where)
    rest = run("accounts", "history", "shop", "--before", history.stderr.split()[-1], **where)
    revoked = run("keys", "revoke", key, **where)

    assert "made a new database" in opened.stderr
    assert "only metered" not in made.stderr
    assert "7.50" in topped.stdout
    assert "unlimited" in credit.stdout
    assert "inv-1 had counted before" in free.stderr
    assert "without limit" in free.stderr
    assert all(done.returncode == 0 for done in outputs.values())
    (_, line) = outputs["keys list"].stdout.splitlines()
    assert line.split()[:6] == [key, key_name, "shop", "active", "gpt-*,", "dall-e-*"]
    assert f"amx_{key}_..." in outputs[f"keys show {key}"].stdout
    assert outputs["accounts show shop"].stdout.split()[:4] == ["name:", "shop", "available:", "8.50"]
    assert outputs["accounts list"].stdout.splitlines()[1].split() == [
        "shop",
        "8.50",
        "0.00",
        "0.00",
        "8.50",
        "unlimited",
    ]
    assert "requests" in outputs["usage"].stdout
    assert len(history.stdout.splitlines()) == 3
    assert "[red]that[/red]" in rest.stdout
    assert (revoked.stdout, "revoked" in revoked.stderr) == ("", True)


WRONG = [
    (["keys", "list", "--database", "mysql://x"], "there is no store for 'mysql'"),
    (["keys", "list", "--database", "sqlite:////nowhere/at/all.db"], "the database cannot be used"),
    (["keys", "list", "--config", "nowhere.toml"], "nowhere.toml: the file cannot be read"),
    (["keys", "create", "a b"], "'name' is 1 to 64 letters"),
    (["keys", "create", "a", "--expires", "soon"], "'expires' is a date"),
    (["keys", "create", "a", "--budget", "-1"], "'budget' is in US dollars"),
    (["keys", "show", "a"], "there is no key of this id"),
    (["keys", "allow", "a"], "say what is to change"),
    (["keys", "roll", "a", "--expires", "2027-01-01T00:00:00"], "'expires' is a date"),
    (["accounts", "create", "a", "--credit", "much"], "'credit' is in US dollars"),
    (["accounts", "topup", "a", "1"], "there is no such account"),
    (["accounts", "topup", "a", "-x"], "'amount' is in US dollars"),
    (["accounts", "history", "a", "--before", "x"], "there is no such account"),
    (["usage", "--by", "moon"], "'by' is some of account, key, model, channel, day"),
    (["usage", "--since", "tomorrow"], "'since' is a date"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_a_mistake_is_told_on_one_line(arguments: list[str], told: str, file: str) -> None:
    """Exit code 2, and no traceback."""
    done = run(*arguments, AMUX_DATABASE=file)

    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_somebody_must_say_where_the_database_is() -> None:
    """Nothing is guessed."""
    done = run("keys", "list")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "AMUX_DATABASE" in done.stderr


def test_the_configuration_names_the_database_without_its_vendors_credentials(tmp_path: Path) -> None:
    """An operator's shell has no need of them; what an option says counts before a variable."""
    config = tmp_path / "amux.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    taken = run("keys", "create", "fixed", "--config", config, AMUX_DATABASE=f"sqlite:///{tmp_path}/other.db")
    made = run("keys", "create", "web", "--config", config, AMUX_DATABASE=f"sqlite:///{tmp_path}/other.db")
    by_variable = answered("keys", "list", AMUX_CONFIG=str(config))
    by_option = answered("keys", "list", "--database", f"sqlite:///{tmp_path}/amux.db", AMUX_CONFIG="nowhere.toml")

    assert (taken.returncode, "named 'fixed' already" in taken.stderr) == (2, True)
    assert made.returncode == 0
    assert [info["name"] for info in by_variable] == ["web"]
    assert by_option == by_variable


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "[gateway.database] there is none"),
        ('database = "postgresql://u:${A_PASSWORD}@host/db"', "A_PASSWORD is not set"),
    ],
)
def test_a_configuration_that_does_not_lead_to_a_database_says_so(line: str, told: str, tmp_path: Path) -> None:
    """With the file, and the variable that is missing."""
    config = tmp_path / "amux.toml"
    config.write_text(f"[gateway]\n{line}\n")

    done = run("accounts", "list", "--config", config)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr
    assert str(config) in done.stderr


def test_money_is_put_in_and_reported_while_a_gateway_spends_it(database: str) -> None:
    """Two processes on one database: not a cent is lost or made, whatever is repeated."""
    where = {"AMUX_DATABASE": database}
    run("accounts", "create", "shop", "--balance", "0.51", **where)
    run("accounts", "create", "other", "--balance", "7", **where)
    command = [sys.executable, ROOT / "tests" / "stores" / "spend.py", database, "shop", "200"]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "the money is gone\n"
        for number in range(3):
            for _ in range(2):
                run("accounts", "topup", "shop", "0.50", "--id", f"inv-{number}", **where)
        gateway.wait()
    account = answered("accounts", "show", "shop", **where)
    history = answered("accounts", "history", "shop", "--limit", "1000", **where)
    total = answered("usage", "--by", "account", **where)
    others = answered("accounts", "history", "other", **where)
    by_day = run("usage", "--csv", "--by", "key,channel,day", "--account", "shop", "--key", "web", **where)

    assert gateway.returncode == 0
    assert (account["granted"], account["available"], account["held"], account["spent"]) == (
        "2.01",
        "0.01",
        "0.00",
        "2.00",
    )
    assert sum(Decimal(entry["amount"]) for entry in history["data"]) == Decimal("0.01")
    assert len(history["data"]) == 4 + 200
    assert [entry["kind"] for entry in others["data"]] == ["grant"]
    assert [(row["account"], row["requests"], row["images"], row["charged"], row["failed"]) for row in total] == [
        ("shop", 200, 200, "2.00", 0)
    ]
    rows = list(csv.DictReader(io.StringIO(by_day.stdout)))
    assert sum(int(row["requests"]) for row in rows) == 200
    assert {(row["key"], row["channel"], row["unknown_costs"]) for row in rows} == {("web", "", "0")}


def test_all_means_all_when_a_key_is_made(tmp_path: Path) -> None:
    """As it does when a key is changed."""
    where = {"AMUX_DATABASE": f"sqlite:///{tmp_path}/amux.db"}

    made = run(
        "keys", "create", "web", "--models", "all", "--networks", "all", "--passthrough", "none", "--json", **where
    )

    info = json.loads(made.stdout)["info"]
    assert (info["models"], info["networks"], info["passthrough"]) == (None, None, [])
