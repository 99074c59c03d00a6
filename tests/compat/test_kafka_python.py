"""kafka-python: a client in pure Python with its own reading of the protocol."""

import time
import unittest

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from harness import Broker


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def create(topic, partitions=1):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(topic, partitions, 1)])
    admin.close()


def read(topic, count, seconds=15):
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None, enable_auto_commit=False)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    got, until = [], time.monotonic() + seconds
    while len(got) < count and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=300).values():
            got.extend(records)
    consumer.close()
    return got


class KafkaPython(unittest.TestCase):
    def round_trip(self, codec, **more):
        topic = f"kp-{codec}-{len(more)}"
        create(topic)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec, acks="all", linger_ms=5, **more)
        now = int(time.time() * 1000)
        sent = [(f"k{i % 3}".encode(), f"{i}".encode() * 20, now - 1000 + i) for i in range(300)]
        futures = [producer.send(topic, value, key, headers=[("h", key)], timestamp_ms=at, partition=0) for key, value, at in sent]
        producer.flush(20)
        self.assertEqual([f.get(10).offset for f in futures], list(range(300)))
        producer.close()
        got = read(topic, 300)
        self.assertEqual([(m.key, m.value, m.timestamp) for m in got], sent)
        self.assertEqual([list(m.headers) for m in got], [[("h", key)] for key, _, _ in sent])
        self.assertEqual([m.offset for m in got], list(range(300)))

    def test_uncompressed(self):
        self.round_trip(None)

    def test_gzip(self):
        self.round_trip("gzip")

    def test_snappy(self):
        self.round_trip("snappy")

    def test_lz4(self):
        self.round_trip("lz4")

    def test_zstd(self):
        self.round_trip("zstd")

    def test_without_idempotence(self):
        self.round_trip(None, enable_idempotence=False)

    def test_acks_0_1_and_all(self):
        create("kp-acks")
        for i, acks in enumerate((0, 1, "all")):
            producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks=acks, enable_idempotence=False)
            told = producer.send("kp-acks", str(acks).encode(), partition=0).get(10)
            producer.flush(10)
            producer.close()
            if acks != 0:
                self.assertEqual(told.offset, i)
            self.assertEqual(read("kp-acks", i + 1)[i].value, str(acks).encode())

    def test_first_use_makes_the_topic(self):
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        self.assertEqual(producer.send("kp-made", b"x", partition=3).get(10).offset, 0)
        self.assertEqual(producer.partitions_for("kp-made"), {0, 1, 2, 3})
        producer.close()

    def test_offsets_of_a_partition(self):
        create("kp-offsets")
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        for i in range(9):
            producer.send("kp-offsets", str(i).encode(), timestamp_ms=1_700_000_000_000 + i * 1000, partition=0).get(10)
        producer.close()
        consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None)
        partition = TopicPartition("kp-offsets", 0)
        self.assertEqual(consumer.beginning_offsets([partition])[partition], 0)
        self.assertEqual(consumer.end_offsets([partition])[partition], 9)
        self.assertEqual(consumer.offsets_for_times({partition: 1_700_000_004_500})[partition].offset, 5)
        self.assertIn("kp-offsets", consumer.topics())
        consumer.close()
