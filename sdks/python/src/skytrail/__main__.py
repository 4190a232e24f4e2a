"""`python -m skytrail plugin.py`."""

from .cli import main

main()
