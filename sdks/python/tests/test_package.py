from __future__ import annotations

import unittest
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
REPOSITORY = PACKAGE.parent.parent


class Package(unittest.TestCase):
    @unittest.skipUnless((REPOSITORY / "sdks").is_dir(), "not in the repository")
    def test_the_licence_is_that_of_the_repository(self) -> None:
        # A link to it would not survive in a source distribution.
        own = (PACKAGE / "LICENSE").read_bytes()
        self.assertEqual(own, (REPOSITORY / "LICENSE").read_bytes())
