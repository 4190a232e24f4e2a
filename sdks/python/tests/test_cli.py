from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PLUGIN = """
import skytrail
from beside import NAME

@skytrail.op(NAME)
def op(): ...

@skytrail.static_assets("demo")
def assets():
    return "assets"
"""


def run(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skytrail", *arguments]
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class CommandLine(unittest.TestCase):
    def test_a_file_is_loaded_with_what_lies_beside_it(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "plugin.py").write_text(PLUGIN)
            Path(folder, "beside.py").write_text("NAME = 'x'")
            Path(folder, "assets").mkdir()
            Path(folder, "assets", "a.txt").write_text("a")
            done = run(folder, "plugin.py", "--collect-assets", "out")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(Path(folder, "out/static/demo/a.txt").read_text(), "a")

    def test_what_is_wrong_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            two = "import skytrail\na = skytrail.Plugin('A')\nb = skytrail.Plugin('B')"
            Path(folder, "two.py").write_text(two)
            nameless = "import skytrail\n@skytrail.event('init')\ndef start(config): ..."
            hidden = "import skytrail\ndef f(): skytrail.Plugin('A').op('a')(lambda: 1)\nf()"
            both = f"{nameless}\na = skytrail.Plugin('A')"
            Path(folder, "both.py").write_text(both)
            Path(folder, "hidden.py").write_text(hidden)
            Path(folder, "nameless.py").write_text(nameless)
            for arguments, complaint in (
                (["none.py"], "no such file"),
                (["two.py"], "2 plugins"),
                (["both.py"], "2 plugins"),
                (["hidden.py", "--name", "X"], "hidden.py registers nothing"),
                (["nameless.py"], "PLUGIN_NAME"),
                (["nameless.py", "--name", "X", "--window", "0"], "window should be"),
                (["nameless.py", "--name", "X", "--log-level", "loud"], "--log-level should be"),
                ([], "FILE"),
            ):
                done = run(folder, *arguments)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(complaint, done.stderr)
                self.assertNotIn("Traceback", done.stderr)
