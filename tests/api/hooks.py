"""What the tester must know that no description says: which version of a resource it changes, and who it is itself.

A change names the ETag of what it replaces. One that is made up fits nothing, so every change would be refused before
anybody looks at it, and sequences of calls would come to nothing. Four changes in five get the ETag that is true at that
moment; the fifth stays as it was made. Counts what was answered, for summary.py.
"""

import atexit
import collections
import itertools
import json
import os
import threading

import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.transport.prepare import prepare_path

ADMIN = os.environ["ADMIN_URL"]
AUTHORIZATION = {"Authorization": f"Bearer {os.environ['ADMIN_TOKEN']}"}
CALLS = os.environ["TOLLGATE_TEST_CALLS"]
# Seconds that a call of ours may take.
PATIENCE = 30
# How many changes there are to one whose precondition is left as it was made.
TRUE_ETAGS = 4

changes = itertools.count()
answers = collections.defaultdict(collections.Counter)
lock = threading.Lock()


def own_token():
    """The id of the token that the tester has: without it every call would be refused."""
    tokens = requests.get(f"{ADMIN}/v1/tokens", headers=AUTHORIZATION, timeout=PATIENCE)
    tokens.raise_for_status()
    items = tokens.json()["items"]
    assert len(items) == 1, f"a new demo has one token, and not {items}"
    return items[0]["id"]


OWN_TOKEN = own_token()


def names_a_version(case):
    return case.method.upper() in ("PUT", "PATCH", "DELETE") and any(
        parameter.name.lower() == "if-match" for parameter in case.operation.headers
    )


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path.startswith("/v1/tokens/") and OWN_TOKEN in str(case.path_parameters.get("id")):
        case.path_parameters["id"] = "another"
    # A case that is about a missing or malformed precondition keeps it.
    if not names_a_version(case) or case.meta is None or case.meta.is_negative_at(ParameterLocation.HEADER):
        return
    if next(changes) % (TRUE_ETAGS + 1) == TRUE_ETAGS:
        return
    url = ADMIN + prepare_path(case.path, case.path_parameters)
    current = requests.get(url, headers=AUTHORIZATION, timeout=PATIENCE)
    if current.status_code == 200:
        case.headers.pop("If-None-Match", None)
        case.headers["If-Match"] = current.headers["ETag"]
    elif case.method.upper() == "PUT":
        case.headers.pop("If-Match", None)
        case.headers["If-None-Match"] = "*"


@schemathesis.hook
def after_call(context, case, response):
    # Calls with a method that the description does not have say nothing of its operations.
    if case.method.upper() == case.operation.method.upper():
        with lock:
            answers[case.operation.label][response.status_code] += 1


@atexit.register
def write():
    with open(CALLS, "w", encoding="utf-8") as file:
        json.dump(answers, file, indent=1, sort_keys=True)
