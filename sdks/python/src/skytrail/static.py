"""Files that a plugin serves below `/static/<prefix>/`."""

from __future__ import annotations

import mimetypes
import shutil
from collections.abc import Callable
from pathlib import Path

from .web import Request, Response

HANDLER = "static/"
# The most that fits into a message once it is encoded in base64.
MAX_BYTES = 5 * 1024 * 1024

Loader = Callable[[], "str | Path"]


class StaticAssets:
    """Folders by prefix."""

    def __init__(self, loaders: dict[str, Loader] | None = None) -> None:
        self.loaders = {} if loaders is None else loaders

    def add(self, prefix: str, loader: Loader) -> None:
        prefix = prefix.strip("/")
        if prefix in self.loaders:
            raise ValueError(f"there are already static assets for {prefix!r}")
        self.loaders[prefix] = loader

    def serve(self, request: Request) -> Response:
        """Answers with a file, or with 404."""
        path = request.path.removeprefix("/" + HANDLER)
        file = self.find(path)
        if file is None:
            return Response("not found\n", 404)
        if file.stat().st_size > MAX_BYTES:
            return Response(f"larger than {MAX_BYTES} bytes: collect the assets instead\n", 500)
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(file.read_bytes(), content_type=content_type)

    def find(self, path: str) -> Path | None:
        """Returns the file at a path; never one outside the folders."""
        for prefix in sorted(self.loaders, key=len, reverse=True):
            if prefix and not path.startswith(prefix + "/"):
                continue
            folder = Path(self.loaders[prefix]()).resolve()
            try:
                file = (folder / path.removeprefix(prefix).lstrip("/")).resolve()
            except (OSError, ValueError):
                return None
            return file if file.is_relative_to(folder) and file.is_file() else None
        return None

    def collect(self, target: Path) -> None:
        """Copies everything to `<target>/static/<prefix>`, for a web server to serve."""
        for prefix, loader in self.loaders.items():
            folder = target / "static" / prefix
            shutil.copytree(Path(loader()), folder, dirs_exist_ok=True)
