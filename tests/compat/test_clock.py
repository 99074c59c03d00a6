"""The machine's clock on the real binary: at 1970, set right, at 2099. The broker runs behind a shim that moves the wall clock and
answers for the kernel (`clock_shim.c`)."""

import json
import mmap
import struct
import time
import unittest

from confluent_kafka import Producer, TopicPartition

from harness import TOP, Broker, cli, eventually, run
from mqtt_client import Client
from readback import consumer, read_topic

DAY_S = 86_400
# The floor of src/model/clock: no time before it is taken for right.
FLOOR_MS = 1_793_491_200_000


CONFIG = """
[[topic]]
name = "sensors"
partitions = 1
retention_time = "1d"
[[topic]]
name = "short"
partitions = 1
retention_time = "3s"
[[route]]
match = "sensors/#"
topic = "sensors"
[[route]]
match = "short/#"
topic = "short"
"""


class HostClock:
    """The clock of the broker's host."""

    def __init__(self, folder):
        self.path = folder / "clock"
        self.path.write_bytes(bytes(16))
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 16)
        self.library = folder / "clock_shim.so"
        run("gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", self.library, TOP / "tests/compat/clock_shim.c")
        self.environment = {"LD_PRELOAD": str(self.library), "HEADWATER_TEST_CLOCK": str(self.path)}

    def set(self, wrong_by_s, synchronised):
        self.map[:] = struct.pack("=qq", int(wrong_by_s * 1e9), int(synchronised))


def now_ms():
    return int(time.time() * 1000)


class Clock(unittest.TestCase):
    def setUp(self):
        self.broker = Broker(CONFIG)
        self.addCleanup(self.broker.__exit__)
        self.clock = HostClock(self.broker.directory)
        self.broker.environment = self.clock.environment

    def publish(self, topic, *payloads):
        with Client(self.broker.mqtt) as client:
            client.publish_all([(topic, payload) for payload in payloads])

    def timestamps(self, topic="sensors"):
        return {record.value: record.timestamp for record in read_topic(self.broker.bootstrap, topic)}

    def offset_at(self, ms, topic="sensors"):
        c = consumer(self.broker.bootstrap)
        try:
            return c.offsets_for_times([TopicPartition(topic, 0, ms)], timeout=10)[0].offset
        finally:
            c.close()

    def trusted(self):
        return self.broker.metric("headwater_clock_trusted")

    def health(self):
        """What /healthz says of the clock."""
        return "".join(line for line in self.broker.http_get("/healthz").splitlines() if "clock:" in line)

    def test_a_gateway_without_a_clock_corrects_its_times_once_it_has_one(self):
        self.clock.set(-time.time() + 5, False)
        self.broker.start()
        self.assertEqual(self.trusted(), 0)
        self.assertIn("before this headwater was made", self.health())
        self.publish("sensors/a", b"one", b"two")
        self.publish("short/a", b"short")
        producer = Producer({"bootstrap.servers": self.broker.bootstrap})
        own_time = now_ms() - 3_600_000
        producer.produce("sensors", b"a producer's own time", timestamp=own_time)
        self.assertEqual(producer.flush(10), 0)
        before = self.timestamps()
        for payload in (b"one", b"two"):
            self.assertLess(before[payload] - FLOOR_MS, 60_000)
        self.assertGreaterEqual(before[b"two"], before[b"one"])
        self.assertEqual(before[b"a producer's own time"], own_time)
        # A restart in the same boot goes on where it was; nothing goes back, nothing is forgotten.
        self.broker.restart()
        self.publish("sensors/a", b"three")
        before = self.timestamps()
        self.assertGreaterEqual(before[b"three"], before[b"two"])
        self.assertLess(before[b"three"] - FLOOR_MS, 120_000)
        # Longer than its retention, by any clock: that nothing happens is told by nothing.
        time.sleep(4)
        self.assertEqual(list(self.timestamps("short")), [b"short"])

        self.clock.set(0, True)
        eventually(lambda: self.trusted() == 1, 10, "the trusted clock")
        self.assertEqual(self.health(), "")
        correction = self.broker.metric("headwater_clock_correction_ms")
        self.assertLess(abs(before[b"three"] + correction - now_ms()), 60_000)
        eventually(lambda: not self.timestamps("short"), 10, "retention by time")
        self.publish("sensors/a", b"four")
        after = self.timestamps()
        self.assertEqual({payload: after[payload] for payload in before}, before, "what is stored stays")
        self.assertLess(abs(after[b"four"] - now_ms()), 60_000)
        # By their stored times three of them would be weeks old and gone.
        self.assertEqual(self.offset_at(now_ms() - 600_000), 0)
        self.assertEqual(self.offset_at(int(before[b"three"] + correction)), 3)
        self.broker.restart()
        self.assertEqual(self.offset_at(int(before[b"three"] + correction)), 3)
        self.assertEqual(self.timestamps(), after)
        code, _ = self.broker.stop()
        self.assertEqual(code, 0)
        told = [json.loads(line) for line in cli("check", self.broker.data, "--json").stdout.splitlines()]
        boots = [line["boot"] for line in told if "boot" in line]
        self.assertEqual([(boot["clock"], boot["by_ms"]) for boot in boots], [("corrected", correction)])
        ranges = [line["untrusted"] for line in told if "untrusted" in line and line["untrusted"]["topic"] == "sensors"]
        self.assertEqual([(r["offset_first"], r["offset_last"], r["own"]) for r in ranges], [(0, 1, True), (2, 2, False), (3, 3, True)])
        self.assertIn(b"before the clock was trusted: sensors partition 0 offsets 0 to 1", cli("inspect", self.broker.data).stdout)

    def test_a_jump_to_2099_and_back_stamps_and_deletes_nothing(self):
        self.clock.set(0, True)
        self.broker.start()
        self.assertEqual((self.trusted(), self.health()), (1, ""))
        self.publish("sensors/a", b"before")
        self.clock.set(73 * 365 * DAY_S, False)
        self.publish("sensors/a", b"at once")
        eventually(self.health, 10, "a word on the clock")
        self.publish("sensors/a", b"later")
        self.broker.restart()
        self.assertEqual(self.trusted(), 1)
        self.publish("sensors/a", b"after a restart")
        self.clock.set(0, False)
        eventually(lambda: not self.health(), 10, "the clock's way back")
        self.publish("sensors/a", b"back")
        stamped = self.timestamps()
        self.assertEqual(list(stamped), [b"before", b"at once", b"later", b"after a restart", b"back"])
        for payload, timestamp in stamped.items():
            self.assertLess(abs(timestamp - now_ms()), 60_000, payload)
        self.assertEqual(self.broker.metric("headwater_clock_correction_ms"), 0)

    def test_always_takes_the_clock_as_it_is(self):
        self.broker.sets.append("clock.trust=always")
        self.clock.set(73 * 365 * DAY_S, False)
        self.broker.start()
        self.assertEqual((self.trusted(), self.health()), (1, ""))
        self.publish("sensors/a", b"far")
        self.assertLess(abs(self.timestamps()[b"far"] - now_ms() - 73 * 365 * DAY_S * 1000), 60_000)


if __name__ == "__main__":
    unittest.main()
