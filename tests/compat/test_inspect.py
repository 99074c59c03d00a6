"""`headwater inspect` and `headwater export` on directories that a broker left, whole and damaged, beside what was sent over Kafka
and what `headwater check` says. The directory is hashed before and after."""

import csv
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time
import unittest

from confluent_kafka import Producer

from harness import BIN, SEED, Broker, cli

TOPIC = "inspect"
# Milliseconds of 2026-01-31T08:00Z; a second from record to record.
BEGAN = 1_769_846_400_000
ODD = [
    (None, None, []),
    (b"", b"", []),
    (b"k", None, [("a", b"1"), ("a", b""), ("b", None), ("c", b"\xfe")]),
    (None, b"text", []),
    (b"\xff\x00key", bytes(range(256)), []),
    (b"quote", 'a,"b"\r\nc — d'.encode(), [("x", 'y,"z"'.encode())]),
    (b"nul", b"a\x00b", []),
    (b"formula", b" =1+1 ", []),
]


def digest(directory):
    """Every file and folder, its times and its bytes."""
    told = hashlib.sha256()
    for path in sorted([directory, *directory.rglob("*")]):
        stat = path.stat()
        told.update(repr((str(path.relative_to(directory)), stat.st_mode, stat.st_size, stat.st_mtime_ns)).encode())
        if path.is_file():
            told.update(path.read_bytes())
    return told.hexdigest()


def sent():
    """Partition, key, value, headers, time of every record, in order."""
    records, chance = [], random.Random(SEED)
    for i in range(300):
        if i < 40:
            # Seven, so that each of them comes to both partitions.
            key, value, headers = ODD[i % 7 if i < 35 else 7]
        else:
            # What does not become smaller is found again in the files; the large ones are segments.
            key, value, headers = b"press/%d" % (i % 7), b"%05d:" % i + chance.randbytes(20_000 if i % 50 == 0 else 400), []
        records.append((i % 2, key, value, headers, BEGAN + i * 1000))
    return records


def setUpModule():
    global whole, killed, records, folder, while_running
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory(prefix="headwater-inspect-")))
    whole, killed, records, offsets = folder / "whole", folder / "killed", [], [0, 0]
    with Broker(sets=["topic_defaults.retention_time=3650d"]) as broker:
        cli("topic", "create", TOPIC, "--partitions", "2", "--setting", "retention.ms=-1", "--broker", broker.bootstrap)
        cli("topic", "create", "other", "--partitions", "1", "--broker", broker.bootstrap)
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "enable.idempotence": True, "compression.type": "lz4"})
        failed = []
        for n, (partition, key, value, headers, time_ms) in enumerate(sent()):
            producer.produce(TOPIC, value, key, partition, timestamp=time_ms, headers=headers, on_delivery=lambda error, _: error and failed.append(error))
            records.append({"topic": TOPIC, "partition": partition, "offset": offsets[partition], "timestamp_ms": time_ms, "key": key, "value": value, "headers": headers})
            offsets[partition] += 1
            if n % 10 == 9:
                producer.flush(20)
        assert not failed, failed
        cli("produce", "other", "--broker", broker.bootstrap, input=b"a\nb\n")
        while_running = {command: cli(command, broker.data, check=False) for command in ("inspect", "export")}, broker.process.pid
        broker.kill()
        shutil.copytree(broker.data, killed)
        broker.start()
        code, _ = broker.stop()
        assert code == 0, broker.log_text()
        shutil.copytree(broker.data, whole)
    records.sort(key=lambda r: (r["partition"], r["offset"]))


def unjson(value):
    if isinstance(value, dict):
        assert list(value) == ["hex"], value
        data = bytes.fromhex(value["hex"])
        try:
            data.decode()
        except UnicodeDecodeError:
            return data
        raise AssertionError(f"{data} is text")
    return None if value is None else value.encode()


def of_jsonl(output):
    found = []
    for line in output.splitlines():
        told = json.loads(line)
        stamp = told.pop("timestamp")
        assert stamp == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(told["timestamp_ms"] // 1000)) + f".{told['timestamp_ms'] % 1000:03}Z", stamp
        told["key"], told["value"] = unjson(told["key"]), unjson(told["value"])
        told["headers"] = [(h["name"], unjson(h["value"])) for h in told["headers"]]
        found.append(told)
    return found


def of_csv(output):
    def field(kind, text):
        return {"null": lambda: None, "text": text.encode, "hex": lambda: bytes.fromhex(text)}[kind]()

    assert output.endswith(b"\r\n")
    found = []
    for row in csv.DictReader(io.StringIO(output.decode(), newline=""), strict=True):
        headers = json.loads(row["headers"] or "[]")
        found.append({"topic": row["topic"], "partition": int(row["partition"]), "offset": int(row["offset"]), "timestamp_ms": int(row["timestamp_ms"]),
                      "key": field(row["key_kind"], row["key"]), "value": field(row["value_kind"], row["value"]), "headers": [(h["name"], unjson(h["value"])) for h in headers]})
    return found


def export(directory, *args, check=True):
    return cli("export", directory, *args, check=check)


class Whole(unittest.TestCase):
    def setUp(self):
        before = {d: digest(d) for d in (whole, killed)}
        self.addCleanup(lambda: self.assertEqual({d: digest(d) for d in before}, before))

    def test_what_was_sent_is_exported_as_json_lines_and_as_csv(self):
        for directory in (whole, killed):
            with self.subTest(directory.name):
                self.assertEqual(of_jsonl(export(directory, "--topic", TOPIC).stdout), records)
                self.assertEqual(of_csv(export(directory, "--topic", TOPIC, "--format", "csv").stdout), records)

    def test_topics_partitions_times_offsets_and_keys_choose(self):
        everything = of_jsonl(export(whole).stdout)
        self.assertEqual([r for r in everything if r["topic"] == TOPIC], records)
        self.assertEqual([r["value"] for r in everything if r["topic"] == "other"], [b"a", b"b"])
        self.assertEqual(of_jsonl(export(whole, "--topic", TOPIC, "--topic", "other").stdout), everything)
        self.assertEqual(of_jsonl(export(whole, "--topic", TOPIC, "--partition", 1).stdout), [r for r in records if r["partition"] == 1])
        for args, wanted in (
            (["--from", "2026-01-31T08:00:50Z"], lambda r: r["timestamp_ms"] >= BEGAN + 50_000),
            (["--until", "2026-01-31T09:00:50+01:00"], lambda r: r["timestamp_ms"] < BEGAN + 50_000),
            (["--from", "2026-01-31T08:00:50.500Z", "--until", "2026-01-31T08:02Z"], lambda r: BEGAN + 50_500 <= r["timestamp_ms"] < BEGAN + 120_000),
            (["--from", "17", "--until", "23"], lambda r: 17 <= r["offset"] < 23),
            (["--from", "-1m"], lambda r: r["timestamp_ms"] >= (time.time() - 60) * 1000),
            (["--key", "press/3"], lambda r: r["key"] == b"press/3"),
            (["--key", "press"], lambda r: False),
            (["--key", ""], lambda r: r["key"] == b""),
            (["--key-prefix", "press/"], lambda r: (r["key"] or b"").startswith(b"press/")),
            (["--key-prefix", ""], lambda r: r["key"] is not None),
        ):
            with self.subTest(args):
                self.assertEqual(of_jsonl(export(whole, "--topic", TOPIC, *args).stdout), [r for r in records if wanted(r)])

    def test_inspect_tells_everything(self):
        for directory in (whole, killed):
            with self.subTest(directory.name):
                lines = [json.loads(line) for line in cli("inspect", directory, "--json").stdout.splitlines()]
                told = {}
                for line in lines:
                    for name, value in line.items():
                        told.setdefault(name, []).append(value)
                self.assertEqual(told["sound"], [True])
                (store,) = told["store"]
                self.assertEqual((store["generation"], len(store["store_id"])), (0, 32))
                self.assertGreater(store["journal_rows"], 0)
                self.assertGreater(store["segments"], 0)
                sizes = {f["name"]: f["bytes"] for f in told["file"]}
                self.assertEqual(sizes, {str(p.relative_to(directory)): p.stat().st_size for p in directory.rglob("*") if p.is_file()})
                self.assertTrue(all("disk_bytes" in f for f in told["file"]))
                topic = next(t for t in told["topic"] if t["topic"] == TOPIC)
                self.assertEqual((topic["partitions"], topic["settings"]), (2, {"retention.ms": "-1"}))
                for p in (p for p in told["partition"] if p["topic"] == TOPIC):
                    own = [r for r in records if r["partition"] == p["partition"]]
                    self.assertEqual((p["log_start"], p["offset_next"], p["records"]), (0, len(own), len(own)))
                    self.assertEqual((p["first_ms"], p["last_ms"]), (own[0]["timestamp_ms"], own[-1]["timestamp_ms"]))
                tables = {t["table"]: t for t in told["table"]}
                self.assertEqual(set(tables), {"kafka", "mqtt_sessions", "mqtt_qos2", "devices", "forward", "producers"})
                self.assertGreaterEqual(tables["producers"]["rows"], 2)
                if directory == whole:
                    (data,) = told["data_file"]
                    self.assertEqual(data["live_bytes"], sum(p["bytes"] for p in told["partition"]))
                    self.assertAlmostEqual(data["fill"], data["live_bytes"] / data["bytes"])
                text = cli("inspect", directory).stdout.decode()
                for part in ("headwater.redb", "headwater.ring", TOPIC, "retention.ms = -1", "offsets 0 to 150 (exclusive)", "2026-01-31T08:04:59.000Z", "mqtt_qos2"):
                    self.assertIn(part, text)

    def test_a_reader_that_has_seen_enough_is_no_failure(self):
        process = subprocess.Popen([str(BIN), "export", str(whole)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(20), 0)
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()

    def test_wrong_use_is_2_and_what_is_not_there_is_3(self):
        empty = folder / "empty"
        empty.mkdir(exist_ok=True)
        for code, command in (
            (2, ["export", whole, "--from", "yesterday"]),
            (2, ["export", whole, "--from", "latest"]),
            (2, ["export", whole, "--until", "earliest"]),
            (2, ["export", whole, "--key", "a", "--key-prefix", "b"]),
            (2, ["export", whole, "--format", "xml"]),
            (2, ["inspect"]),
            (3, ["export", whole, "--topic", "nothing"]),
            (3, ["export", whole, "--topic", "other", "--partition", "1"]),
            (3, ["export", empty]),
            (3, ["inspect", empty]),
            (3, ["inspect", folder / "nowhere"]),
        ):
            with self.subTest(command):
                done = cli(*command, check=False)
                self.assertEqual((done.returncode, done.stdout), (code, b""), done.stderr)
                if code == 3 or "latest" in command or "yesterday" in command:
                    self.assertIn(b"Try:", done.stderr)
        self.assertEqual(os.listdir(empty), [])

    def test_a_running_brokers_directory_is_refused_with_its_process(self):
        answers, pid = while_running
        for command, done in answers.items():
            with self.subTest(command):
                self.assertEqual((done.returncode, done.stdout), (1, b""))
                self.assertIn(f"process {pid}".encode(), done.stderr)
                self.assertIn(b"Try:", done.stderr)


class Damaged(unittest.TestCase):
    def damaged(self, change):
        """A copy whose data file is changed; what the three commands say of it. Gives what is lost by the exporter's own words."""
        directory = folder / self.id()
        shutil.copytree(whole, directory)
        self.addCleanup(shutil.rmtree, directory)
        (path,) = (directory / "headwater.data").iterdir()
        change(path)
        before = digest(directory)
        check = cli("check", directory, "--json", check=False)
        ranges = [json.loads(line)["damaged"] for line in check.stdout.splitlines() if b'"damaged"' in line]
        lost = {(r["topic"], r["partition"], offset) for r in ranges for offset in range(r["offset_first"], r["offset_last"] + 1)}
        self.assertTrue(lost)
        inspected = cli("inspect", directory, "--json", check=False)
        self.assertEqual([json.loads(line)["damaged"] for line in inspected.stdout.splitlines() if b'"damaged"' in line], ranges)
        text = cli("inspect", directory, check=False)
        self.assertIn(f"DAMAGED {ranges[0]['topic']} partition {ranges[0]['partition']}", text.stdout.decode())
        intact = [r for r in records if (r["topic"], r["partition"], r["offset"]) not in lost]
        for form, read in (("jsonl", of_jsonl), ("csv", of_csv)):
            done = export(directory, "--format", form, check=False)
            self.assertEqual([r for r in read(done.stdout) if r["topic"] == TOPIC], intact)
            for r in ranges:
                self.assertIn(f"{r['topic']} partition {r['partition']} offsets {r['offset_first']} to {r['offset_last']}: ", done.stderr.decode())
            self.assertIn(b"Try:", done.stderr)
            self.assertEqual(done.returncode, 4)
        self.assertEqual([done.returncode for done in (check, inspected, text)], [4, 4, 4])
        self.assertEqual(digest(directory), before)
        return directory, ranges, intact

    def test_a_flipped_bit_costs_its_batch_and_nothing_else(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            at = data.index(b"00251:") + 3
            data[at] ^= 1
            path.write_bytes(data)

        directory, ranges, intact = self.damaged(flip)
        (lost,) = ranges
        self.assertEqual((lost["partition"], lost["offset_first"] <= 125 <= lost["offset_last"]), (1, True))
        # The other partition, and what lies before and behind, is whole.
        self.assertEqual(export(directory, "--topic", TOPIC, "--partition", 0).returncode, 0)
        self.assertEqual(export(directory, "--topic", TOPIC, "--until", lost["offset_first"]).returncode, 0)
        self.assertEqual(export(directory, "--topic", TOPIC, "--from", lost["offset_last"] + 1).returncode, 0)

    def test_a_short_data_file_costs_what_was_behind(self):
        _, _, intact = self.damaged(lambda path: os.truncate(path, path.stat().st_size // 2))
        self.assertTrue(intact)

    def test_a_missing_data_file_is_told(self):
        directory, _, intact = self.damaged(lambda path: path.write_bytes(b""))
        self.assertEqual(intact, [])
        shutil.rmtree(directory / "headwater.data")
        lines = [json.loads(line) for line in cli("inspect", directory, "--json", check=False).stdout.splitlines()]
        self.assertEqual([line["data_file"]["bytes"] for line in lines if "data_file" in line], [None])

    def test_a_database_that_is_none_is_told(self):
        directory = folder / self.id()
        shutil.copytree(whole, directory)
        self.addCleanup(shutil.rmtree, directory)
        (directory / "headwater.redb").write_bytes(b"rubbish" * 3000)
        before = digest(directory)
        for command in ("inspect", "export", "check"):
            with self.subTest(command):
                done = cli(command, directory, check=False)
                self.assertEqual(done.returncode, 4, done.stderr)
        self.assertEqual(digest(directory), before)


if __name__ == "__main__":
    unittest.main()
