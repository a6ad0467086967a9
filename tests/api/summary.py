"""Says what scripts/api-test came to, and whether it was worth something. Usage: summary.py FOLDER whole|part

Fails on a finding, and, of a whole test, on an operation that was never seen to succeed: a tester that is refused
everywhere finds nothing, and must not look like success. The last line is cargo's, for scripts/test to count.
"""

import collections
import json
import pathlib
import sys


def main(folder, extent):
    # Where a run ended in an error of the tester's own, its report is empty.
    runs = {file.parent.name: json.loads(file.read_text() or "{}") for file in sorted(folder.glob("*/run.json"))}
    answers = collections.defaultdict(collections.Counter)
    for file in folder.glob("*/calls.json"):
        for operation, counts in json.loads(file.read_text()).items():
            answers[operation].update(counts)
    problems, found = [], set()
    for name, run in runs.items():
        if not run:
            problems.append(f"{name} left no report")
            continue
        for failure in run["failures"]:
            problems.append(f"{name}: {failure['title']}: {', '.join(failure['operations'])}")
            found.update(failure["operations"])
        problems += [f"{name}: {error}" for error in run["errors"]]
        problems += [] if run["complete"] else [f"{name} did not come to its end"]
    if extent == "whole" and runs.get("operations"):
        tested = runs["operations"]["operations"]
        if tested["tested"] < tested["total"]:
            problems.append(f"{tested['tested']} of {tested['total']} operations were tested")
        wasted = {operation for operation, counts in answers.items() if min(counts) >= "400"}
        problems += [f"never seen to succeed: {operation}" for operation in sorted(wasted)]
        found |= wasted

    width = max(map(len, answers), default=0)
    for operation, counts in sorted(answers.items(), key=lambda item: item[0].split(" ")[::-1]):
        print(f"  {operation:{width}}  " + "  ".join(f"{status}: {count}" for status, count in sorted(counts.items())))
    print(f"{sum(counts.total() for counts in answers.values())} calls")
    for problem in problems:
        print(problem)
    verdict, failed = ("FAILED", max(len(found), 1)) if problems else ("ok", 0)
    passed = len(answers.keys() - found)
    print(f"test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; operations of the admin API")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2]))
