"""A plugin for the transport exec that does what a test asks, good or bad."""
import json
import os
import subprocess
import sys
import time

at = sys.argv.index("--subprocess")
kind, name = sys.argv[at + 1], sys.argv[at + 2]
names = ("told", "fails", "talks", "hangs", "junk", "large", "floods", "leaves", "detaches")


def told():
    with open("/proc/self/environ", encoding="utf-8") as environment:
        variables = environment.read().rstrip("\0").split("\0")
    return {
        "arguments": sys.argv[1:],
        "environment": dict(variable.split("=", 1) for variable in variables),
        "input": sys.stdin.read(),
    }


def fails():
    print("it went wrong", file=sys.stderr)
    sys.exit(3)


def talks():
    """More than a pipe holds on both, the error first."""
    for _ in range(3000):
        print("x" * 100, file=sys.stderr)
    return "y" * 300_000


def hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("pids", "w", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()} {child.pid} .")
    time.sleep(600)


def floods():
    """Writes without an end, and does not mind that nobody reads."""
    chunk = "x" * 65_536
    while True:
        sys.stdout.write(chunk)


JOB = """
import os, sys, time
for _ in range(2400):
    if os.path.exists(sys.argv[1] + ".go"):
        open(sys.argv[1] + ".done", "w").close()
        break
    time.sleep(0.05)
"""


def leaves():
    """Answers and goes; a job stays, with all pipes."""
    subprocess.Popen([sys.executable, "-c", JOB, name])
    return "left"


def detaches():
    """Answers and goes; a job stays, with no pipe."""
    nothing = subprocess.DEVNULL
    subprocess.Popen([sys.executable, "-c", JOB, name], stdin=nothing, stdout=nothing, stderr=nothing)
    return "left"


if name == "init":
    answer = {"op": [{"name": name} for name in names]}
elif kind != "op":
    answer = None
elif name == "junk":
    print("{\n\"result\": ")
    sys.exit()
elif name == "large":
    answer = "z" * 2_000_000
else:
    answer = globals()[name]()
print(json.dumps({"result": answer}, indent=1))
