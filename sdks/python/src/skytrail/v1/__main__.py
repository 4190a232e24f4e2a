"""`python -m skytrail.v1 plugin.py`."""

try:
    import skygear as _  # noqa: F401
except ImportError:
    raise SystemExit("the runtime of v1 is needed: pip install skygear==1.7.1") from None

from .bridge import main

main()
