"""Runs the services of docker-compose.yml on this machine, without containers.

compose.py SKYTRAIL PYTHON DATABASE-URL PORT: the programs, a database that replaces the file's one,
and a port that replaces 3000. If it fails, it prints one sentence.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SKYTRAIL, PYTHON, DATABASE_URL, PORT = sys.argv[1:]
REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 60


def here(text, folder):
    """Returns a string of the file with this machine's paths and addresses."""
    replacements = {
        "/run/secrets": f"{folder}/secrets",
        "skytrail:3000": f"127.0.0.1:{PORT}",
        "127.0.0.1/3000": f"127.0.0.1/{PORT}",
        "$$": "$",
        "exec python": f"exec {PYTHON}",
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def start(arguments, environment):
    path = {"PATH": os.environ["PATH"]}
    return subprocess.Popen(arguments, env=path | environment, cwd=REPOSITORY)


def check(service, folder, environment):
    """Runs a service's health check once; returns whether it passes."""
    command = [here(word, folder) for word in service["healthcheck"]["test"]]
    assert command.pop(0) == "CMD", command
    if command[0] == "python":
        command[0] = PYTHON
    return start_quietly(command, environment).returncode == 0


def start_quietly(command, environment):
    path = {"PATH": "/usr/lib/postgresql/15/bin:" + os.environ["PATH"]}
    return subprocess.run(
        command, env=path | environment, cwd=REPOSITORY, capture_output=True, timeout=DEADLINE
    )


def await_health(name, service, folder, environment, process):
    deadline = time.monotonic() + DEADLINE
    while not check(service, folder, environment):
        assert process.poll() is None, f"{name} ended: {process.returncode}"
        assert time.monotonic() < deadline, f"{name} is not healthy within {DEADLINE} s"
        time.sleep(0.1)


def environment_of(service, folder):
    return {name: here(str(text), folder) for name, text in service["environment"].items()}


def main(folder):
    subprocess.run(["sh", REPOSITORY / "examples/compose/secrets.sh"], cwd=folder, check=True)
    secrets = Path(folder) / "secrets"
    password = (secrets / "postgres_password").read_text()
    url = (secrets / "database_url").read_text()
    assert url == f"postgres://skytrail:{password}@database/skytrail", url
    assert secrets.stat().st_mode & 0o77 == 0, "others can read the secrets"
    configured = subprocess.run(
        ["docker-compose", "config"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    file = yaml.safe_load(configured.stdout)
    services = file["services"]
    assert set(services) == {"skytrail", "plugin", "database"}, services.keys()
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "healthcheck" in service, name
        for secret in service["secrets"]:
            assert "file" in file["secrets"][secret["source"]], secret
    stages = (REPOSITORY / "Dockerfile").read_text().split("\nFROM ")[1:]
    # The first stage only builds.
    assert len(stages) == 3 and all("\nUSER " in stage for stage in stages[1:])

    (secrets / "database_url").write_text(DATABASE_URL + "\n")
    query = dict(part.split("=") for part in DATABASE_URL.split("?")[1].split("&"))
    assert check(services["database"], folder, {"PGHOST": query["host"]}), "database"

    server = services["skytrail"]
    environment = environment_of(server, folder)
    environment |= {"DATA_DIR": f"{folder}/data", "HOST": f"127.0.0.1:{PORT}"}
    assert not check(server, folder, environment), "healthy before it is there"
    skytrail = start([SKYTRAIL, "serve"], environment)
    worker = None
    try:
        await_health("skytrail", server, folder, environment, skytrail)
        plugin = services["plugin"]
        settings = environment_of(plugin, folder)
        assert not check(plugin, folder, settings), "healthy before it is there"
        worker = start([here(word, folder) for word in plugin["command"]], settings)
        await_health("plugin", plugin, folder, settings, worker)
    finally:
        for process in filter(None, (worker, skytrail)):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=DEADLINE)
    assert skytrail.returncode == 0, f"skytrail ended with {skytrail.returncode}"


with tempfile.TemporaryDirectory() as made:
    main(made)
