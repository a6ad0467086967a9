"""What the tester must know that no description says, so that it gets past the first refusal.

What is made up at random fits nothing that is there: an ETag is never the present one, a cursor never points anywhere, a
body's id is another one than the path's. Each call would be refused before anybody looked at what it is about. So what
must be true at the moment is made true here, in calls that are not about its being wrong; some keep what was made up.
And what the tester destroys is put back: before a sequence of calls, and between calls that belong to no sequence.

Counts what was answered, for summary.py.
"""

import atexit
import collections
import datetime
import functools
import json
import os
import pathlib
import socket
import threading
import time
import uuid
import zlib

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.openapi.checks import UseAfterFree
from schemathesis.transport.prepare import prepare_path

ADMIN = os.environ["ADMIN_URL"]
GATEWAY = os.environ["GATEWAY_URL"]
CALLS = os.environ["TOLLGATE_TEST_CALLS"]
# Seconds that a call of ours may take.
PATIENCE = 30
# One precondition and one idempotency key of so many stays as it was made up.
AS_MADE = 5
# Resources that have others within them, and what names a version of a pack.
WITH_PARTS = ("/v1/tenants/", "/v1/services/")
UPLOADS = "/v1/packs"
LIMIT = {"id": "any", "rate": "1000/s", "per": "tenant", "on_store_error": "open"}
VERSION = {"name": "v9", "upstream": "crm", "state": "active"}
# What nobody refers to: made to be deleted, as the rest can't be.
SPARE = {
    "/v1/pack_keys/{id}": {"id": "spare", "public_key": "ed25519:" + "A" * 43 + "=", "tenants": ["*"]},
    "/v1/packs/{id}/versions/{version}": {"id": "cidr-allow", "version": "1.0.0"},
    "/v1/plans/{id}": {"id": "spare", "limits": []},
    "/v1/services/{id}": {"id": "spare", "select": ["path"], "versions": [VERSION]},
    "/v1/services/{id}/versions/{name}": VERSION,
    "/v1/tenants/{id}": {"id": "spare", "plan": "gold", "state": "active"},
    "/v1/tenants/{id}/consumers/{consumer}": {"id": "spare", "scopes": []},
}
# Another version of a pack of the demo, signed by its key, and where it becomes a candidate.
PACK = pathlib.Path(os.environ["TOLLGATE_TEST_PACK"]).read_bytes()
PACK_KIND = "application/vnd.oci.image.layout.v1.tar"
VERSIONED = {"id": "require-header", "version": "1.1.0"}
ATTACHMENT = "acme-correlation"
ENDPOINT = "acme-projection"
ROLLOUT = {"candidate": "require-header@1.1.0", "mode": "observe", "window": "10m", "min_samples": 1000}
DATUM = "/v1/packs/{id}/data/{key}"
IDEMPOTENCY = "/v1/idempotency/"
RELEASE = "/v1/revisions/{revision}:release"
# The id that examples of decision records speak of.
RECORDED = "0191d6c0-7f6e-7c3a-9d5e-2f4b8c1a6e30"

schemathesis.serializer.alias(PACK_KIND, "application/octet-stream")
session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ['ADMIN_TOKEN']}"
# Whether something is to be put back before the next call that belongs to no sequence.
destroyed = False
# Whether a sequence may have got back what it deleted.
brought_back = False
answers = collections.defaultdict(collections.Counter)


def ask(method, path, status, **arguments):
    answer = session.request(method, ADMIN + path, timeout=PATIENCE, **arguments)
    assert answer.status_code in status, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer


def oldest(path):
    """The last item of a list, which is newest first."""
    query = {"limit": 100}
    while True:
        page = ask("GET", path, [200], params=query).json()
        if page["next_cursor"] is None:
            return page["items"][-1]
        query["cursor"] = page["next_cursor"]


# Without its own token, which is the first one, the tester would be refused everywhere.
OWN_TOKEN = oldest("/v1/tokens")["id"]
NODE = oldest("/v1/nodes")["name"]
# The demo's own.
DOCUMENT = ask("GET", "/v1/revisions/1", [200]).json()["document"]
requests.get(
    f"{GATEWAY}/v2/contacts",
    headers={"X-Api-Key": os.environ["ACME_KEY"], "X-Request-ID": RECORDED},
    timeout=PATIENCE,
).raise_for_status()


def restore():
    """Puts the document back, and gives a revision that one node has to all of them."""
    global destroyed
    destroyed = False
    newest = ask("GET", "/v1/revisions?limit=1", [200]).json()["items"][0]["revision"]
    # 409: it does not wait for that.
    ask("POST", f"/v1/revisions/{newest}:release", [200, 409])
    tag = ask("GET", "/v1/document", [200]).headers["ETag"]
    ask("PUT", "/v1/document", [200], json=DOCUMENT, headers={"If-Match": tag})


begin = APIStateMachine.__init__


@functools.wraps(begin)
def begin_restored(self):
    global brought_back
    brought_back = False
    restore()
    begin(self)


APIStateMachine.__init__ = begin_restored


def is_about(case, location):
    """Whether the call is about something wrong in this part of it, which then must stay."""
    return case.meta is None or case.meta.is_negative_at(location)


def is_right(case):
    """Whether nothing of the call is meant to be wrong."""
    return case.meta is None or case.meta.generation.mode.is_positive


def stays_as_made(case):
    """Whether this is one of those that are left alone. The same call always is, or sequences could not be told apart. An
    operation has few examples: none of them is."""
    if case.meta is not None and case.meta.phase.name == TestPhase.EXAMPLES:
        return False
    made = (case.operation.label, case.path_parameters, case.query, dict(case.headers), case.body)
    return zlib.crc32(repr(made).encode("utf-8", "replace")) % AS_MADE == 0


def takes(case, name):
    return any(parameter.name == name for parameter in case.operation.iter_parameters())


def true_precondition(case):
    """The ETag of what is changed, or that it must not be there."""
    current = session.get(ADMIN + prepare_path(case.path, case.path_parameters), timeout=PATIENCE)
    if current.status_code == 200:
        case.headers.pop("If-None-Match", None)
        case.headers["If-Match"] = current.headers["ETag"]
    elif case.method.upper() == "PUT":
        case.headers.pop("If-Match", None)
        case.headers["If-None-Match"] = "*"


def true_query(case, is_sequence):
    """A cursor of this very list, a node that there is. In a sequence a change is not only tried."""
    if "cursor" in case.query:
        page = session.get(ADMIN + prepare_path(case.path, case.path_parameters), params={"limit": 1}, timeout=PATIENCE)
        cursor = page.json().get("next_cursor") if page.status_code == 200 else None
        case.query.pop("cursor")
        if cursor is not None:
            case.query["cursor"] = cursor
    if "nodes" in case.query:
        case.query["nodes"] = NODE
    if is_sequence:
        case.query.pop("dry_run", None)


def staged():
    """The number of a revision that one node has and that waits to be released to all, where one can be made."""
    global destroyed
    newest = ask("GET", "/v1/revisions?limit=1", [200]).json()["items"][0]
    plans = ask("GET", "/v1/plans?limit=1", [200]).json()["items"]
    if newest["nodes"] is not None or not plans:
        return newest["revision"]
    plan = plans[0] | {"limits": [] if plans[0]["limits"] else [LIMIT]}
    path = f"/v1/plans/{plan['id']}"
    tag = ask("GET", path, [200]).headers["ETag"]
    changed = ask("PUT", path, [200], params={"nodes": NODE}, json=plan, headers={"If-Match": tag})
    # Nothing else can be changed until it is released.
    destroyed = True
    return changed.json()["revision"]


def spare(case):
    """Makes something that can be deleted."""
    made = SPARE[case.path]
    match case.path_parameters:
        case {"consumer": _}:
            case.path_parameters.update(id="acme", consumer=made["id"])
        case {"name": _}:
            case.path_parameters.update(id="contacts", name=made["name"])
        case _:
            case.path_parameters.update((key, made[key]) for key in case.path_parameters)
    path = prepare_path(case.path, case.path_parameters)
    # 412: it is there already.
    ask("PUT", path, [201, 412], json=made, headers={"If-None-Match": "*"})


def candidate(case):
    """Makes a version a candidate: so there is one to promote, to roll back or to quarantine."""
    global destroyed
    ask("POST", UPLOADS, [200, 201], data=PACK, headers={"Content-Type": PACK_KIND})
    path = f"/v1/attachments/{ATTACHMENT}"
    ask("PATCH", path, [200], json={"rollout": ROLLOUT}, headers={"If-Match": "*"})
    destroyed = True
    case.path_parameters.update(VERSIONED)
    if isinstance(case.body, dict) and "attachment" in case.body and not is_about(case, ParameterLocation.BODY):
        case.body.pop("attachment")
        if not case.path.endswith(":quarantine"):
            case.body["attachment"] = ATTACHMENT


def cuts():
    """An upstream that reads what arrives and closes the connection without an answer: its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


CUTTING = cuts()


def lost(case):
    """Makes a key of which nobody knows what came of it: so there is one to look up and to release."""
    restore()
    upstream = {"targets": [{"address": CUTTING}]}
    ask("PATCH", "/v1/upstreams/crm", [200], json=upstream, headers={"If-Match": "*"})
    key = str(uuid.uuid4())
    headers = {"X-Api-Key": os.environ["ACME_KEY"], "Idempotency-Key": key}
    contact = {"name": {"given": "Grace", "family": "Hopper"}, "emails": ["grace@example.org"]}
    sent = requests.post(f"{GATEWAY}/v2/contacts", json=contact, headers=headers, timeout=PATIENCE)
    assert sent.status_code == 502, f"{sent.status_code} {sent.text}"
    restore()
    case.path_parameters.update(tenant="acme", key=key)
    case.query.pop("record", None)
    if case.path.endswith(":release") and not is_about(case, ParameterLocation.BODY):
        record = ask("GET", f"{IDEMPOTENCY}acme/{key}", [200]).json()["records"][0]
        case.body = {"record": record["id"], "fence": record["fence"]}


def parked():
    """The id of a delivery that waits for somebody: its endpoint is disabled."""
    global destroyed
    path = f"/v1/endpoints/{ENDPOINT}"
    ask("PATCH", path, [200], json={"state": "disabled"}, headers={"If-Match": "*"})
    destroyed = True
    event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/test", "type": "contact.tried", "tenant": "acme"}
    kind = {"Content-Type": "application/cloudevents+json"}
    accepted = ask("POST", "/v1/events", [202], data=json.dumps(event), headers=kind).json()["accepted"]
    query = {"webhook_id": accepted[0]["webhook_id"], "state": "parked"}
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = ask("GET", "/v1/deliveries", [200], params=query).json()["items"]
        if found:
            return found[0]["id"]
        time.sleep(0.05)
    raise AssertionError("no delivery was parked")


def replayed():
    """The id of a replay that goes on: its window has not ended."""
    now = datetime.datetime.now(datetime.timezone.utc)
    since, until = (now + datetime.timedelta(hours=hours) for hours in (-1, 1))
    window = {"tenant": "acme", "since": since.isoformat(), "until": until.isoformat()}
    return ask("POST", "/v1/webhook_replays", [201], json=window).json()["id"]


def true_webhook(case):
    """A delivery that waits, a replay that goes on, an endpoint with a secret: dear to make, so for examples alone."""
    global destroyed
    if case.path.startswith("/v1/deliveries/{id}:"):
        restore()
        case.path_parameters["id"] = parked()
        if case.path.endswith(":retry"):
            # Nothing is retried at an endpoint that is disabled.
            ask("POST", f"/v1/deliveries/{case.path_parameters['id']}:discard", [200])
            restore()
    if case.path == "/v1/webhook_replays/{id}:cancel":
        restore()
        case.path_parameters["id"] = replayed()
    if case.path == "/v1/endpoints/{id}:rotate-secret":
        restore()
        case.path_parameters["id"] = ENDPOINT
        destroyed = True


def true_place(case):
    """Something is there of which the call can be about."""
    deletes = case.method.upper() == "DELETE"
    if case.meta is not None and case.meta.phase.name == TestPhase.EXAMPLES:
        true_webhook(case)
    if case.path.startswith("/v1/packs/") and ":" in case.path:
        restore()
        candidate(case)
    if case.path == DATUM:
        case.path_parameters["id"] = VERSIONED["id"]
    if case.path == DATUM and deletes:
        path = prepare_path(case.path, case.path_parameters)
        # 412: it is there already.
        ask("PUT", path, [201, 412], data=b"spare", headers={"If-None-Match": "*"})
    if case.path in SPARE and deletes:
        spare(case)
    if case.path.startswith(IDEMPOTENCY) and not is_about(case, ParameterLocation.QUERY):
        lost(case)


def true_name(case):
    """The name in the body is the path's."""
    if isinstance(case.body, dict):
        named = dict(case.path_parameters)
        named["id"] = named.get("consumer", named.get("id"))
        case.body.update({key: named[key] for key in ("id", "name", "version") if key in case.body and key in named})


def own_key(key, case):
    """The key with the call's own end, within its quotes if it has some."""
    end = '"' if key.startswith('"') else ""
    return f"{key.removesuffix(end)[:200].rstrip(chr(92))}-{case.id}{end}"


@schemathesis.hook
def before_call(context, case, kwargs):
    is_sequence = case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL
    if destroyed and not is_sequence:
        restore()
    as_made = stays_as_made(case)
    if case.path == RELEASE and not is_about(case, ParameterLocation.PATH) and not as_made:
        case.path_parameters["revision"] = staged()
    if case.path == UPLOADS and case.method.upper() == "POST" and is_right(case) and not as_made:
        case.body = PACK
    if not (is_sequence or as_made or is_about(case, ParameterLocation.PATH)):
        true_place(case)
    if case.path == "/v1/tokens/{id}" and OWN_TOKEN in str(case.path_parameters.get("id")):
        case.path_parameters["id"] = "another"
    if not is_about(case, ParameterLocation.QUERY):
        true_query(case, is_sequence)
    # A dry run tells with 200 what is wrong: most of what is wrong is rather sent to be refused.
    if not as_made and (is_about(case, ParameterLocation.BODY) or is_about(case, ParameterLocation.PATH)):
        case.query.pop("dry_run", None)
    if case.method.upper() == "PUT" and not is_about(case, ParameterLocation.BODY):
        true_name(case)
    if is_about(case, ParameterLocation.HEADER):
        return
    # A key of an earlier sequence would get that one's answer again, of what is gone since.
    if "Idempotency-Key" in case.headers and (is_sequence or not as_made):
        case.headers["Idempotency-Key"] = own_key(case.headers["Idempotency-Key"], case)
    if takes(case, "If-Match") and not as_made:
        true_precondition(case)


@schemathesis.hook
def after_call(context, case, response):
    global destroyed, brought_back
    method = case.method.upper()
    if response.status_code < 300 and method != "GET":
        is_whole = case.path == "/v1/document" or case.path.endswith(":rollback")
        destroyed = destroyed or is_whole or method == "DELETE" or "nodes" in case.query
        makes_parts = method != "DELETE" and case.path.startswith(WITH_PARTS)
        brought_back = brought_back or is_whole or makes_parts or case.path == UPLOADS
    # Calls with a method that the description does not have say nothing of its operations.
    if case.method.upper() == case.operation.method.upper():
        answers[case.operation.label][response.status_code] += 1


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, AcceptedNegativeData) and case.body is PACK:
        # Bytes of ours, of which the tester thinks that they should have been text.
        return False
    if isinstance(failure, AcceptedNegativeData) and response.status_code == 200:
        # A dry run answers 200 whatever it finds: what is wrong stands in the answer.
        return response.json().get("valid") is not False
    if isinstance(failure, UseAfterFree):
        return not brought_back
    return True


@atexit.register
def write():
    with open(CALLS, "w", encoding="utf-8") as file:
        json.dump(answers, file, indent=1, sort_keys=True)
