"""A disk that is full: every protocol is refused in its own words, what is there stays readable, and with room again everything
goes on, with nothing lost that was acked and nothing stored that was refused. On a small file system of its own in memory."""

import os
import subprocess
import unittest

from confluent_kafka import Producer

from compact_device import NACK, Device
from harness import Broker, cli, eventually
from mqtt_client import V5, Client
from raw import mqtt, publish
from readback import read_topic

STORAGE = 0x83
NACK_STORAGE = 4


class FullDisk(unittest.TestCase):
    def broker(self, size):
        """A broker, not started yet, whose data directory is a file system of so many MiB."""
        broker = Broker()
        broker.data.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(broker.data)], capture_output=True, text=True)
        if mounted.returncode != 0:
            broker.__exit__()
            self.skipTest(f"no file system can be mounted: {mounted.stderr.strip()}")
        self.addCleanup(broker.__exit__)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(broker.data)], check=True)
        return broker

    def fill(self, broker):
        """Takes what is left of the disk; gives the file to remove."""
        ballast = broker.data / "ballast"
        with open(ballast, "wb", buffering=0) as file, self.assertRaises(OSError):
            while True:
                file.write(bytes(4096))
        return ballast

    def refused(self, client):
        """Publishes at QoS 1 until one is refused; gives what was acked before. The ring takes some."""
        acked = []
        for _ in range(2000):
            payload = os.urandom(10_000)
            (reason,) = client.publish_all([("full/five", payload)])
            if reason.is_failure:
                self.assertEqual(reason.value, STORAGE)
                return acked
            acked.append(payload)
        self.fail("a full disk takes everything")

    def full(self, broker, client, stored):
        place = (broker.data / "headwater.ring").stat()
        self.assertGreaterEqual(place.st_blocks * 512, place.st_size, "the ring has its place from the start")
        ballast = self.fill(broker)
        stored += self.refused(client)
        # QoS 2 in 5.0, QoS 1 and 2 in 3.1.1, which has no word for it: no ack and the end of the connection.
        with mqtt(broker.mqtt, 5) as raw:
            raw.send(publish("full/refused", qos=2, level=5, pkid=9))
            self.assertEqual(raw.read(5), bytes([0x50, 3, 0, 9, STORAGE]))
        for qos in (1, 2):
            with mqtt(broker.mqtt, 4) as raw:
                self.assertEqual(raw.send(publish("full/refused", qos=qos)).until_closed(), b"")
        return ballast

    def recovers(self, lap):
        broker = self.broker(48)
        broker.start()
        client = Client(broker.mqtt, V5, client_id="five", clean=False, expiry=3600)
        self.addCleanup(client.close)
        device = Device(broker.compact, "full")
        device.put("n", "before")
        device.flush()
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "message.timeout.ms": 60_000, "log_level": 2})
        delivered = []
        producer.produce("kafka", b"before", b"k", on_delivery=lambda error, _: delivered.append(error))
        self.assertEqual(producer.flush(10), 0)
        # One by one, because what is large goes past the ring.
        stored = [os.urandom(50_000) for _ in range(200 if lap else 2)]
        for payload in stored:
            self.assertFalse(client.publish_all([("full/five", payload)])[0].is_failure)
        ballast = self.full(broker, client, stored)

        device.put("n", "while full")
        device.send_some()
        device.receive(NACK)
        device.close()
        self.assertEqual(device.nacks, [(2, NACK_STORAGE)])
        producer.produce("kafka", b"while full", b"k", on_delivery=lambda error, _: delivered.append(error))
        self.assertGreater(producer.flush(1), 0, "nobody can have acked it")

        self.assertIn("No space left", broker.http_get("/healthz"))
        # All of it: also what is not in memory any more.
        records = read_topic(broker.bootstrap, "telemetry", 20)
        self.assertEqual([r.value for r in records if r.key == b"full/five"], stored)
        self.assertEqual([r.value for r in read_topic(broker.bootstrap, "kafka", 10)], [b"before"])
        self.assertIn("No space left", broker.http_get("/healthz"))

        ballast.unlink()
        after = b"room again"
        eventually(lambda: not client.publish_all([("full/five", after)])[0].is_failure, 10, "an ack")
        stored.append(after)
        device.flush()
        device.close()
        self.assertEqual(producer.flush(30), 0)
        self.assertEqual(delivered, [None, None])
        self.assertEqual(broker.http_get("/healthz").strip(), "ok")

        records = read_topic(broker.bootstrap, "telemetry", 20)
        self.assertEqual([r.value for r in records if r.key == b"full/five"], stored)
        self.assertEqual([r.value for r in records if r.key == b"device/full/n"], [b"before", b"while full"])
        self.assertEqual({r.key for r in records}, {b"full/five", b"device/full/n"}, "something that was refused is there")
        self.assertEqual([r.value for r in read_topic(broker.bootstrap, "kafka", 10)], [b"before", b"while full"])
        self.assertEqual(broker.stop()[0], 0)
        cli("check", broker.data)

    def test_a_disk_that_is_full_before_the_ring_went_round(self):
        self.recovers(lap=False)

    def test_a_disk_that_is_full_when_the_database_grows(self):
        self.recovers(lap=True)


if __name__ == "__main__":
    unittest.main()
