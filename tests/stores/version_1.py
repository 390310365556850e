"""A database as the first version made it, with money in it."""

from typing import Final

from amux_asgi.stores.sql.engine import open_engine

TABLES: Final = """
CREATE TABLE answers (claim TEXT NOT NULL, fingerprint TEXT NOT NULL, owner TEXT NOT NULL, expires BIGINT NOT NULL,
    facts {bytes}, body {bytes}, PRIMARY KEY (claim));
CREATE INDEX answers_expires ON answers (expires);
CREATE INDEX answers_owner ON answers (owner) WHERE body IS NULL;
CREATE TABLE grants (id TEXT NOT NULL, wallet TEXT NOT NULL, amount BIGINT NOT NULL, note TEXT NOT NULL,
    at BIGINT NOT NULL, PRIMARY KEY (id)){end};
CREATE INDEX grants_wallet ON grants (wallet, at);
CREATE TABLE keys (id TEXT NOT NULL, digest {bytes} NOT NULL, last_four TEXT NOT NULL, name TEXT NOT NULL,
    account TEXT NOT NULL, budget TEXT, models TEXT, passthrough TEXT NOT NULL, networks TEXT,
    disabled BOOLEAN NOT NULL, expires BIGINT, created BIGINT NOT NULL, PRIMARY KEY (id)){end};
CREATE INDEX keys_name ON keys (name);
CREATE TABLE numbers (name TEXT NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name)){end};
CREATE TABLE owners (id TEXT NOT NULL, beats BIGINT NOT NULL, dead BOOLEAN NOT NULL, PRIMARY KEY (id)){end};
CREATE TABLE usage (id TEXT NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL, account TEXT NOT NULL,
    "key" TEXT NOT NULL, budget TEXT, amount BIGINT NOT NULL, charged BIGINT NOT NULL, cost BIGINT, model TEXT,
    channel TEXT, request_id TEXT, attempts TEXT, images INTEGER NOT NULL, input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL, begun BIGINT NOT NULL, ended BIGINT, PRIMARY KEY (id),
    CONSTRAINT at_most_held CHECK (charged >= 0 AND charged <= amount)){end};
CREATE INDEX usage_account ON usage (account, id);
CREATE INDEX usage_held ON usage (owner) WHERE state = 'held';
CREATE TABLE wallets (id TEXT NOT NULL, available BIGINT NOT NULL, held BIGINT NOT NULL, captured BIGINT NOT NULL,
    granted BIGINT NOT NULL, credit BIGINT, PRIMARY KEY (id),
    CONSTRAINT adds_up CHECK (granted = available + held + captured),
    CONSTRAINT not_negative CHECK (held >= 0 AND captured >= 0),
    CONSTRAINT floor CHECK (credit IS NULL OR (credit >= 0 AND available >= -credit))){end};
"""
DIALECTS: Final = {
    "sqlite": {"bytes": "BLOB", "end": " WITHOUT ROWID"},
    "postgresql": {"bytes": "BYTEA", "end": ""},
}
HOLD: Final = """
INSERT INTO usage (id, owner, state, account, "key", budget, amount, charged, images, input_tokens, output_tokens,
    model, request_id, begun) VALUES ('{id}', 'old', 'held', 'a', 'k', NULL, 10, 0, 0, 0, 0, 'm', 'r', 1)
"""
CAPTURE: Final = """
UPDATE usage SET state = 'captured', charged = 6, cost = 5, channel = 'c', attempts = NULL, images = 1,
    input_tokens = 0, output_tokens = 0, ended = 2 WHERE id = '{id}'
"""
SWEEP: Final = """
UPDATE usage SET state = 'swept', charged = 0, cost = NULL, channel = NULL, attempts = NULL, images = 0,
    input_tokens = 0, output_tokens = 0, ended = 2 WHERE id = '{id}'
"""
FACTS: Final = (
    "INSERT INTO numbers VALUES ('schema', 1), ('revision', 0)",
    "INSERT INTO owners VALUES ('old', 7, false)",
    "INSERT INTO wallets VALUES ('account:a', 84, 10, 6, 100, 0)",
    HOLD.format(id="gen_held"),
    HOLD.format(id="gen_done"),
    CAPTURE.format(id="gen_done"),
)


def write(url: str, *statements: str) -> None:
    """Do as a process of that version does."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def make(url: str) -> None:
    """Make a database of that version, where a process that is gone held ten and captured six of a hundred."""
    tables = TABLES.format_map(DIALECTS[url.partition(":")[0]])
    write(url, *(table for table in tables.split(";") if table.strip()), *FACTS)
