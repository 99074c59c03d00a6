"""`headwater demo` as a person runs it: what it tells, what it counts, and that nothing of it is left behind."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import unittest

from harness import BIN, cli, eventually


def alive(pid):
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def brokers(told):
    """Process ids and directory of the broker, from what the demo says."""
    pids = [int(pid) for pid in re.findall(r"process (\d+)", told)]
    directory = pathlib.Path(re.search(r"data in (\S+)/data", told)[1])
    return pids, directory


def summary(told):
    """The numbers of each row, by its name."""
    rows = re.findall(r"^   (MQTT QoS 1|MQTT QoS 2|compact|together|Apache Kafka) +([\d ]+)$", told, re.M)
    return {name: [int(n) for n in numbers.split()] for name, numbers in rows}


class Demo(unittest.TestCase):
    def begin(self):
        """A demo that feeds, its broker's process id and directory."""
        demo = subprocess.Popen([str(BIN), "demo", "--seconds", "30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (demo.kill(), demo.communicate()))
        told = ""
        while "Readings flow" not in told:
            line = demo.stdout.readline()
            self.assertTrue(line, told)
            told += line
        (pid,), directory = brokers(told)
        self.addCleanup(shutil.rmtree, directory, True)
        self.assertTrue(alive(pid) and directory.exists())
        return demo, pid, directory

    def test_it_counts_what_it_sent_over_a_kill_and_leaves_nothing(self):
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind(("127.0.0.1", 1883))
                holder.listen()
            except OSError:
                pass  # somebody else has it: as good
            done = cli("demo", "--seconds", "4", timeout=60)
        told = done.stdout.decode()
        self.assertIn("in use by somebody else on this machine: port 1883", told)
        self.assertNotIn("MQTT 127.0.0.1:1883", told)
        self.assertIn("kill -9", told)
        self.assertRegex(told, r"telemetry \d:\d+  (demo|device)/\S+ = \{")
        rows = summary(told)
        self.assertEqual(set(rows), {"MQTT QoS 1", "MQTT QoS 2", "compact", "together"})
        for name, (sent, acked, stored, lost, duplicated) in rows.items():
            with self.subTest(name):
                self.assertGreater(sent, 20)
                self.assertEqual((acked, stored, lost, duplicated), (sent, sent, 0, 0))
        self.assertEqual(rows["together"][0], sum(rows[name][0] for name in rows if name != "together"))
        pids, directory = brokers(told)
        self.assertEqual(len(set(pids)), 2, "it was started twice")
        self.assertEqual([pid for pid in pids if alive(pid)], [])
        self.assertFalse(directory.exists())

    def test_ctrl_c_ends_it_and_its_broker(self):
        demo, pid, directory = self.begin()
        demo.send_signal(signal.SIGINT)
        self.assertEqual(demo.wait(10), 1)
        self.assertIn("interrupted", demo.stderr.read())
        self.assertFalse(alive(pid))
        self.assertFalse(directory.exists())

    def test_a_killed_demo_leaves_no_broker(self):
        demo, pid, _ = self.begin()
        demo.kill()
        eventually(lambda: not alive(pid), 10, "the end of the broker")

    def test_a_broker_that_dies_by_itself_fails_the_demo(self):
        demo, pid, _ = self.begin()
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(demo.wait(30), 1)
        self.assertIn("ended by itself", demo.stderr.read())

    def test_a_kafka_that_is_not_there_is_exit_code_3(self):
        done = cli("demo", "--upstream", "127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"Try:", done.stderr)
