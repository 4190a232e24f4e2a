from __future__ import annotations

import ast
import inspect
import re
import unittest
from pathlib import Path
from typing import Any

README = Path(__file__).parent.parent / "README.md"


class Readme(unittest.IsolatedAsyncioTestCase):
    async def test_the_plugin_of_the_readme_passes_its_test(self) -> None:
        blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        plugin = next(block for block in blocks if block.startswith("# plugin.py"))
        test = next(block for block in blocks if "PluginTester" in block)
        names: dict[str, Any] = {"__name__": "plugin"}
        exec(plugin, names)
        code = compile(test, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        self.assertTrue(code.co_flags & inspect.CO_COROUTINE)
        await eval(code, names)
