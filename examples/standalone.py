"""The gateway standalone, on the sandbox: no account, no vendor's key. Prints a curl line that makes a picture."""

import os
import sys
from pathlib import Path

from amux_asgi.cli import main

CONFIG = Path(__file__).with_name("amux.toml")
PORT = os.environ.get("PORT", "8000")
KEY = os.environ["AMUX_KEY"]  # python3 -m examples makes one on first start

print(f"The gateway listens on http://127.0.0.1:{PORT} (PORT=... for another); its key is {KEY}; Ctrl+C ends it.")
print(
    f"""In another terminal, this makes lantern.png:

curl -s http://127.0.0.1:{PORT}/v1/images/generations \\
  -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' \\
  -d '{{"prompt": "a red paper lantern over a canal at dusk"}}' |
  python3 -c "import base64, json, sys
picture = json.load(sys.stdin)['data'][0]['b64_json']
open('lantern.png', 'wb').write(base64.b64decode(picture))"
""",
    flush=True,
)
sys.argv[1:] = ["serve", "--config", str(CONFIG), "--port", PORT]  # as the command `amux-asgi serve ...` does
main()
