#!/usr/bin/env python3
"""Tests of exec_provisioner.py: its contract, and that a kill at any line of it leaves nothing twice and nothing behind.

Run it with `python3 examples/provisioner/test_exec_provisioner.py`. The agent is a shell script that only notes its start
and waits. With EXHAUSTIVE=1 in the environment the kill tests try every line and not every few lines (some minutes).
"""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
PROVISIONER = os.path.join(HERE, "exec_provisioner.py")
DEADLINE_SECONDS = 30.0
KILL_POINTS = 10_000 if os.environ.get("EXHAUSTIVE") else 30

AGENT = """#!/bin/sh
# Notes each start, with its arguments, and waits. Ends at SIGTERM unless it was told to be stubborn.
if [ -e "$(dirname "$0")/stubborn" ]; then trap '' TERM; else trap 'exit 0' TERM; fi
echo "$*" >> "$(dirname "$0")/starts"
env > "$(dirname "$0")/environment"
echo "to the log"
while :; do sleep 1 & wait $!; done
"""

# Runs the provisioner and kills it (and, after the fork, its child) at the n-th line of its own code.
KILLER = """
import os, signal, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import exec_provisioner
limit, count = int(sys.argv[2]), 0
def trace(frame, event, _argument):
    global count
    if frame.f_code.co_filename != exec_provisioner.__file__:
        return None
    if event == "line":
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
code = exec_provisioner.main()
sys.settrace(None)
print(f"lines {count}", file=sys.stderr)
sys.exit(code)
"""

# As the program itself, with less patience.
IMPATIENT = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import exec_provisioner
exec_provisioner.STOP_GRACE_SECONDS = 0.5
exec_provisioner.LOCK_SECONDS = 0.3
sys.exit(exec_provisioner.main())
"""


def request(action, request_id, name="node-a", **changes):
    return {"version": 1, "action": action, "request_id": request_id, "node_name": name, "super_node": "train",
            "spec": {"name": "cpu-small", "definition": {"devices": 1}},
            "join": {"server": "127.0.0.1:7701", "api": "https://127.0.0.1:7700", "token": "secret-token", "ca_pem": "PEM\n"},
            **changes}


class ProvisionerTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="exec-provisioner-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.addCleanup(self.kill_agents)
        self.state = os.path.join(self.directory, "state")
        self.agent = os.path.join(self.directory, "agent")
        with open(self.agent, "w", encoding="utf-8") as file:
            file.write(AGENT)
        os.chmod(self.agent, 0o755)
        self.environment = {"PATH": os.environ["PATH"], "SUPERNODE_PROVISIONER_STATE": self.state,
                            "SUPERNODE_BINARY": self.agent, "PRIVATE": "of the server"}

    # --- help ---

    def run_raw(self, text, program=(PROVISIONER,), **environment):
        return subprocess.run([sys.executable, *program], input=text, capture_output=True, text=True, check=False,
                              timeout=DEADLINE_SECONDS, env={**self.environment, **environment})

    def ask(self, *arguments, program=(PROVISIONER,), **changes):
        """Asks, expects an answer, and returns it."""
        result = self.run_raw(json.dumps(request(*arguments, **changes)), program)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        answer = json.loads(result.stdout)
        self.assertEqual(set(answer), {"version", "status", "node_name", "provider_id", "message"})
        self.assertEqual(answer["version"], 1)
        return answer

    def refuse(self, text, code, message, **environment):
        result = self.run_raw(text if isinstance(text, str) else json.dumps(text), **environment)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertIn(message, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertNotIn("Traceback", result.stderr)

    def agents(self):
        """The process ids of all agents of this test: by argument list, and leading a session (what a script forks does not)."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                leads = os.getsid(int(entry)) == int(entry)
            except OSError:
                continue
            if leads and self.agent.encode() in words[:2]:
                found.append(int(entry))
        return found

    def kill_agents(self):
        for pid in self.agents():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.wait_for(lambda: not self.agents())

    def wait_for(self, condition):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            self.assertLess(time.monotonic(), deadline, "waited too long")
            time.sleep(0.01)

    def starts(self):
        try:
            with open(os.path.join(self.directory, "starts"), encoding="utf-8") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []

    def check_one_agent(self):
        self.wait_for(self.starts)
        self.assertEqual(len(self.starts()), 1)
        self.assertEqual(len(self.agents()), 1)

    # --- one after the other ---

    def test_create_starts_the_agent_with_everything_it_needs(self):
        answer = self.ask("create", "r-1")
        self.assertEqual((answer["status"], answer["node_name"]), ("created", "node-a"))
        self.assertTrue(answer["provider_id"].startswith("local-"))
        self.check_one_agent()
        data, record = (os.path.join(self.state, kind, "node-a") for kind in ("nodes", "records"))
        self.assertEqual(self.starts(), [
            f"agent --server 127.0.0.1:7701 --name node-a --data {data} "
            f"--join-token-file {record}/join-token --ca-file {record}/ca.pem"])
        with open(f"{record}/join-token", encoding="utf-8") as file:
            self.assertEqual(file.read(), "secret-token")
        with open(f"{record}/ca.pem", encoding="utf-8") as file:
            self.assertEqual(file.read(), "PEM\n")
        self.assertEqual(os.stat(f"{record}/join-token").st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(self.state).st_mode & 0o777, 0o700)
        (pid,) = self.agents()
        self.assertEqual(os.getsid(pid), pid)  # detached: it survives whoever called
        self.wait_for(lambda: os.path.getsize(f"{record}/agent.log") > 0)
        with open(os.path.join(self.directory, "environment"), encoding="utf-8") as file:
            self.assertNotIn("PRIVATE", file.read())

    def test_the_token_is_nowhere_but_in_its_file(self):
        self.ask("create", "r-1")
        holders = []
        for root, _directories, files in os.walk(self.state):
            for name in files:
                with open(os.path.join(root, name), encoding="utf-8") as file:
                    if "secret-token" in file.read():
                        holders.append(name)
        self.assertEqual(holders, ["join-token"])

    def test_repeated_create_has_one_effect_and_one_answer(self):
        first = self.ask("create", "r-1")
        again = request("create", "r-1")
        again["join"]["token"] = "another-token"  # a retry may bring a fresh one
        self.assertEqual(json.loads(self.run_raw(json.dumps(again)).stdout), first)
        self.check_one_agent()

    def test_create_of_a_node_that_another_request_made(self):
        first = self.ask("create", "r-1")
        second = self.ask("create", "r-2")
        self.assertEqual((second["status"], second["provider_id"]), ("exists", first["provider_id"]))
        self.check_one_agent()

    def test_create_starts_an_agent_again_that_has_ended(self):
        first = self.ask("create", "r-1")
        self.kill_agents()
        self.assertIn("has ended", self.ask("describe", "d-1")["message"])
        second = self.ask("create", "r-2")
        self.assertEqual((second["status"], second["provider_id"]), ("created", first["provider_id"]))
        self.assertEqual(len(self.agents()), 1)

    def test_delete_stops_the_agent_and_removes_everything(self):
        created = self.ask("create", "r-1")
        self.ask("create", "r-b", "node-b")
        answer = self.ask("delete", "r-2", join=None, spec=None)
        self.assertEqual((answer["status"], answer["provider_id"]), ("deleted", created["provider_id"]))
        self.assertEqual(len(self.agents()), 1)
        for kind in ("nodes", "records"):
            self.assertEqual(os.listdir(os.path.join(self.state, kind)), ["node-b"])
        self.assertEqual(self.ask("delete", "r-2", join=None, spec=None), answer)
        self.assertEqual(self.ask("delete", "r-3")["status"], "absent")

    def test_a_late_repetition_of_create_does_not_bring_a_deleted_node_back(self):
        created = self.ask("create", "r-1")
        self.ask("delete", "r-2")
        self.assertEqual(self.ask("create", "r-1"), created)
        self.assertEqual(self.agents(), [])
        self.assertEqual(self.ask("describe", "d")["status"], "absent")

    def test_a_late_repetition_of_delete_does_not_touch_a_new_node_of_that_name(self):
        self.ask("create", "r-1")
        self.ask("delete", "r-2")
        self.ask("create", "r-3")
        self.assertEqual(self.ask("delete", "r-2")["status"], "deleted")
        self.assertEqual(len(self.agents()), 1)
        self.assertEqual(self.ask("describe", "d")["status"], "exists")

    def test_delete_of_a_stubborn_agent(self):
        with open(os.path.join(self.directory, "stubborn"), "w", encoding="utf-8"):
            pass
        self.ask("create", "r-1")
        self.check_one_agent()  # its trap is set before it notes its start
        self.assertEqual(self.ask("delete", "r-2", program=("-c", IMPATIENT, HERE))["status"], "deleted")
        self.assertEqual(self.agents(), [])

    def test_describe_tells_what_is_there_now(self):
        self.assertEqual(self.ask("describe", "d")["status"], "absent")
        created = self.ask("create", "r-1")
        described = self.ask("describe", "d")  # the same request_id, and another answer
        self.assertEqual((described["status"], described["provider_id"]), ("exists", created["provider_id"]))
        self.ask("delete", "r-2")
        self.assertEqual(self.ask("describe", "d")["status"], "absent")

    def test_own_arguments_for_the_agent(self):
        self.environment["SUPERNODE_AGENT_ARGS"] = "agent --join 'a b={server}' {data}"
        self.ask("create", "r-1", "node-x")
        self.check_one_agent()
        self.assertEqual(self.starts(), [f"agent --join a b=127.0.0.1:7701 {self.state}/nodes/node-x"])
        self.environment["SUPERNODE_AGENT_ARGS"] = "agent {oops}"
        self.refuse(request("create", "r-2", "node-y"), 1, "{oops}")

    # --- what it refuses ---

    def test_wrong_requests_are_refused(self):
        cases = [("", "not JSON"), ("{", "not JSON"), ("\xff\x00", "not JSON"), ("[1]", "must be a JSON object"),
                 ("[" * 100_000, "not JSON"),
                 (request("create", "r", version=2), "speaks version 1"), (request("explode", "r"), "action is 'explode'"),
                 (request("create", ""), "request_id"), (request("create", 7), "request_id"),
                 (request("create", "r", "../escape"), "node_name"), (request("create", "r", ".."), "node_name"),
                 (request("create", "r", "a/b"), "node_name"), (request("create", "r", "-rf"), "node_name"),
                 (request("create", "r", "a" * 64), "node_name"), (request("create", "r", "a\n"), "node_name"),
                 (request("create", "r", "\ud800"), "node_name"), (request("create", "\ud800"), "request_id"),
                 (request("create", "r", join=None), "join must be"), (request("create", "r", join={"server": "x"}), "join.api"),
                 (request("create", "r", spec="x"), "spec must be"), ("x" * (1 << 20) + "x", "longer than")]
        for text, message in cases:
            with self.subTest(text=str(text)[:60]):
                self.refuse(text, 2, message)
        self.assertEqual(self.agents(), [])

    def test_fields_that_are_not_known_are_ignored(self):
        self.assertEqual(self.ask("create", "r-1", rack="r1")["status"], "created")

    def test_a_request_id_is_not_used_for_two_things(self):
        self.ask("create", "r-1")
        self.refuse(request("create", "r-1", "node-b"), 2, "was used before for another request")
        self.refuse(request("delete", "r-1"), 2, "was used before for another request")
        self.assertEqual(len(self.agents()), 1)

    def test_failures_are_not_stored(self):
        self.refuse(request("create", "r-1"), 1, "SUPERNODE_BINARY", SUPERNODE_BINARY="/no/such/program")
        text = os.path.join(self.directory, "text")
        with open(text, "w", encoding="utf-8") as file:
            file.write("not a program")
        os.chmod(text, 0o755)
        self.refuse(request("create", "r-1"), 1, "cannot start", SUPERNODE_BINARY=text)
        self.assertEqual(self.ask("describe", "d")["status"], "pending")
        self.assertEqual(self.ask("create", "r-1")["status"], "created")
        self.check_one_agent()

    def test_no_state_directory(self):
        self.refuse(request("create", "r-1"), 2, "SUPERNODE_PROVISIONER_STATE", SUPERNODE_PROVISIONER_STATE="")

    def test_a_busy_node_is_pending(self):
        self.ask("create", "r-1")
        import fcntl
        with open(os.path.join(self.state, "locks", "node-node-a"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assertEqual(self.ask("delete", "r-2", program=("-c", IMPATIENT, HERE))["status"], "pending")
        self.assertEqual(self.ask("delete", "r-2")["status"], "deleted")

    # --- at the same time, and killed ---

    def test_identical_requests_at_the_same_time(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _number: self.ask("create", "r-1"), range(8)))
            self.assertEqual([answer for answer in answers if answer != answers[0]], [])
            self.assertEqual(answers[0]["status"], "created")
            self.check_one_agent()
            answers = list(pool.map(lambda _number: self.ask("delete", "r-2"), range(8)))
            self.assertEqual([answer for answer in answers if answer != answers[0]], [])
            self.assertEqual(answers[0]["status"], "deleted")
        self.assertEqual(self.agents(), [])

    def test_different_creates_of_one_node_at_the_same_time(self):
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda number: self.ask("create", f"r-{number}"), range(6)))
        self.assertEqual(sorted(answer["status"] for answer in answers), ["created"] + ["exists"] * 5)
        self.assertEqual(len({answer["provider_id"] for answer in answers}), 1)
        self.check_one_agent()

    def killed_at(self, line, *arguments):
        """Runs a request that dies at this line, itself or only its child. Returns how many lines it ran if nothing died."""
        result = self.run_raw(json.dumps(request(*arguments)), ("-c", KILLER, HERE, str(line)))
        if result.returncode == -signal.SIGKILL or "cannot start" in result.stderr:
            return None
        self.assertEqual(result.returncode, 0, result.stderr)
        return int(result.stderr.split()[-1])

    def kill_points(self, *arguments):
        lines = self.killed_at(0, *arguments)
        return range(1, lines + 1, max(1, lines // KILL_POINTS))

    def test_create_killed_anywhere_and_repeated_makes_one_node(self):
        killed = 0
        for number, line in enumerate(self.kill_points("create", "r-0", "node-0")):
            with self.subTest(line=line):
                self.kill_agents()
                shutil.rmtree(self.state, ignore_errors=True)
                if os.path.exists(os.path.join(self.directory, "starts")):
                    os.unlink(os.path.join(self.directory, "starts"))
                killed += self.killed_at(line, "create", f"r-{number}") is None
                answer = self.ask("create", f"r-{number}")
                self.assertEqual(answer["status"], "created")
                self.check_one_agent()
                self.assertEqual(self.ask("describe", "d")["status"], "exists")
        self.assertGreater(killed, 20)

    def test_delete_killed_anywhere_and_repeated_leaves_nothing(self):
        killed = 0
        self.ask("create", "c", "node-0")
        for number, line in enumerate(self.kill_points("delete", "d", "node-0")):
            with self.subTest(line=line):
                created = self.ask("create", f"c-{number}")
                self.assertEqual(created["status"], "created")
                killed += self.killed_at(line, "delete", f"d-{number}") is None
                answer = self.ask("delete", f"d-{number}")
                self.assertEqual((answer["status"], answer["provider_id"]), ("deleted", created["provider_id"]))
                self.assertEqual(self.agents(), [])
                self.assertEqual(self.ask("describe", "x")["status"], "absent")
                self.assertEqual(os.listdir(os.path.join(self.state, "nodes")), [])
        self.assertGreater(killed, 20)


if __name__ == "__main__":
    unittest.main()
