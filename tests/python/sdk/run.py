"""Drives the unmodified published Python SDK (PyPI `skygear` 1.7.1) as a client:

    SKYGEAR_ENDPOINT=… API_KEY=… MASTER_KEY=… ASSET_STORE_SECRET=… ASSET_STORE_URL_PREFIX=… \
        python run.py

Prints the result of each check (`harness.py`), and finally `end`.
"""

import logging

import accounts  # noqa: F401
import files  # noqa: F401
import messages  # noqa: F401
import records  # noqa: F401
from harness import run

# The SDK warns about its own deprecated function, which is checked all the same.
logging.disable(logging.ERROR)
run()
