"""The results of all suites as tables in Markdown: report.py FOLDER

FOLDER holds SUITE/LANE.json, each a case's name and its result: passed, skipped: why, or failed: why. Autobahn's own
index.json files are read, too: SUITE/LANE/index.json. The exit code is 1 if Outrigger fails a case that is not in known.py;
of Autobahn's cases, one that passes directly."""

import json
import pathlib
import sys

from known import borne

LANES = ["direct", "outrigger", "outrigger-tls", "haproxy", "haproxy-tls", "nginx", "nginx-tls"]
FINE = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}


def autobahn(file):
    """The strictest of both verdicts: on the messages, and on the close."""
    (cases,) = json.loads(file.read_text()).values()

    def result(case):
        verdict = f"{case['behavior']}, close {case['behaviorClose']}"
        if case["behavior"] == "UNIMPLEMENTED":
            return f"skipped: {verdict}"
        good = case["behavior"] in FINE and case["behaviorClose"] in FINE
        return "passed" if good else f"failed: {verdict}"

    return {name: result(case) for name, case in cases.items()}


def order(name):
    """Cases of Autobahn by their numbers, all others as they came."""
    return [int(part) for part in name.split(".")] if name.replace(".", "").isdigit() else [0]


def lanes(folder):
    found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    found |= {file.parent.name: autobahn(file) for file in folder.glob("*/index.json")}
    return {lane: found[lane] for lane in LANES if lane in found} | {
        lane: found[lane] for lane in sorted(found) if lane not in LANES}


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def main():
    wrong = 0
    for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
        results = lanes(folder)
        if not results:
            continue
        names = sorted({name: 0 for lane in results.values() for name in lane}, key=order)
        print(f"\n### {folder.name}: {len(names)} cases\n")
        print("| | " + " | ".join(results) + " |")
        print("|---|" + "---|" * len(results))
        for what in ("passed", "failed", "skipped"):
            counts = [sum(lane.get(name, "skipped").startswith(what) for name in names) for lane in results.values()]
            if any(counts):
                print(f"| {what} | " + " | ".join(map(str, counts)) + " |")
        failures = [name for name in names if any(lane.get(name, "").startswith("failed") for lane in results.values())]
        if failures:
            print("\n| case | " + " | ".join(results) + " |")
            print("|---|" + "---|" * len(results))
        for name in failures:
            row = [lane.get(name, "not run") for lane in results.values()]
            shown = ["✓" if one == "passed" else one.removeprefix("failed: ") for one in row]
            print(f"| {cell(name)} | " + " | ".join(map(cell, shown)) + " |")
        if "outrigger" not in results:
            print("\nOutrigger's run did not end in time.")
            wrong += len(names)
        for lane, cases in results.items():
            if not lane.startswith("outrigger"):
                continue
            for name in names:
                direct = results.get("direct", {}).get(name, "passed") if folder.name == "websocket" else "passed"
                failed = cases.get(name, "failed: not run").startswith("failed")
                if failed and direct == "passed" and not borne(folder.name, name):
                    wrong += 1
    print(f"\nOutrigger fails {wrong} cases that it should pass (tests/conformance/known.py names those that are borne).")
    sys.exit(wrong > 0)


main()
