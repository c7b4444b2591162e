#!/usr/bin/env python3
"""Example of an `exec` provisioner: one JSON request on stdin, one JSON answer on stdout. The contract is in README.md.

It is a template for any cloud, and works as it is: a "node" is a `supernode agent` process on this host, detached from the
caller. So the whole path (ask for nodes, join, use, delete) can be tried and tested without a cloud.

What makes it safe to repeat, and worth copying:
- the answer to a create or delete is stored under its request_id before it is given; a repetition gets the stored answer
- every effect is preceded by a record of what is about to happen, so that a call that was killed is completed by the next
- one lock per request_id and one per node: identical requests at the same time have one effect
- files are replaced atomically and are on disk before the answer

It refuses: node names that could leave its directory, a request_id that was used for something else, unknown actions and
versions. The join token goes into a file that only the owner reads, never into an argument list, a record or a message.

Environment: SUPERNODE_PROVISIONER_STATE (directory, required), SUPERNODE_BINARY (default `supernode` from PATH) and
SUPERNODE_AGENT_ARGS (arguments of the agent, see DEFAULT_AGENT_ARGUMENTS).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time

VERSION = 1
EXIT_FAILED = 1  # may work when it is repeated
EXIT_REFUSED = 2  # will fail in the same way when it is repeated
REQUEST_BYTES_MAX = 1 << 20
LOCK_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
DEFAULT_AGENT_ARGUMENTS = ("agent --server {server} --name {name} --data {data} "
                           "--join-token-file {join_token_file} --ca-file {ca_file}")
AGENT_ENVIRONMENT = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE")


class Refused(Exception):
    """The request is wrong."""


class Failed(Exception):
    """The request is right, and could not be carried out now."""


class Busy(Exception):
    """Another call is still at work on the same node or request."""


# --- files ---


def write_file(path, text, mode=0o600):
    """Replaces a file atomically; it is on disk when this returns."""
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, value):
    write_file(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path):
    """The content, or None if there is no such file. Anything half-written cannot exist: see write_file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Failed(f"{path} is damaged ({error}): look at it, and restore or remove it by hand") from error


@contextlib.contextmanager
def locked(path):
    """Holds an exclusive lock. The kernel releases it when this process ends, however it ends."""
    with open(path, "a", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy from None
                time.sleep(0.02)
        yield


class Places:
    """Where things lie below the state directory."""

    def __init__(self, state, request):
        self.state = state
        digest = hashlib.sha256(request["request_id"].encode()).hexdigest()
        name = request["node_name"]
        self.request = os.path.join(state, "requests", f"{digest}.json")
        self.request_lock = os.path.join(state, "locks", f"request-{digest}")
        self.node_lock = os.path.join(state, "locks", f"node-{name}")
        self.record = os.path.join(state, "records", name)  # what we know of the node
        self.node = os.path.join(self.record, "node.json")
        self.process = os.path.join(self.record, "process.json")
        self.token = os.path.join(self.record, "join-token")
        self.ca = os.path.join(self.record, "ca.pem")
        self.log = os.path.join(self.record, "agent.log")
        self.data = os.path.join(state, "nodes", name)  # the disk of the node; belongs to its agent

    def prepare(self):
        os.makedirs(self.state, mode=0o700, exist_ok=True)
        for name in ("requests", "locks", "records", "nodes"):
            os.makedirs(os.path.join(self.state, name), mode=0o700, exist_ok=True)


# --- the request ---


def text_field(holder, name, where):
    value = holder.get(name)
    if not isinstance(value, str) or not value or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused(f"{where}{name} must be a text that is not empty")
    return value


def parse_request(text):
    """Checks the request. Fields that are not known are ignored: a newer server may send more."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise Refused("the request must be a JSON object")
    if request.get("version") != VERSION:
        raise Refused(f"version is {request.get('version')!r}, and this provisioner speaks version {VERSION}")
    action = text_field(request, "action", "")
    if action not in ACTIONS:
        raise Refused(f"action is {action!r}, and must be one of {', '.join(sorted(ACTIONS))}")
    text_field(request, "request_id", "")
    name = text_field(request, "node_name", "")
    if not NODE_NAME.fullmatch(name):
        raise Refused(f"node_name is {name!r}, and must be 1 to 63 letters, digits, '.', '_', '-', "
                      "with a letter or digit at both ends")
    if action == "create":
        text_field(request, "super_node", "")
        spec = request.get("spec")
        if not isinstance(spec, dict):
            raise Refused("spec must be an object with name and definition")
        text_field(spec, "name", "spec.")
        join = request.get("join")
        if not isinstance(join, dict):
            raise Refused("join must be an object with server, api, token and ca_pem")
        for field in ("server", "api", "token", "ca_pem"):
            text_field(join, field, "join.")
    return request


def fingerprint(request):
    """What a repetition must have in common with the first. Not `join`: a retry may bring a fresh token."""
    same = {field: request.get(field) for field in ("action", "node_name", "super_node", "spec")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def answer(request, status, provider_id, message):
    return {"version": VERSION, "status": status, "node_name": request["node_name"], "provider_id": provider_id,
            "message": message}


def once(places, request, effect):
    """Carries out `effect` unless its answer is already known, and stores the answer before giving it."""
    with locked(places.request_lock), locked(places.node_lock):
        known = read_json(places.request)
        if known is None:
            known = {"fingerprint": fingerprint(request), "answer": effect(places, request)}
            write_json(places.request, known)
        elif known["fingerprint"] != fingerprint(request):
            raise Refused(f"request_id {request['request_id']!r} was used before for another request")
        if request["action"] == "delete":
            forget(places, request)
        return known["answer"]


# --- processes: what a cloud would do ---


def process_identity(pid):
    """(boot, pid, start time) of a living process, or None. The pid alone may belong to somebody else by now."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        return None
    if fields[0] in "ZX":  # ended, and only waits for its parent
        return None
    return {"boot": boot, "pid": pid, "started": int(fields[19])}


def running(places):
    """The pid of the agent, or None."""
    known = read_json(places.process)
    return known["pid"] if known is not None and process_identity(known["pid"]) == known else None


def agent_command(places, request):
    """The argument vector. Values are put in after the text was split: nothing in them can become another argument."""
    binary = shutil.which(os.environ.get("SUPERNODE_BINARY") or "supernode")
    if binary is None:
        raise Failed(f"no program {os.environ.get('SUPERNODE_BINARY') or 'supernode'!r}: "
                     "set SUPERNODE_BINARY to the absolute path of the supernode program")
    values = {"server": request["join"]["server"], "api": request["join"]["api"], "name": request["node_name"],
              "data": places.data, "join_token_file": places.token, "ca_file": places.ca}

    def fill(match):
        if match[1] not in values:
            raise Failed(f"SUPERNODE_AGENT_ARGS has {match[0]}, and only {', '.join(sorted(values))} are known")
        return values[match[1]]

    try:
        words = shlex.split(os.environ.get("SUPERNODE_AGENT_ARGS") or DEFAULT_AGENT_ARGUMENTS)
    except ValueError as error:
        raise Failed(f"SUPERNODE_AGENT_ARGS cannot be split into arguments: {error}") from error
    return [os.path.abspath(binary)] + [re.sub(r"\{(\w*)\}", fill, word) for word in words]


def start_agent(places, command):
    """Starts the agent in a session of its own. Returns when it runs, or raises with the reason.

    The child notes its own identity before it becomes the agent. Whenever this is killed, either no agent was started, or
    the note is there and the next call finds the agent: there is no moment in which a repetition starts a second one.
    """
    report, child_report = os.pipe()  # closed by a successful exec; otherwise it brings the reason
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(places.data)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the agent would inherit that
            null = os.open(os.devnull, os.O_RDONLY)
            log = os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            write_json(places.process, process_identity(os.getpid()))
            environment = {name: os.environ[name] for name in AGENT_ENVIRONMENT if name in os.environ}
            os.execve(command[0], command, environment)
        except BaseException as error:  # in the child nothing may return to the caller's code
            os.write(child_report, str(error).encode()[:1000] or b"unknown")
        finally:
            os._exit(127)
    os.close(child_report)
    with os.fdopen(report, "rb") as file:
        reason = file.read().decode(errors="replace")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if not file.read():  # the pipe is closed and there is no program: it was killed before or right after the exec
            reason = reason or f"it ended at once, see {places.log}"
    if reason:
        os.waitpid(pid, 0)
        raise Failed(f"cannot start {command[0]}: {reason}")


def stop_agent(places):
    """Ends the agent: first politely, then with everything in its process group."""
    pid = running(places)
    if pid is None:
        return
    for number, seconds in ((signal.SIGTERM, STOP_GRACE_SECONDS), (signal.SIGKILL, STOP_GRACE_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGTERM:
                os.kill(pid, number)
            else:
                os.killpg(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if running(places) is None:
                return
            time.sleep(0.02)
    raise Failed(f"process {pid} of the agent did not end")


# --- the actions ---


def create(places, request):
    """Makes the node exist. Safe to run again from the start after a kill at any point."""
    command = agent_command(places, request)  # first whatever can be refused without leaving a trace
    node = read_json(places.node)
    if node is not None and node["state"] == "deleting":
        raise Failed(f"node {request['node_name']} is being deleted: repeat the delete, then this")
    if node is not None and node["request_id"] != request["request_id"] and running(places) is not None:
        write_json(places.node, {**node, "state": "created"})  # the other request may have been killed before it said so
        return answer(request, "exists", node["provider_id"], "a node of this name exists from another request")
    # A cloud: the id comes from its answer. The request_id goes into the call as its client token (EC2: ClientToken,
    # Google: requestId, Azure: the resource name), so that the cloud, too, creates one machine however often it is asked.
    provider_id = "local-" + hashlib.sha256(request["request_id"].encode()).hexdigest()[:16]
    if node is not None and node["request_id"] != request["request_id"]:
        provider_id = node["provider_id"]  # its agent has ended: the same node is started again on its disk
    os.makedirs(places.record, mode=0o700, exist_ok=True)
    node = {"state": "creating", "request_id": request["request_id"], "provider_id": provider_id,
            "super_node": request["super_node"], "spec": request["spec"]["name"]}
    write_json(places.node, node)
    os.makedirs(places.data, mode=0o700, exist_ok=True)
    write_file(places.token, request["join"]["token"])
    write_file(places.ca, request["join"]["ca_pem"], 0o644)
    # A cloud: here goes the one call that costs money, something like
    #   cloud.run_instance(client_token=request["request_id"], name=request["node_name"],
    #                      size=SIZE_OF_SPEC[request["spec"]["name"]], user_data=cloud_init(request["join"]))
    # where cloud_init writes token and ca_pem to files and starts `supernode agent`. It may return before the machine is
    # there: answer "pending" then, without storing the answer; the server asks again with the same request_id.
    if running(places) is None:
        start_agent(places, command)
    write_json(places.node, {**node, "state": "created"})
    return answer(request, "created", provider_id, f"agent started, its log is {places.log}")


def delete(places, request):
    """Makes the node not exist, with its disk. Safe to run again from the start after a kill at any point."""
    node = read_json(places.node)
    if node is None:
        shutil.rmtree(places.record, ignore_errors=True)  # what a create or delete left that was killed at its very edge
        return answer(request, "absent", "", "no node of this name")
    if node["state"] == "deleting" and node["deleted_by"] != request["request_id"]:
        message = "deleted; another request had begun it"
    else:
        message = "agent stopped and data removed"
    # This record stays until the answer is stored (see `once` and `forget`), so that a repetition after a kill still
    # finds what it deletes and answers "deleted".
    write_json(places.node, {**node, "state": "deleting", "deleted_by": request["request_id"]})
    # A cloud: cloud.delete_instance(node["provider_id"]); "not found" is success, it was there before.
    stop_agent(places)
    if os.path.exists(places.data):
        shutil.rmtree(places.data)
    return answer(request, "deleted", node["provider_id"], message)


def forget(places, request):
    """Removes the record of a node whose deletion by this request is complete and stored."""
    node = read_json(places.node)
    if node is not None and node.get("deleted_by") == request["request_id"]:
        os.unlink(places.node)
        shutil.rmtree(places.record)
        sync_directory(os.path.dirname(places.record))


def describe(places, request):
    """What there is now. Changes nothing, waits for nobody, and is never answered from a stored answer."""
    node = read_json(places.node)
    # A cloud: cloud.find_instance(name=request["node_name"]) and its state.
    if node is None:
        return answer(request, "absent", "", "no node of this name")
    if node["state"] != "created":
        return answer(request, "pending", node["provider_id"], f"{node['state']}: repeat that request to complete it")
    pid = running(places)
    message = f"agent runs as process {pid}" if pid else f"the agent has ended: see {places.log}, or create again"
    return answer(request, "exists", node["provider_id"], message)


ACTIONS = {"create": lambda places, request: once(places, request, create),
           "delete": lambda places, request: once(places, request, delete),
           "describe": describe}


def main():
    try:
        state = os.environ.get("SUPERNODE_PROVISIONER_STATE")
        if not state:
            raise Refused("the environment variable SUPERNODE_PROVISIONER_STATE is not set: it is the directory for the state")
        text = sys.stdin.buffer.read(REQUEST_BYTES_MAX + 1)
        if len(text) > REQUEST_BYTES_MAX:
            raise Refused(f"the request is longer than {REQUEST_BYTES_MAX} bytes")
        request = parse_request(text)
        places = Places(os.path.abspath(state), request)
        places.prepare()
        try:
            result = ACTIONS[request["action"]](places, request)
        except Busy:
            result = answer(request, "pending", "", f"another call has been at work on this for {LOCK_SECONDS:g} s")
    except Refused as error:
        print(f"exec_provisioner: refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except (Failed, OSError) as error:
        print(f"exec_provisioner: failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
