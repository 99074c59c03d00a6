"""The storage quota on the real binary: usage stays below it, what goes is what the markers say, and a topic that refuses does so in
the words of each protocol."""

import json
import os
import signal
import subprocess
import unittest
from pathlib import Path

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from compact_device import NACK, Device
from harness import BIN, Broker, cli, eventually, free_ports
from mqtt_client import V5, Client
from readback import bounds_of_topic

QUOTA = 64 << 20
MIB = 1 << 20
QUOTA_EXCEEDED = 0x97
NACK_QUOTA = 3


def used(directory):
    """Blocks of everything in the data directory."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def fill(broker, topic, mebibytes, watch=lambda: None):
    """Batches that do not compress."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "batch.size": 262144, "message.timeout.ms": 30_000, "log_level": 2})
    errors = []
    for at in range(mebibytes * 16):
        producer.produce(topic, os.urandom(65_000), on_delivery=lambda error, _: error and errors.append(error))
        producer.poll(0)
        if at % 64 == 63:
            producer.flush(30)
            watch()
    producer.flush(30)
    return errors


class Quota(unittest.TestCase):
    def losses(self, broker):
        return json.loads(broker.http_get("/api/v1/losses"))

    def shed_by_partition(self, broker):
        """First and next offset of what went; each partition has one run of them, from its beginning on."""
        return {(loss["topic"], loss["partition"]): (loss["offset_first"], loss["offset_last"] + 1) for loss in self.losses(broker)}

    def test_usage_stays_below_it_and_the_markers_say_what_went(self):
        config = "[[topic]]\nname = 'low'\npriority = 1\n[[topic]]\nname = 'high'\npriority = 8\n"
        with Broker(config, sets=["storage.quota=64MiB"]) as broker:
            highest, total = 0, 168

            def watch():
                nonlocal highest
                highest = max(highest, used(broker.data))

            self.assertEqual(fill(broker, "high", 8, watch), [])
            self.assertEqual(fill(broker, "low", 160, watch), [])
            self.assertLess(highest, QUOTA)
            self.assertIn("storage quota of 67108864 bytes is reached", broker.http_get("/healthz"))
            shed = self.shed_by_partition(broker)
            starts = {p: low for p, (low, _) in bounds_of_topic(broker.bootstrap, "low").items()}
            self.assertEqual(shed, {("low", p): (0, low) for p, low in starts.items()})
            self.assertEqual({low for low, _ in bounds_of_topic(broker.bootstrap, "high").values()}, {0})
            records = sum(starts.values())
            self.assertGreater(records, 160 * 16 // 2)
            print(f"quota of 64 MiB, {total} MiB in: at most {highest / MIB:.1f} MiB used; {records} records went, as the markers say")
            self.assertEqual(broker.metric("headwater_log_shed_records_total"), records)
            broker.kill()
            broker.start()
            # What was in the ring takes its place in the files now, and may take a little more.
            before, shed = shed, self.shed_by_partition(broker)
            for partition, (first, end) in before.items():
                self.assertEqual(shed[partition][0], first)
                self.assertGreaterEqual(shed[partition][1], end)
            starts = {p: low for p, (low, _) in bounds_of_topic(broker.bootstrap, "low").items()}
            self.assertEqual(shed, {("low", p): (0, low) for p, low in starts.items() if low})
            self.assertEqual(broker.stop()[0], 0)
            told = cli("check", broker.data, "--json").stdout.splitlines()
            given_up = [line["loss"] for line in map(json.loads, told) if "loss" in line]
            self.assertEqual({(loss["topic"], loss["partition"]): (loss["offset_first"], loss["offset_last"] + 1) for loss in given_up}, shed)
            for command in ("check", "inspect"):
                self.assertIn(f"given up: low partition 0 offsets 0 to {starts[0] - 1}, ", cli(command, broker.data).stdout.decode())

    def test_what_no_upstream_has_goes_last_of_its_priority_and_is_told(self):
        (nowhere,) = free_ports(1)
        config = f"[topic_defaults]\npartitions = 1\n[[topic]]\nname = 'held'\nhold_until_forwarded = true\nretention_size = '1MiB'\n[[topic]]\nname = 'free'\n[[upstream]]\nname = 'central'\nbootstrap = ['127.0.0.1:{nowhere}']\n"
        with Broker(config, sets=["storage.quota=64MiB"]) as broker:
            self.assertEqual(fill(broker, "held", 8), [])
            self.assertEqual(fill(broker, "free", 80), [])
            self.assertEqual(bounds_of_topic(broker.bootstrap, "held")[0][0], 0, "what is held is older, and went first")
            self.assertEqual({loss["reason"] for loss in self.losses(broker)}, {"quota"})
            self.assertEqual({loss["topic"] for loss in self.losses(broker)}, {"free"})
            self.assertEqual(fill(broker, "held", 80), [])
            start = bounds_of_topic(broker.bootstrap, "held")[0][0]
            (told,) = [loss for loss in self.losses(broker) if loss["topic"] == "held"]
            self.assertEqual((told["offset_first"], told["offset_last"] + 1, told["reason"]), (0, start, "quota_unforwarded"))
            self.assertEqual(broker.metric("headwater_log_unforwarded_records_total"), start)
            broker.stop()
            self.assertIn("for the storage quota, not forwarded", cli("check", broker.data).stdout.decode())

    def test_a_tail_that_is_overtaken_says_what_went_and_goes_on(self):
        with Broker(sets=["topic_defaults.partitions=1"]) as broker:
            at = f"127.0.0.1:{broker.kafka}"
            cli("produce", "--broker", at, "t", input=b"0\n")
            tail = subprocess.Popen([str(BIN), "tail", "--broker", at, "t", "--from", "earliest", "--values"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.addCleanup(lambda: (tail.kill(), tail.communicate()))
            self.assertEqual(tail.stdout.readline(), b"0\n")
            # While it does not run records come and go. The fetch that it has waiting is answered with the first of them.
            tail.send_signal(signal.SIGSTOP)
            for value in (b"1\n", b"2\n", b"3\n", b"4\n"):
                cli("produce", "--broker", at, "t", input=value)
            admin = AdminClient({"bootstrap.servers": broker.bootstrap})
            admin.delete_records([TopicPartition("t", 0, 4)])[TopicPartition("t", 0)].result(10)
            tail.send_signal(signal.SIGCONT)
            read = [tail.stdout.readline()]
            while read[-1] != b"4\n":
                read.append(tail.stdout.readline())
            self.assertEqual(read[:-1], [b"%d\n" % n for n in range(1, len(read))])
            self.assertLess(len(read), 4, "nothing went before it was read")
            tail.terminate()
            said = tail.communicate(timeout=20)[1]
            self.assertIn(b"headwater: t partition 0: offsets %d to 3 went before they were read" % len(read), said)

    def test_a_topic_that_refuses_says_so_in_every_protocol(self):
        config = "[topic_defaults]\nretention_size = 'unlimited'\n[[topic]]\nname = 'telemetry'\nshed = 'refuse'\n"
        with Broker(config, sets=["storage.quota=64MiB"]) as broker:
            client = Client(broker.mqtt, V5, client_id="five", clean=False, expiry=3600)
            self.addCleanup(client.close)
            device = Device(broker.compact, "full")
            device.put("n", "before")
            device.flush()
            stored = 1
            while True:
                (reason,) = client.publish_all([("fill", os.urandom(500_000))])
                if reason.is_failure:
                    break
                stored += 1
                self.assertLess(stored, 200, "the quota does not hold")
            self.assertEqual(reason.value, QUOTA_EXCEEDED)
            self.assertLess(used(broker.data), QUOTA)
            device.put("n", "refused")
            device.send_some()
            device.receive(NACK)
            device.close()
            self.assertEqual(device.nacks, [(2, NACK_QUOTA)])
            producer = Producer({"bootstrap.servers": broker.bootstrap, "message.timeout.ms": 2_000, "log_level": 0})
            errors = []
            producer.produce("telemetry", b"refused", on_delivery=lambda error, _: errors.append(error))
            producer.flush(10)
            self.assertIsNotNone(errors[0])
            self.assertEqual({low for low, _ in bounds_of_topic(broker.bootstrap, "telemetry").values()}, {0})
            self.assertEqual(sum(high for _, high in bounds_of_topic(broker.bootstrap, "telemetry").values()), stored)
            self.assertEqual(self.losses(broker), [])
            # Room again: what is there stays, and the next one is taken.
            self.assertEqual(broker.stop()[0], 0)
            broker.sets = ["storage.quota=256MiB"]
            broker.start()
            again = Client(broker.mqtt, V5, client_id="six")
            self.addCleanup(again.close)
            self.assertFalse(again.publish_all([("fill", b"room")])[0].is_failure)
            self.assertEqual(broker.http_get("/healthz").strip(), "ok")


if __name__ == "__main__":
    unittest.main()
