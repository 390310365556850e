"""The gateway standalone, on the sandbox: no account, no vendor's key. Prints a curl line that makes a picture."""

import os
import subprocess
import sys
from pathlib import Path

from amux_asgi.keys import make_key

HERE = Path(__file__).parent
PORT = os.environ.get("PORT", "8000")


def key() -> str:
    """Give the key that was made on first start; only this user can read its file."""
    file = HERE.parent / ".cache" / "example-key"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(make_key())
    return file.read_text()


print(
    f"The gateway listens on http://127.0.0.1:{PORT} (Ctrl+C ends it). In another terminal, this makes lantern.png:\n"
)
print(f"""curl -s http://127.0.0.1:{PORT}/v1/images/generations \\
  -H 'Authorization: Bearer {key()}' -H 'Content-Type: application/json' \\
  -d '{{"prompt": "a red paper lantern over a canal at dusk"}}' |
  python3 -c "import base64, json, sys
picture = json.load(sys.stdin)['data'][0]['b64_json']
open('lantern.png', 'wb').write(base64.b64decode(picture))"
""")
sys.stdout.flush()
command = [sys.executable, "-m", "amux_asgi", "serve", "--config", HERE / "amux.toml", "--port", PORT]
try:
    subprocess.run(command, env={**os.environ, "AMUX_KEY": key()}, check=True)
except KeyboardInterrupt:
    print("ended")
