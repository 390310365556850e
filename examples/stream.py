"""Watch a picture come: a gateway streams three previews and the picture into the folder `stream`, and it ends."""

import base64
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn
from _thumbnail import thumbnail
from openai import OpenAI

from amux_asgi import ChannelConfig, KeyConfig, ModelConfig, images_app

KEY = os.environ["AMUX_KEY"]  # python3 -m examples makes one on first start
FOLDER = Path("stream")

paced = ModelConfig(name="gpt-image-2", upstream="sandbox-paced", like="gpt-image-2")  # an event a second, to watch
sandbox = ChannelConfig(name="sandbox", adapter="sandbox", models=(paced,))
images = images_app(channels=[sandbox], keys=[KeyConfig(name="me", key=KEY)])

listening = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(images, log_level="warning"))
serving = threading.Thread(target=server.run, args=([listening],), daemon=True)
serving.start()

FOLDER.mkdir(exist_ok=True)
client = OpenAI(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", api_key=KEY)
prompt, begun = "a red paper lantern over a canal at dusk", time.monotonic()
for event in client.images.generate(model="gpt-image-2", prompt=prompt, stream=True, partial_images=3):
    is_preview = event.type == "image_generation.partial_image"
    file = FOLDER / (f"partial-{event.partial_image_index}.png" if is_preview else "final.png")
    file.write_bytes(base64.b64decode(event.b64_json))
    print(f"{time.monotonic() - begun:5.1f} s  {file.name}  {file.stat().st_size:,} bytes{thumbnail(file)}", flush=True)

print("they are in", FOLDER.resolve())
server.should_exit = True
serving.join()
