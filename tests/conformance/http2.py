"""Runs all HTTP/2 cases against one server: http2.py HOST:PORT RESULT.json [--tls] [--known]

The server answers as tests/it/real_clients/node_server.mjs does, or passes requests on to one that does.
The exit code is 1 if a case failed."""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import http2_messages
from http2_wire import Connection, Skip, Wrong
from known import borne


@dataclass
class Target:
    host: str
    port: int
    tls: bool


def run(target, check):
    connection = None
    try:
        connection = Connection(target)
        check(connection)
        return "passed"
    except Skip as why:
        return f"skipped: {why}"
    except Wrong as why:
        return f"failed: {why}"
    except Exception as why:  # a case that cannot be judged is not passed
        return f"failed: {type(why).__name__}: {why}"
    finally:
        if connection:
            connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("result")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--known", action="store_true", help="bear the failures that known.py names")
    parser.add_argument("--only", default="", help="a part of the names of cases")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    target = Target(host, int(port), options.tls)
    cases = [(f"{section} {name}", check) for section, name, check in http2_messages.CASES]
    cases = [(name, check) for name, check in cases if options.only in name]
    names = [name for name, _ in cases]
    assert cases and len(set(names)) == len(names), "names of cases"
    with ThreadPoolExecutor(8) as pool:
        results = dict(zip(names, pool.map(lambda one: run(target, one[1]), cases)))
    with open(options.result, "w") as file:
        json.dump(results, file, indent=1)
    wrong = {name: result for name, result in results.items() if result.startswith("failed")}
    wrong = {name: result for name, result in wrong.items() if not (options.known and borne("http2", name))}
    for name, result in wrong.items():
        print(f"{name}: {result}")
    print(len(results), "cases,", len(wrong), "failed")
    sys.exit(bool(wrong))


main()
