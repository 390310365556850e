"""nginx: a configuration that keeps all it writes in one folder."""

import os
from pathlib import Path
from typing import Final

MAIN: Final = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
{user}
pid "{folder}/nginx.pid";
error_log "{folder}/error.log";
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path "{folder}/body";
    proxy_temp_path "{folder}/proxy";
    fastcgi_temp_path "{folder}/fastcgi";
    uwsgi_temp_path "{folder}/uwsgi";
    scgi_temp_path "{folder}/scgi";
    {servers}
}}
"""


def configuration(folder: Path, servers: str) -> Path:
    """Write it, and give the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nginx.conf"
    user = "user root root;" if os.geteuid() == 0 else ""  # so that its workers may read the folder
    file.write_text(MAIN.format(folder=folder, user=user, servers=servers))
    return file
