"""`headwater repair`, `backup` and `restore`: directories whole, killed, truncated, flipped and set aside, and a broker that takes
records while it is copied. What comes out is checked, served and compared record by record."""

import itertools
import json
import os
import pathlib
import shutil
import tempfile
import threading
import unittest

from confluent_kafka import Producer

import test_inspect as source
from harness import Broker, cli, eventually

TOPIC = source.TOPIC
COUNT = itertools.count()


def setUpModule():
    global folder
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory(prefix="headwater-tools-")))
    source.setUpModule()


def objects(done, name):
    return [json.loads(line)[name] for line in done.stdout.splitlines() if f'"{name}"'.encode() in line.split(b":", 1)[0]]


def exported(directory):
    return source.of_jsonl(cli("export", directory, "--topic", TOPIC).stdout)


def told(directory):
    """What `inspect` says that a copy has to keep."""
    done = cli("inspect", directory, "--json")
    return {name: objects(done, name) for name in ("topic", "partition", "table")}


class Repair(unittest.TestCase):
    def repaired(self, directory, code):
        before = source.digest(directory)
        new = folder / f"{self.id()}-new-{next(COUNT)}"
        done = cli("repair", "--from", directory, "--to", new, "--json", check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn(b"panicked", done.stderr)
        self.assertEqual(source.digest(directory), before)
        if code in (0, 4):
            self.assertEqual(cli("check", new).returncode, 0)
        return new, done

    def copy(self):
        directory = folder / f"{self.id()}-{next(COUNT)}"
        shutil.copytree(source.whole, directory)
        self.addCleanup(shutil.rmtree, directory)
        (data,) = (directory / "headwater.data").iterdir()
        return directory, data

    def test_a_whole_or_killed_directory_is_the_same_afterwards(self):
        for directory in (source.whole, source.killed):
            with self.subTest(directory.name):
                new, _ = self.repaired(directory, 0)
                self.assertEqual(exported(new), source.records)
                self.assertEqual(told(new), told(directory))

    def test_what_a_flipped_bit_or_a_short_file_costs_is_named_and_marked(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            data[data.index(b"00251:") + 3] ^= 1
            path.write_bytes(data)

        for change in (flip, lambda path: os.truncate(path, path.stat().st_size // 2), lambda path: path.unlink()):
            directory, data = self.copy()
            change(data)
            new, done = self.repaired(directory, 4)
            damaged = objects(done, "damaged")
            self.assertTrue(all(d["bytes"] > 0 for d in damaged))
            lost = {(d["topic"], d["partition"], o) for d in damaged for o in range(d["offset_first"], d["offset_last"] + 1)}
            self.assertEqual(exported(new), [r for r in source.records if (TOPIC, r["partition"], r["offset"]) not in lost])
            marks = objects(cli("check", new, "--json"), "loss")
            self.assertEqual({m["reason"] for m in marks}, {"damage"})
            self.assertEqual({(m["topic"], m["partition"], o) for m in marks for o in range(m["offset_first"], m["offset_last"] + 1)}, lost)
            text = cli("check", new).stdout.decode()
            self.assertIn("because of damage", text)
            # It is served as it is, and goes on where the old one ended.
            home = folder / f"{self.id()}-served-{next(COUNT)}"
            shutil.copytree(new, home / "data")
            with Broker(directory=home, sets=["topic_defaults.retention_time=3650d"]) as broker:
                for partition in (0, 1):
                    cli("produce", TOPIC, "--partition", partition, "--broker", broker.bootstrap, input=b"next\n")
                tail = [json.loads(line) for line in cli("tail", TOPIC, "--from", "earliest", "--no-follow", "--json", "--broker", broker.bootstrap).stdout.splitlines()]
                self.assertEqual(len(tail), len(exported(new)) + 2)
                self.assertEqual([(r["offset"], r["value"]) for r in tail if r["value"] == "next"], [(150, "next")] * 2)

    def test_a_ring_that_is_gone_costs_what_was_in_it(self):
        for source_directory in (source.whole, source.killed):
            with self.subTest(source_directory.name):
                directory = folder / f"{self.id()}-{next(COUNT)}"
                shutil.copytree(source_directory, directory)
                self.addCleanup(shutil.rmtree, directory)
                (directory / "headwater.ring").unlink()
                new, done = self.repaired(directory, 4)
                self.assertIn("ring", " ".join(objects(done, "unread")))
                found = [r for r in source.of_jsonl(cli("export", new).stdout) if r["topic"] == TOPIC]
                self.assertTrue(all(r in source.records for r in found))
                if source_directory == source.whole:
                    # Nothing was in it any more.
                    self.assertEqual(found, source.records)

    def test_what_serve_set_aside_is_repaired_beside_it(self):
        directory, _ = self.copy()
        database = (directory / "headwater.redb").read_bytes()
        (directory / "headwater.redb").write_bytes(b"rubbish" * 3000)
        home = folder / f"{self.id()}-served"
        home.mkdir()
        shutil.copytree(directory, home / "data")
        with Broker(directory=home) as broker:
            aside = broker.data / "headwater.redb.damaged-1"
            self.assertTrue(aside.exists())
            aside.write_bytes(database)
            new = folder / f"{self.id()}-new"
            done = cli("repair", "--from", aside, "--to", new)
            self.assertIn(b"records are in", done.stdout)
            self.assertEqual(exported(new), source.records)

    def test_nothing_is_written_over_and_nothing_made_of_nothing(self):
        directory, _ = self.copy()
        (directory / "headwater.redb").write_bytes(b"rubbish" * 3000)
        new, done = folder / "never", None
        for code, frm, to in ((4, directory, new), (3, folder / "nowhere", new), (1, source.whole, source.killed)):
            done = cli("repair", "--from", frm, "--to", to, check=False)
            self.assertEqual((done.returncode, done.stdout), (code, b""), done.stderr)
            self.assertIn(b"Try:", done.stderr)
        self.assertEqual(cli("repair", "--from", directory, check=False).returncode, 2)
        self.assertFalse(new.exists())
        self.assertFalse(new.with_name("never.part").exists())


class Backup(unittest.TestCase):
    def test_everything_acked_before_it_began_is_in_it_while_more_comes(self):
        with Broker() as broker:
            http = f"http://127.0.0.1:{broker.http}"
            acked, stop = [], threading.Event()

            def produce():
                producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1, "enable.idempotence": True})
                number = 0
                while not stop.is_set():
                    value = b"%06d" % number + bytes(2000)
                    producer.produce("run", value, partition=0, on_delivery=lambda error, m: error or acked.append(int(m.value()[:6])))
                    number += 1
                    producer.poll(0.001 if number % 20 == 0 else 0)
                    if number % 500 == 0:
                        producer.flush(20)
                producer.flush(20)

            thread = threading.Thread(target=produce)
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(stop.set)
            eventually(lambda: len(acked) > 3000, 60, "3000 acks")
            before = len(acked)
            new, stream, restored = folder / "live", folder / "live.backup", folder / "restored"
            cli("backup", "--http", http, "--to", new)
            stream.write_bytes(cli("backup", "--http", http, "--to", "-").stdout)
            after = len(acked)
            eventually(lambda: len(acked) > after, 30, "acks behind the backup")
            stop.set()
            thread.join()
            cli("restore", "--from", stream, "--to", restored)
            ids = set()
            for copy in (new, restored):
                self.assertEqual(cli("check", copy).returncode, 0)
                lines = cli("export", copy, "--topic", "run", "--partition", 0).stdout.splitlines()
                numbers = [int(json.loads(line)["value"][:6]) for line in lines]
                self.assertEqual(numbers, list(range(len(numbers))))
                self.assertGreaterEqual(len(numbers), before)
                (store,) = objects(cli("inspect", copy, "--json"), "store")
                ids.update((store["store_id"], store["origin"]))
            broker.stop()
            (store,) = objects(cli("inspect", broker.data, "--json"), "store")
            # Two copies, each another store, both of this one.
            self.assertEqual((len(ids), store["store_id"] in ids, store["origin"]), (3, True, None))

    def test_a_stopped_directory_is_copied_and_restored_from_a_pipe(self):
        piped = cli("backup", "--from", source.whole, "--to", "-").stdout
        restored, copied = folder / "piped", folder / "copied"
        cli("restore", "--from", "-", "--to", restored, input=piped)
        cli("backup", "--from", source.whole, "--to", copied)
        for copy in (restored, copied):
            self.assertEqual(exported(copy), source.records)
            self.assertEqual(told(copy), told(source.whole))
        for bad in (piped[:-1], piped[: len(piped) // 2], b"rubbish" * 100, b""):
            done = cli("restore", "--from", "-", "--to", folder / "bad", input=bad, check=False)
            self.assertEqual(done.returncode, 4, done.stderr)
            self.assertIn(b"Try:", done.stderr)
            self.assertFalse((folder / "bad").exists())

    def test_a_directory_that_is_served_and_a_broker_that_is_gone_are_told(self):
        with Broker() as broker:
            done = cli("backup", "--from", broker.data, "--to", folder / "no", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"process {broker.process.pid}".encode(), done.stderr)
            http = f"http://127.0.0.1:{broker.http}"
        done = cli("backup", "--http", http, "--to", folder / "no", check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"Try:", done.stderr)
        self.assertEqual(cli("backup", "--http", http, "--from", source.whole, "--to", folder / "no", check=False).returncode, 2)
        self.assertFalse((folder / "no").exists())


if __name__ == "__main__":
    unittest.main()
