"""Named checks, reported one per line: `ok`, or `failed` and why, separated by tabs."""

import traceback

CHECKS = []


def check(name):
    """Registers a function as a check."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def run():
    for name, function in CHECKS:
        try:
            function()
            words = ["ok", name]
        except Exception:
            why = " | ".join(traceback.format_exc().splitlines()[-12:])
            words = ["failed", name, why.replace("\t", " ")]
        print("\t".join(words), flush=True)
    print("end", flush=True)


def result(answer):
    """Returns an answer's result, or fails with its error."""
    assert "error" not in answer, answer["error"]
    return answer.get("result")


def refused(code, answer):
    """Returns the error of an answer, which must have this code."""
    assert answer.get("error", {}).get("code") == code, answer
    return answer["error"]
