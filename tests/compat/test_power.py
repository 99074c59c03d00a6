"""Power cuts of the real binary on a real kernel and file system: its disk is recorded under a mixed load, and then put into the
state after a cut at one place after the other (`powerdisk`). Each time the broker starts, has set nothing aside, and holds what was
acked before the cut, where its ack said, in order, and nothing of it twice. Disks that lie are controls: they must be found out."""

import json
import os
import random
import tempfile
import threading
import time
import unittest

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness import SEED, Broker, cli, eventually
from powerdisk import FLUSH, Disk, Missing, Mounted, Recording
from test_kill import Compact, Kafka, Load, Mqtt, MqttOnce, value

CUTS = int(os.environ.get("HEADWATER_DISK_CUTS", "100"))
PROFILE = os.environ.get("HEADWATER_PROFILE", "auto")
# Cuts within which a disk that lies must be found out.
CUTS_OF_A_LIAR = 40
# What its cache holds.
ENTRIES_OF_A_LIAR = 64
SECONDS = 8


class Bulk(Load):
    """Fills pages, so that flushes come often, data files grow, and retention makes holes."""

    def __init__(self, broker):
        super().__init__(broker)
        self.key = "bulk"

    def load(self):
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        admin.create_topics([NewTopic("bulk", 1, config={"retention.bytes": "2000000"})])["bulk"].result(10)
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "linger.ms": 1, "log_level": 2})
        while not self.ended.is_set():
            for _ in range(8):
                n = self.next
                # Now and then one that goes past the ring.
                producer.produce("bulk", large(n), self.key, on_delivery=lambda error, message, n=n: self.done(error, message, n))
                self.next += 1
            producer.flush(10)
            time.sleep(0.02)

    def done(self, error, message, n):
        assert error is None, error
        self.acked.add(n)
        self.placed[message.partition(), message.offset()] = n


def large(n):
    size = 300_000 if n % 101 == 50 else 1_000 + n % 4_000
    return f"{n} ".encode() + random.Random(n).randbytes(size // 2).hex().encode()


class Failed(Exception):
    """What a cut cost."""


class Power(unittest.TestCase):
    def recorded(self, options="", seconds=SECONDS):
        """A recording of a broker's first seconds, and its loads."""
        folder = tempfile.TemporaryDirectory(prefix="headwater-power-")
        self.addCleanup(folder.cleanup)
        try:
            disk = Disk(folder.name, options)
        except Missing as why:
            self.skipTest(f"{CUTS} cuts skipped, no disk can be recorded: {why}")
        broker = Broker(sets=[f"storage.profile={PROFILE}"])
        broker.data = disk.mountpoint / "data"
        try:
            with broker:
                loads = [Mqtt(broker), MqttOnce(broker, 5), Compact(broker), Kafka(broker, idempotent=True), Bulk(broker)]
                marks = Marks(disk, loads)
                for thread in [*loads, marks]:
                    thread.start()
                eventually(lambda: all(load.acked or load.failure for load in loads), 20, "a first ack of each")
                marks.ended.wait(seconds)
                for load in loads:
                    load.ended.set()
                for load in loads:
                    load.join(60)
                marks.ended.set()
                marks.join(10)
                self.assertEqual([load.failure for load in [*loads, marks] if load.failure], [])
                self.assertEqual(broker.stop()[0], 0)
        finally:
            disk.close()
        return disk, loads

    def cuts(self, disk, loads, count, cache=None):
        """Cuts at places out of the seed, in their order; gives for each what it found, or what is wrong."""
        recording, rng = Recording(disk, cache), random.Random(SEED)
        last, first = len(recording.entries), recording.first_mark()
        # A part of them while the store is made.
        places = sorted([rng.randrange(1, first) for _ in range(count // 5)] + [rng.randrange(first, last) for _ in range(count - count // 5)])
        for number, place in enumerate(places):
            image, wrong = disk.directory / "cut.img", None
            acked, torn = recording.cut(place, SEED + number, image)
            try:
                self.look(disk, image, loads, acked)
            except (Failed, Missing, AssertionError) as why:
                wrong = f"cut {number} at entry {place} of {last}: {why}"
                # What a lying disk does to the file system is not our find.
                if cache is not None and isinstance(why, Missing):
                    continue
            yield torn, sum(acked or []), wrong

    def look(self, disk, image, loads, acked):
        with Mounted(image, disk.mountpoint) as mounted:
            broker = Broker()
            broker.data = mounted / "data"
            with broker:
                lost = broker.metric("stores_lost")
                # As it was found; what the start made of it is the next one's business.
                broker.kill()
            if lost:
                raise Failed("the store was set aside as damaged")
            checked = cli("check", mounted / "data", check=False)
            if checked.returncode != 0:
                raise Failed(f"check: {checked.stdout.decode()[-500:]}")
            records = {}
            for line in cli("export", mounted / "data").stdout.splitlines():
                record = json.loads(line)
                records.setdefault(record["key"], []).append(record)
        for number, load in enumerate(loads):
            self.compare(load, records.pop(load.key, []), acked[number] if acked else 0)
        if records:
            raise Failed(f"records with the keys {list(records)} were never sent")

    def compare(self, load, records, acked):
        """All that was acked is there, and nothing but what was sent, in order."""
        of, content = [], large if isinstance(load, Bulk) else value
        for record in records:
            n = int(record["value"].split(" ", 1)[0])
            if record["value"].encode() != content(n):
                raise Failed(f"{load.key}: record {n} is not what was sent")
            if load.placed.get((record["partition"], record["offset"]), n) != n:
                raise Failed(f"{load.key}: record {n} is not where its ack said")
            of.append(n)
        first = of[0] if of and isinstance(load, Bulk) else 0
        if of != list(range(first, first + len(of))):
            raise Failed(f"{load.key}: records are missing, doubled or out of order")
        if first + len(of) < acked:
            raise Failed(f"{load.key}: {acked} were acked, {first + len(of)} are there")

    def test_a_cut_anywhere_loses_nothing_that_was_acked(self):
        disk, loads = self.recorded()
        began = time.monotonic()
        results = list(self.cuts(disk, loads, CUTS))
        rate = len(results) / (time.monotonic() - began)
        wrong = [wrong for _, _, wrong in results if wrong]
        torn, first = sum(torn > 0 for torn, _, _ in results), sum(not acked for _, acked, _ in results)
        print(f"      power: {len(results)} cuts of a real disk, seed {SEED}, {sum(acked for _, acked, _ in results)} acks compared, "
              f"{torn} with writes lost or torn, {first} before the first ack; {len(wrong)} wrong; {rate:.1f} a second")
        self.assertEqual(wrong, [])
        self.assertGreater(torn, CUTS // 5)
        self.assertGreater(first, 0)

    def found_out(self, disk, loads):
        for number, (_, _, wrong) in enumerate(self.cuts(disk, loads, CUTS_OF_A_LIAR, cache=ENTRIES_OF_A_LIAR)):
            if wrong:
                print(f"      power: found out with cut {number + 1}: {wrong[:200]}")
                return
        self.fail(f"{CUTS_OF_A_LIAR} cuts found nothing wrong with a disk that lies")

    def test_a_disk_that_ignores_flushes_is_found_out(self):
        self.found_out(*self.recorded(seconds=3))

    def test_a_file_system_without_barriers_is_found_out(self):
        disk, loads = self.recorded("nobarrier", seconds=3)
        flushes = sum(flags & FLUSH for _, _, flags in Recording(disk).entries)
        self.assertLess(flushes, 10, "it has barriers all the same")
        self.found_out(disk, loads)


class Marks(threading.Thread):
    """Writes down, on the recorded disk itself, how many of each load are acked without a gap."""

    def __init__(self, disk, loads):
        super().__init__(daemon=True)
        self.disk, self.loads = disk, loads
        self.ended = threading.Event()
        self.failure = None

    def run(self):
        counts, written = [0] * len(self.loads), None
        try:
            while not self.ended.wait(0.003):
                for i, load in enumerate(self.loads):
                    while counts[i] in load.acked:
                        counts[i] += 1
                if counts != written and any(counts):
                    self.disk.mark(counts)
                    written = list(counts)
        except Exception as failure:  # told by the test, which looks at it
            self.failure = failure


if __name__ == "__main__":
    unittest.main()
