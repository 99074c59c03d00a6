"""The fault matrix: what the real binary does when its disk or its files fail. Each case closes with a row: the fault, what
the broker said, how many records were acked, how many of them are lost (0, but for what the fault itself destroyed: these must
be named by markers, or be told with the whole store), and in how many seconds records were taken again, without hands. A shim (faults.c) fails calls on demand."""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

from confluent_kafka import Producer

from harness import SEED, Broker, cli, eventually
from readback import read_topic

HANG = float(os.environ.get("HEADWATER_HANG", "3"))
FLIPS = int(os.environ.get("HEADWATER_FLIPS", "24"))
TOPIC = "faults"
RECOVERY = 5.0
EIO, ENOSPC, EROFS = 5, 28, 30
ALL, RING, DATABASE, BODIES = "data/headwater", "headwater.ring", "headwater.redb", "headwater.data/"
GENERATION = 1 << 40
EARLIEST = {"auto.offset.reset": "earliest", "log_level": 0}
SETS = ["topic_defaults.partitions=1", "topic_defaults.retention_size=unlimited"]


def shim():
    """The shim, compiled once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="headwater-faults-"))
    unittest.addModuleCleanup(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "faults.so"
    source = pathlib.Path(__file__).with_name("faults.c")
    built = subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source)], capture_output=True, text=True)
    if built.returncode != 0:
        raise unittest.SkipTest(f"the shim cannot be compiled: {built.stderr[-500:]}")
    return library


class Sender:
    """Produces numbered records and knows which were acked, and where."""

    def __init__(self, broker, acked=None, name="s"):
        self.name, self.acked, self.failed = name, acked if acked is not None else {}, []
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "message.timeout.ms": 120_000, "linger.ms": 1, "log_level": 0, "retry.backoff.ms": 50, "retry.backoff.max.ms": 200, "reconnect.backoff.max.ms": 200})
        self.next = 0

    def send(self, count=1, size=100):
        for _ in range(count):
            value = f"{self.name}-{self.next} ".encode() + random.Random(self.next).randbytes(size)
            self.next += 1
            self.producer.produce(TOPIC, value, on_delivery=lambda error, m, v=value: self.note(error, m, v))
            self.producer.poll(0)
        return self

    def note(self, error, message, value):
        if error is None:
            self.acked[message.offset()] = value
        else:
            self.failed.append(error)

    def wait(self, seconds):
        return self.producer.flush(seconds)


class Load(threading.Thread):
    """A sender that goes on all the time, 20 records on their way at most."""

    def __init__(self, broker, size=20_000):
        super().__init__(daemon=True)
        self.sender, self.size, self.ended = Sender(broker, name="load"), size, threading.Event()

    def run(self):
        while not self.ended.is_set():
            if len(self.sender.producer) < 20:
                self.sender.send(1, self.size)
            self.sender.producer.poll(0.005)

    def end(self):
        self.ended.set()
        self.join()
        return self.sender.wait(30)


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = shim()
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="headwater-faults-")))
        # What most cases begin with: some MiB in the data files, in large batches and in small ones, and closed.
        with Broker(sets=SETS, directory=cls.folder) as broker:
            sender = Sender(broker)
            for _ in range(6):
                sender.send(12, 40_000).wait(20)
                sender.send(12, 300).wait(20)
            cls.filled = dict(sender.acked)
            assert len(cls.filled) == 144 and broker.stop()[0] == 0

    def setUp(self):
        self.rng = random.Random(f"{SEED}-{self.id()}")
        self.began = time.monotonic()

    def broker(self, filled=True, **more):
        """A broker, not started, on a copy of the filled directory, under the shim."""
        broker = Broker(sets=SETS, **more)
        self.addCleanup(broker.__exit__)
        self.acked = {}
        if filled:
            shutil.copytree(self.folder / "data", broker.data)
            self.acked = dict(self.filled)
        self.control = broker.directory / "faults"
        self.control.write_bytes(bytes(8192))
        broker.environment = {"LD_PRELOAD": str(self.library), "FAULTS_FILE": str(self.control)}
        return broker

    def rules(self, *lines):
        with open(self.control, "r+b", buffering=0) as file:
            file.write("\n".join(lines).encode().ljust(4096, b"\0"))

    def hits(self):
        return int.from_bytes(self.control.read_bytes()[4096:4104], "little")

    def met(self, times=1):
        eventually(lambda: self.hits() >= times, 20, "the fault")

    def health(self, broker):
        return broker.http_get("/healthz")

    def takes_records(self, broker):
        """Seconds until a record is acked."""
        began = time.monotonic()
        sender = Sender(broker, self.acked, name=f"after{len(self.acked)}")
        sender.send()
        self.assertEqual(sender.wait(15), 0, broker.log_text()[-3000:])
        return time.monotonic() - began

    def losses(self, broker):
        losses = json.loads(broker.http_get("/api/v1/losses"))
        return [(loss["offset_first"], loss["offset_last"]) for loss in losses if loss["reason"] == "damage"]

    def compare(self, broker, all_gone=False):
        """How many acked records are not there but named by a marker; none may be missing otherwise. No offset has another's record."""
        there = {r.offset: r.value for r in read_topic(broker.bootstrap, TOPIC, 30, **EARLIEST)}
        markers = self.losses(broker)
        missing = {offset for offset, value in self.acked.items() if there.get(offset) != value}
        other = {offset for offset in missing if offset in there}
        self.assertEqual(other, set(), "an offset has another record than the one that was acked there")
        unnamed = {offset for offset in missing if not any(first <= offset <= last for first, last in markers)}
        if all_gone:
            self.assertIn("store-lost", self.health(broker))
            unnamed = {offset for offset in unnamed if offset >= GENERATION}
        self.assertEqual(unnamed, set(), f"acked and neither there nor named by {markers}\n{broker.log_text()[-3000:]}")
        return len(missing)

    def row(self, fault, broker, said, named=0, seconds=0.0, bound=RECOVERY, hands="yes", whole=0):
        told = broker.log_text() + (self.health(broker) if broker.process.poll() is None else "")
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in told.splitlines() if re.search(said, line)]
        self.assertTrue(lines, f"{said!r} was not said:\n{broker.log_text()[-3000:]}")
        self.assertLessEqual(seconds, bound, f"{fault}: it took records again too late\n{broker.log_text()[-3000:]}")
        words = re.sub(r"^.*? headwater[a-z:_]*: ", "", lines[0]).replace(str(broker.directory), "").replace("|", "/")
        words = (words if len(words) <= 150 else words[:147] + "...") if said else "nothing: it works"
        by = [f"{n} {how}" for n, how in ((named - whole, "named by markers"), (whole, "told as a store that is lost")) if n]
        gone = f"0; of what was destroyed {', '.join(by)}" if by else "0"
        print(f"| {fault} | {words} | {len(self.acked)} | {gone} | {hands}, {seconds:.1f} s |", flush=True)

    def goes_on(self, broker, fault, said, seconds=0.0, **more):
        """After the cause ended: records are taken, and all that were acked are there, now and after kill -9. Closes the row."""
        seconds = max(seconds, self.takes_records(broker))
        eventually(lambda: "store:" not in self.health(broker), 5, "a store that works")
        named = self.compare(broker, **more)
        self.row(fault, broker, said, named, seconds, whole=named if more.get("all_gone") else 0)
        broker.environment = {}
        broker.restart()
        # What only one process could not read may be there again.
        self.assertLessEqual(self.compare_after_restart(broker, more), named)
        self.takes_records(broker)

    def compare_after_restart(self, broker, more):
        if more.get("all_gone"):
            self.acked = {offset: value for offset, value in self.acked.items() if offset >= GENERATION}
            self.compare(broker)
            return len(self.filled)
        return self.compare(broker)

    def under_load(self, fault, rules, said, seconds=1.0):
        """A fault that comes while records do, and ends."""
        broker = self.broker()
        broker.start()
        load = Load(broker)
        load.sender.acked = self.acked
        load.start()
        eventually(lambda: len(self.acked) > len(self.filled) + 50, 15, "some acks")
        self.rules(*rules)
        self.met()
        time.sleep(seconds)
        during, acked = self.health(broker), len(self.acked)
        ended = time.monotonic()
        self.rules()
        eventually(lambda: len(self.acked) > acked, 15, "an ack")
        seconds = time.monotonic() - ended
        self.assertEqual(load.end(), 0, broker.log_text()[-3000:])
        self.assertEqual(load.sender.failed, [])
        self.goes_on(broker, fault, said, seconds)
        return during

    # What the disk answers.

    def test_no_space(self):
        during = self.under_load("ENOSPC on every write", [f"write {ALL} errno {ENOSPC}"], "No space left on device")
        self.assertIn("No space left", during)

    def test_eio_on_write(self):
        for name, part in (("the ring", RING), ("the database", DATABASE), ("the data files", BODIES), ("every file", ALL)):
            with self.subTest(name):
                self.under_load(f"EIO on write, {name}", [f"write {part} errno {EIO}"], "Input/output error")

    def test_eio_on_sync(self):
        for name, part in (("the ring", RING), ("the database", DATABASE), ("the data files", BODIES)):
            with self.subTest(name):
                self.under_load(f"EIO on sync, {name}", [f"sync {part} errno {EIO}"], "Input/output error")

    def test_eio_on_read_for_a_while(self):
        broker = self.broker()
        broker.start()
        self.rules(f"read {BODIES} errno {EIO}")
        with self.assertRaises(AssertionError):
            read_topic(broker.bootstrap, TOPIC, 2)
        self.met()
        self.rules()
        self.goes_on(broker, "EIO on read, the data files", "a data file cannot be read there")

    def test_a_body_that_cannot_be_read_any_more(self):
        broker = self.broker()
        self.rules(f"read {BODIES} bad 1000000")
        broker.start()
        with self.assertRaises(AssertionError):
            read_topic(broker.bootstrap, TOPIC, 2, **EARLIEST)
        self.assertEqual(self.losses(broker), [], "given up at once")

        def read():
            try:
                return read_topic(broker.bootstrap, TOPIC, 3, **EARLIEST)
            except AssertionError:
                return None

        eventually(read, 25, "reads behind it")
        self.met()
        self.assertEqual(len(self.losses(broker)), 1)
        self.goes_on(broker, "a body in a data file that cannot be read any more (EIO)", "a stored batch is damaged")

    def test_eio_on_read_when_the_store_is_opened_anew(self):
        self.under_load("EIO on read, database and ring, as they are opened anew", [f"sync {RING} errno {EIO}", f"read {DATABASE} errno {EIO}", f"read {RING} errno {EIO}"], "Input/output error", 5)

    def test_a_page_of_the_database_that_cannot_be_read_any_more(self):
        data = (self.folder / "data" / DATABASE).read_bytes()
        # A leaf with rows of the journal or of the segments: a place is in each of them. The page with the most that the database still names.
        for page in sorted(range(len(data) // 4096), key=lambda page: -len(re.findall(rb"\0\0\0\x01\0\0\0\0\0", data[page * 4096 : page * 4096 + 4096]))):
            broker = self.broker()
            self.rules(f"read {DATABASE} bad {page * 4096 + 100}")
            began = time.monotonic()
            broker.start()
            if self.hits():
                break
            broker.kill()
        seconds = time.monotonic() - began
        self.assertIn("store-damaged", self.health(broker))
        self.goes_on(broker, "a page of the database that cannot be read any more (EIO)", "damage was found, and mended", seconds)

    def test_short_writes(self):
        self.under_load("short writes, 512 bytes a call", [f"write {ALL} short 512"], "", 1)

    def test_read_only(self):
        during = self.under_load("read-only for a while (EROFS)", [f"write {ALL} errno {EROFS}", f"sync {ALL} errno {EROFS}"], "Read-only file system")
        self.assertIn("Read-only", during)

    def test_a_disk_that_hangs(self):
        broker = self.broker()
        broker.start()
        sender = Sender(broker, self.acked, name="hang").send(20)
        sender.wait(10)
        self.rules(f"write {RING} hang 1")
        sender.send(5)
        self.met()
        time.sleep(HANG)
        self.assertEqual(len(self.acked), len(self.filled) + 20, "acked while the disk hangs")
        during = self.health(broker)
        self.assertIn("a commit has been at the disk for", during)
        self.rules()
        self.assertEqual(sender.wait(20), 0)
        self.assertEqual(self.health(broker).strip(), "ok")
        self.goes_on(broker, f"a disk that hangs for {HANG:.0f} s", "a commit was at the disk for so long")

    def test_a_slow_disk(self):
        broker = self.broker()
        broker.start()
        self.rules(f"write {ALL} rate 1000000")
        sender = Sender(broker, self.acked, name="slow").send(75, 40_000)
        self.assertEqual(sender.wait(30), 0)
        self.met(2)
        self.goes_on(broker, "a slow disk, 1 MB/s", "")

    # What is on the disk.

    def flip(self, path, at):
        with open(path, "r+b", buffering=0) as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1 << self.rng.randrange(8)]))

    def starts_after(self, broker):
        began = time.monotonic()
        broker.start()
        return time.monotonic() - began

    def test_bits_flip_in_the_database(self):
        size = (self.folder / "data" / DATABASE).stat().st_size
        used = [page for page in range(size // 4096) if (self.folder / "data" / DATABASE).read_bytes()[page * 4096 : page * 4096 + 4096].strip(b"\0")]
        pages = used if FLIPS >= len(used) else sorted(self.rng.sample(used, FLIPS))
        named, whole, slowest, mended = 0, 0, 0.0, 0
        for page in pages:
            with self.subTest(page=page):
                broker = self.broker()
                for at in range(0, 4096, 64):
                    self.flip(broker.data / DATABASE, page * 4096 + at + self.rng.randrange(64))
                slowest = max(slowest, self.starts_after(broker) + self.takes_records(broker))
                lost = "store-lost" in self.health(broker)
                mended += "store-damaged" in self.health(broker)
                missing = self.compare(broker, all_gone=lost)
                named += missing
                whole += missing if lost else 0
                last = broker
        self.row(f"bits flipped in {len(pages)} of {len(used)} pages of the database, one after the other ({mended} mended)", last, "", named, slowest, 10, whole=whole)

    def test_a_bit_flips_in_the_ring(self):
        broker = self.broker()
        broker.start()
        for n in range(12):
            self.assertEqual(Sender(broker, self.acked, name=f"ring{n}").send(3, 500).wait(10), 0)
        broker.kill()
        ring = (broker.data / RING).read_bytes()
        records = [at for at in range(4096, len(ring), 4096) if ring[at : at + 8] == b"HWRECORD"]
        records.sort(key=lambda at: ring[at + 8 : at + 16][::-1])
        # The database has the older ones. Of the newest nobody can say whether they were told to be durable.
        self.flip(broker.data / RING, records[-5] + 200)
        broker.start()
        self.goes_on(broker, "a bit flipped in a record of the ring", r"the ring is damaged: its record \d+ is damaged")

    def test_a_bit_flips_in_a_data_file(self):
        broker = self.broker()
        path = next((broker.data / "headwater.data").glob("*.data"))
        self.flip(path, 1_000_000)
        broker.start()
        self.goes_on(broker, "a bit flipped in a body of a data file", "a stored batch is damaged")
        # The marker went with the next commit.
        cli("check", self.stopped(broker))

    def stopped(self, broker):
        self.assertEqual(broker.stop()[0], 0)
        return broker.data

    def test_a_file_is_lost(self):
        for name in (RING, DATABASE, "headwater.data/0000000001.data", "headwater.data"):
            with self.subTest(name):
                broker = self.broker()
                path = broker.data / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                broker.start()
                self.goes_on(broker, f"{name} is lost", "is missing", all_gone=name == DATABASE)

    def test_a_file_is_garbage(self):
        for name in (RING, DATABASE, "headwater.data/0000000001.data"):
            with self.subTest(name):
                broker = self.broker()
                path = broker.data / name
                garbage = self.rng.randbytes(path.stat().st_size)
                path.write_bytes(garbage)
                broker.start()
                said = "a stored batch is damaged" if "data/" in name else "the store was damaged"
                self.goes_on(broker, f"{name} is garbage", said, all_gone=name == DATABASE)
                if "data/" not in name:
                    aside = path.with_name(f"{name}.damaged-1").read_bytes()
                    self.assertEqual(aside, garbage, "what was damaged is not as it was")

    def test_a_file_is_of_a_newer_format(self):
        broker = self.broker()
        path = broker.data / DATABASE
        data = path.read_bytes()
        # The rows of a page of redb: all keys, then all values. The format's is the first of its table.
        newer = re.sub(rb"(format[a-z_]*topic_key_next\0\0\0)[\x02-\x09]", lambda found: found.group(1) + b"\x63", data)
        self.assertNotEqual(newer, data)
        path.write_bytes(newer)
        broker.start(wait=False)
        self.assertNotEqual(broker.process.wait(10), 0)
        self.assertEqual([entry.name for entry in broker.data.iterdir() if "damaged" in entry.name], [], "it was set aside")
        self.row("a newer format", broker, r"the data has format 99, this headwater knows formats up to \d")
        path.write_bytes(data)
        broker.start()
        self.assertEqual(self.compare(broker), 0)

    # Who else is there.

    def test_a_second_process(self):
        broker = self.broker()
        broker.start()
        second = Broker(sets=SETS)
        self.addCleanup(second.__exit__)
        second.data = broker.data
        second.start(wait=False)
        self.assertNotEqual(second.process.wait(10), 0)
        self.assertIn(f"is served by process {broker.process.pid}", second.log_text())
        self.row("a second process", second, r"is served by process \d+")
        self.assertEqual((self.takes_records(broker) < RECOVERY, self.compare(broker)), (True, 0))

    def test_a_directory_without_rights(self):
        if os.getuid() != 0:
            self.skipTest("to give rights away takes root")
        broker = self.broker(filled=False)
        broker.directory.chmod(0o755)
        broker.data.mkdir(mode=0o700)
        self.control.chmod(0o666)
        os.chown(broker.log_path.parent, 65534, 65534)
        broker.user = 65534
        broker.environment = {}
        try:
            broker.start(wait=False)
        except PermissionError:
            self.skipTest("another user may not run the binary where it lies")
        self.assertNotEqual(broker.process.wait(10), 0)
        self.row("a directory without rights", broker, "cannot be used: Permission denied")
        broker.data.chmod(0o777)
        broker.start()
        self.assertLess(self.takes_records(broker), RECOVERY)

    # File systems of their own.

    def mounted(self, broker, *mount):
        broker.data.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *mount, str(broker.data)], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest(f"no file system can be mounted: {done.stderr.strip()}")
        self.addCleanup(broker.kill)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(broker.data)], capture_output=True)

    def image(self, broker, mib):
        image = broker.directory / "image"
        with open(image, "wb") as file:
            file.truncate(mib << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"no file system can be made: {made.stderr.strip()}")
        return image

    def test_others_fill_the_disk_and_retention_drains_it(self):
        broker = self.broker(filled=False)
        self.mounted(broker, "-o", "loop", str(self.image(broker, 96)))
        broker.environment = {}
        broker.sets += ["topic_defaults.retention_time=5s"]
        broker.start()
        sender = Sender(broker, {}, name="past")
        sender.send(500, 40_000).wait(30)
        with open(broker.data / "ballast", "wb", buffering=0) as ballast, self.assertRaises(OSError):
            while True:
                ballast.write(bytes(65536))
        load = Load(broker)
        load.start()
        eventually(lambda: "the disk is full: nothing is taken" in broker.log_text(), 15, "a full disk")
        during = self.health(broker)
        self.assertIn("No space left", during)
        # Nobody makes room but retention.
        began = time.monotonic()
        eventually(lambda: "the disk has room again" in broker.log_text(), 25, "room")
        load.sender.acked.clear()
        self.assertEqual(load.end(), 0)
        seconds = self.takes_records(broker)
        eventually(lambda: self.health(broker).strip() == "ok", 5, "a disk that is well")
        self.assertTrue((broker.data / "ballast").exists())
        there = {r.value for r in read_topic(broker.bootstrap, TOPIC, **EARLIEST)}
        self.assertLessEqual(set(self.acked.values()), there)
        self.row(f"others fill the disk; retention makes room, after {time.monotonic() - began:.0f} s", broker, "the disk is full: nothing is taken but what makes room", 0, seconds)
        self.stopped(broker)
        cli("check", broker.data)

    def test_the_file_system_gives_up_and_is_mounted_anew(self):
        broker = self.broker(filled=False)
        image = self.image(broker, 96)
        self.mounted(broker, "-o", "loop", str(image))
        broker.environment = {}
        broker.start()
        load = Load(broker)
        load.sender.acked = self.acked
        load.start()
        eventually(lambda: len(self.acked) > 100, 15, "some acks")
        # As ext4 does it by itself when its journal cannot be written.
        aborted = subprocess.run(["mount", "-o", "remount,abort", str(broker.data)], capture_output=True, text=True)
        if aborted.returncode != 0:
            load.end()
            self.skipTest(f"a file system cannot be aborted: {aborted.stderr}")
        eventually(lambda: "store:" in self.health(broker), 10, "word of it")
        self.assertIsNone(broker.process.poll())
        said = self.health(broker)
        broker.kill()
        subprocess.run(["umount", str(broker.data)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(broker.data)], check=True)
        broker.start()
        self.assertEqual(load.end(), 0)
        seconds = self.takes_records(broker)
        self.assertEqual(self.compare(broker), 0)
        self.assertRegex(said, "Read-only|Input/output")
        self.row("ext4 gives up (remount,abort)", broker, "Read-only file system|Input/output error", 0, seconds, hands="yes, once it is mounted again")


if __name__ == "__main__":
    unittest.main()
