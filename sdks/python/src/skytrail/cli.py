"""`skytrail-plugin plugin.py`: loads a plugin's files and runs the plugin."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import skytrail

from .plugin import Plugin, log_level


def load(path: Path) -> ModuleType:
    """Imports a file; it can import modules from its own folder."""
    path = path.resolve()
    if not path.is_file():
        raise SystemExit(f"no such file: {path}")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def find(modules: list[ModuleType]) -> Plugin:
    """Returns the plugin that the files define.

    The package's own plugin counts only if functions were registered with it. An empty one would
    run instead of a plugin that a file created but did not keep in a variable.
    """
    found = [] if skytrail.plugin.points.is_empty else [skytrail.plugin]
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Plugin) and value is not skytrail.plugin and value not in found:
                found.append(value)
    if not found:
        names = ", ".join(str(module.__file__) for module in modules)
        raise SystemExit(f"{names} registers nothing: assign your plugin to a variable of the file")
    if len(found) > 1:
        raise SystemExit(f"{len(found)} plugins: a process can run only one")
    return found[0]


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="skytrail-plugin",
        description="Runs a plugin until SIGTERM or SIGINT.",
        epilog="Environment: SKYGEAR_ENDPOINT, MASTER_KEY, PLUGIN_NAME, PLUGIN_WINDOW, "
        "PLUGIN_GENERATION, PLUGIN_MAX_MESSAGE, LOG_LEVEL. The master key has no option, because "
        "everybody on the machine can read a program's arguments.",
    )
    add = arguments.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="the plugin's files")
    add("--name", help="the plugin's name in the server's PLUGINS (PLUGIN_NAME)")
    add("--endpoint", help="the server's address (SKYGEAR_ENDPOINT)")
    add("--window", type=int, help="how many requests to handle at once (16)")
    add("--generation", type=int, help="the deployment; a higher one replaces a lower one (0)")
    add("--log-level", help="DEBUG, INFO, WARNING, ERROR, or OFF (LOG_LEVEL, INFO)")
    add("--collect-assets", type=Path, metavar="FOLDER", help="copy static assets there and exit")
    return arguments


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    given = parser().parse_args(arguments)
    try:
        if given.log_level:
            level = log_level(given.log_level, "--log-level")
            logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
        else:
            log_level(os.environ.get("LOG_LEVEL"), "LOG_LEVEL")
    except ValueError as error:
        raise SystemExit(str(error)) from None
    plugin = find([load(path) for path in given.files])
    if given.collect_assets is not None:
        plugin.assets.collect(given.collect_assets)
        return
    for name in ("name", "endpoint", "window", "generation"):
        value = getattr(given, name)
        if value is not None:
            setattr(plugin, name, value)
    try:
        plugin.options()
    except ValueError as error:
        raise SystemExit(str(error)) from None
    plugin.run()
