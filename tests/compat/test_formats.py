"""Directories of every format that was ever written are read, served, and can be handed back. `tests/golden/format-N.tar.xz` was
written by the last headwater of format N: 100 records, 60 of them before a clean stop, 40 before a kill."""

import pathlib
import tarfile
import tempfile
import unittest

from confluent_kafka import Consumer, Producer, TopicPartition

from harness import Broker, cli

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
TOPIC = "golden"


def record(i):
    key = None if i % 5 == 0 else b"pump/%d" % (i % 3)
    value = b"%05d:" % i + (b"long " * 6000 if i % 20 == 7 else b"short")
    return i, 1769846400000 + i * 1000, key, value, [("n", b"%d" % i)]


def read(broker, count):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    records = []
    while len(records) < count:
        message = consumer.poll(10)
        if message is None:
            raise AssertionError(f"{len(records)} of {count} records came")
        if not message.error():
            records.append((message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers()))
    consumer.close()
    return records


class Formats(unittest.TestCase):
    def test_a_directory_of_format_2_is_read_served_and_handed_back(self):
        expected = [record(i) for i in range(100)]
        with tempfile.TemporaryDirectory(prefix="headwater-test-") as directory:
            # Its records are of January 2026.
            broker = Broker(directory=directory, sets=["topic_defaults.retention_time=36500d"])
            broker.data.mkdir()
            with tarfile.open(GOLDEN / "format-2.tar.xz") as archive:
                archive.extractall(broker.data, filter="data")
            database, copy = broker.data / "headwater.redb", broker.data / "headwater.redb.format-2"
            self.assertIn(b"format 2", cli("inspect", broker.data).stdout)
            self.assertFalse(copy.exists())
            cli("check", broker.data)
            with broker:
                self.assertEqual(read(broker, 100), expected)
                producer = Producer({"bootstrap.servers": broker.bootstrap})
                producer.produce(TOPIC, value=b"after", partition=0)
                self.assertEqual(producer.flush(10), 0)
                self.assertEqual(read(broker, 101)[100][3], b"after")
                broker.stop()
            self.assertIn(b"format 3", cli("inspect", broker.data).stdout)
            cli("check", broker.data)
            # The way back.
            for name in ("headwater.redb", "headwater.ring"):
                (broker.data / f"{name}.format-2").rename(broker.data / name)
            self.assertIn(b"format 2", cli("inspect", broker.data).stdout)
            cli("check", broker.data)
            self.assertTrue(database.exists() and not copy.exists())
            with broker:
                self.assertEqual(read(broker, 100), expected)


if __name__ == "__main__":
    unittest.main()
