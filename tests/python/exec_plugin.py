"""A plugin for the exec transport that does what a test asks, good or bad."""
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
    """Writes more than a pipe holds to both outputs, to standard error first."""
    for _ in range(3000):
        print("x" * 100, file=sys.stderr)
    return "y" * 300_000


def hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("pids", "w", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()} {child.pid} .")
    time.sleep(600)


def floods():
    """Writes without end, even if nobody reads."""
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
    """Answers and exits; a child process keeps running with all pipes."""
    subprocess.Popen([sys.executable, "-c", JOB, name])
    return "left"


def detaches():
    """Answers and exits; a child process keeps running with no pipe."""
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
