"""The official OpenAI SDK for Python, asking the gateway that runs in another terminal: writes sandbox.png."""

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("AMUX_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ["AMUX_KEY"],
)
answer = client.images.generate(
    model="gpt-image-2", prompt="a red paper lantern over a canal at dusk", size="1024x1024"
)
for picture in answer.data or []:
    if picture.b64_json:
        Path("sandbox.png").write_bytes(base64.b64decode(picture.b64_json))
        print("wrote sandbox.png,", answer.usage.total_tokens if answer.usage else 0, "tokens")
