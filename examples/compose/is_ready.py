"""Reports by its exit code whether a plugin is connected: is_ready.py NAME FILE-OF-MASTER-KEY"""

import json
import os
import sys
import urllib.request


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes the master key go to the configured address, and nowhere else."""

    def redirect_request(self, *_):
        return None


name, key_file = sys.argv[1:]
with open(key_file, encoding="utf-8") as file:
    key = file.read().strip()
request = urllib.request.Request(
    os.environ["SKYGEAR_ENDPOINT"] + "/plugin/list",
    data=b"{}",
    headers={"X-Skygear-API-Key": key, "Content-Type": "application/json"},
)
with urllib.request.build_opener(NoRedirects).open(request, timeout=4) as answer:
    plugins = json.load(answer)["result"]["plugins"]
workers = [worker for plugin in plugins if plugin["name"] == name for worker in plugin["workers"]]
sys.exit(0 if workers else f"no worker of {name} is connected")
