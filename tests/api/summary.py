"""Says what a run of scripts/api-test came to, and whether it was worth something. Usage: summary.py FOLDER whole|part

Fails on a finding, and, of a whole run, on an operation that was never seen to succeed: a tester that is refused
everywhere finds nothing, and must not look like success. The last line is cargo's, for scripts/test to count.
"""

import json
import pathlib
import sys

# Operations that nothing a tester makes up can bring to success, and why.
NEVER_SEEN = {}


def main(folder, extent):
    run = json.loads((folder / "run.json").read_text())
    calls = json.loads((folder / "calls.json").read_text())
    found = {operation for failure in run["failures"] for operation in failure["operations"]}
    wasted = set()
    width = max(map(len, calls), default=0)
    for operation, answers in sorted(calls.items(), key=lambda item: item[0].split(" ")[::-1]):
        seen = "  ".join(f"{status}: {count}" for status, count in sorted(answers.items()))
        if not any(status < "400" for status in answers) and operation not in NEVER_SEEN:
            wasted.add(operation)
        print(f"  {operation:{width}}  {seen}")
    print(f"{sum(sum(answers.values()) for answers in calls.values())} calls; seed: {run['seed']}")
    problems = [f"{failure['title']}: {', '.join(failure['operations'])}" for failure in run["failures"]]
    problems += [f"error: {error}" for error in run["errors"]]
    if extent == "whole":
        problems += [f"never seen to succeed: {operation}" for operation in sorted(wasted)]
        operations = run["operations"]
        if not run["complete"] or operations["tested"] < operations["total"]:
            problems.append(f"{operations['tested']} of {operations['total']} operations were tested")
    else:
        wasted = set()
    for problem in problems:
        print(problem)
    failed = len(found | wasted) or bool(problems)
    verdict = "FAILED" if problems else "ok"
    passed = len(calls.keys() - found - wasted)
    print(f"test result: {verdict}. {passed} passed; {failed:d} failed; 0 ignored; operations of the admin API")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2]))
