"""librdkafka, through confluent-kafka: what a Python, Go or C# shop would point at the broker."""

import json
import time
import unittest

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from harness import Broker

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def consumer(**more):
    return Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "unused", "enable.auto.commit": False, **more})


def create(topic, partitions=1, **config):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(10)
    return admin


def produce(topic, records, **more):
    """Sends (key, value, headers, timestamp) and gives (partition, offset) of each ack, in order of sending."""
    acks = [None] * len(records)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, **more})
    for i, (key, value, headers, timestamp) in enumerate(records):
        def acked(error, message, i=i):
            acks[i] = error or (message.partition(), message.offset())
        producer.produce(topic, value, key, headers=headers, timestamp=timestamp, on_delivery=acked)
    left = producer.flush(20)
    assert left == 0, f"{left} records were not acked within 20 s"
    for ack in acks:
        assert isinstance(ack, tuple), ack
    return acks


def read(topic, count, partition=0, offset=0, seconds=15, **more):
    c = consumer(**more)
    c.assign([TopicPartition(topic, partition, offset)])
    messages, until = [], time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < until:
        for message in c.consume(500, 0.2):
            assert message.error() is None, message.error()
            messages.append(message)
    c.close()
    return messages


def sample(count, size=100):
    now = int(time.time() * 1000)
    return [(f"k{i % 7}", f"{i}:".encode() + bytes(j % 251 for j in range(size)), [("n", str(i).encode()), ("empty", b""), ("null", None)], now - count + i) for i in range(count)]


class Codecs(unittest.TestCase):
    def round_trip(self, codec, **more):
        topic = f"codec-{codec}-{len(more)}"
        create(topic)
        sent = sample(500)
        acks = produce(topic, sent, **{"compression.type": codec, **more})
        self.assertEqual(acks, [(0, i) for i in range(500)])
        got = read(topic, 500)
        self.assertEqual([m.offset() for m in got], list(range(500)))
        for (key, value, headers, timestamp), m in zip(sent, got):
            self.assertEqual(m.key(), key.encode())
            self.assertEqual(m.value(), value)
            self.assertEqual(m.headers(), headers)
            self.assertEqual(m.timestamp(), (1, timestamp))

    def test_uncompressed_round_trip(self):
        self.round_trip("none")

    def test_gzip_round_trip(self):
        self.round_trip("gzip")

    def test_snappy_round_trip(self):
        self.round_trip("snappy")

    def test_lz4_round_trip(self):
        self.round_trip("lz4")

    def test_zstd_round_trip(self):
        self.round_trip("zstd")

    def test_idempotent_producer_with_each_codec(self):
        for codec in CODECS:
            with self.subTest(codec):
                self.round_trip(codec, **{"enable.idempotence": True})


class Producing(unittest.TestCase):
    def test_acks_0_1_and_all_are_stored(self):
        create("acks")
        for acks in ("1", "all", "0"):
            producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": acks})
            producer.produce("acks", acks.encode())
            self.assertEqual(producer.flush(10), 0)
        self.assertEqual([m.value() for m in read("acks", 3)], [b"1", b"all", b"0"])

    def test_first_use_makes_the_topic_with_the_default_partitions(self):
        produce("made-on-use", [("a", b"x", None, 0)])
        topics = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
        self.assertEqual(sorted(topics["made-on-use"].partitions), [0, 1, 2, 3])

    def test_a_key_stays_in_its_partition_in_order(self):
        create("keys", 4)
        sent = [(f"key-{i % 10}", str(i).encode(), None, 0) for i in range(400)]
        produce("keys", sent, partitioner="murmur2_random")
        got, partitions = {}, {}
        for partition in range(4):
            c = consumer()
            low, high = c.get_watermark_offsets(TopicPartition("keys", partition), 10)
            c.close()
            for m in read("keys", high - low, partition):
                got.setdefault(m.key().decode(), []).append(m.value())
                partitions.setdefault(m.key(), set()).add(partition)
        self.assertTrue(all(len(p) == 1 for p in partitions.values()), partitions)
        self.assertEqual(got, {f"key-{k}": [str(i).encode() for i in range(k, 400, 10)] for k in range(10)})

    def test_null_key_and_tombstone_stay_null(self):
        create("nulls")
        produce("nulls", [(None, b"no key", None, 0), ("k", None, None, 0), ("", b"", None, 0)])
        got = read("nulls", 3)
        self.assertEqual([(m.key(), m.value()) for m in got], [(None, b"no key"), (b"k", None), (b"", b"")])

    def test_a_batch_beyond_the_limit_is_refused_and_the_next_one_taken(self):
        create("limits", **{"max.message.bytes": "20000"})
        errors = []
        producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 2_000_000})
        producer.produce("limits", b"x" * 100_000, on_delivery=lambda error, _: errors.append(error))
        producer.flush(10)
        producer.produce("limits", b"small", on_delivery=lambda error, _: errors.append(error))
        producer.flush(10)
        self.assertEqual(errors[0].code(), KafkaError.MSG_SIZE_TOO_LARGE)
        self.assertIsNone(errors[1])
        self.assertEqual([m.value() for m in read("limits", 1)], [b"small"])

    def test_large_records_come_back_whole(self):
        create("large")
        sent = [("k", bytes([i]) * 700_000, None, 0) for i in range(8)]
        produce("large", sent, **{"message.max.bytes": 1_000_000})
        self.assertEqual([m.value() for m in read("large", 8)], [value for _, value, _, _ in sent])


class Consuming(unittest.TestCase):
    def test_from_an_offset_and_from_the_end(self):
        create("seek")
        produce("seek", sample(50))
        self.assertEqual([m.offset() for m in read("seek", 20, offset=30)], list(range(30, 50)))
        self.assertEqual(read("seek", 1, offset=50, seconds=1), [])

    def test_a_consumer_that_waits_gets_what_comes(self):
        create("live")
        c = consumer(**{"fetch.wait.max.ms": 5000})
        c.assign([TopicPartition("live", 0, 0)])
        self.assertIsNone(c.poll(1))
        began = time.monotonic()
        produce("live", [("k", b"now", None, 0)], **{"linger.ms": 0})
        message = c.poll(10)
        self.assertEqual(message.value(), b"now")
        # Far less than the long poll's wait: the append woke it.
        self.assertLess(time.monotonic() - began, 3)
        c.close()

    def test_offsets_by_time(self):
        create("times")
        base = int(time.time() * 1000) - 100_000
        produce("times", [("k", str(i).encode(), None, base + i * 1000) for i in range(20)], **{"linger.ms": 0, "batch.num.messages": 3})
        c = consumer()
        found = c.offsets_for_times([TopicPartition("times", 0, base + 7500)], 10)
        self.assertEqual(found[0].offset, 8)
        after = c.offsets_for_times([TopicPartition("times", 0, base + 60_000)], 10)
        self.assertEqual(after[0].offset, -1)
        c.close()

    def test_watermarks(self):
        create("marks")
        produce("marks", sample(17))
        c = consumer()
        self.assertEqual(c.get_watermark_offsets(TopicPartition("marks", 0), 10), (0, 17))
        c.close()

    def test_past_the_end_resets_as_asked(self):
        create("reset")
        produce("reset", sample(5))
        got = read("reset", 5, offset=1000, **{"auto.offset.reset": "earliest"})
        self.assertEqual([m.offset() for m in got], [0, 1, 2, 3, 4])

    def test_check_crcs_agrees(self):
        create("crcs")
        produce("crcs", sample(50), **{"compression.type": "zstd"})
        self.assertEqual(len(read("crcs", 50, **{"check.crcs": True})), 50)


class Limits(unittest.TestCase):
    def test_several_partitions_come_through_small_answers(self):
        create("small-answers", 3)
        values = {p: [f"{p}:{i}".encode() + bytes(5000) for i in range(40)] for p in range(3)}
        producer = Producer({"bootstrap.servers": broker.bootstrap, "batch.num.messages": 4})
        for p in range(3):
            for value in values[p]:
                producer.produce("small-answers", value, partition=p)
        self.assertEqual(producer.flush(20), 0)
        # A batch is larger than what is asked for: the first one of an answer comes whole all the same.
        c = consumer(**{"fetch.max.bytes": 6000, "max.partition.fetch.bytes": 6000, "message.max.bytes": 6000})
        c.assign([TopicPartition("small-answers", p, 0) for p in range(3)])
        got, until = {p: [] for p in range(3)}, time.monotonic() + 20
        while sum(map(len, got.values())) < 120 and time.monotonic() < until:
            for message in c.consume(100, 0.2):
                self.assertIsNone(message.error())
                got[message.partition()].append(message.value())
        c.close()
        self.assertEqual(got, values)

    def test_min_bytes_are_waited_for(self):
        create("min-bytes")
        c = consumer(**{"fetch.min.bytes": 50_000, "fetch.wait.max.ms": 2000})
        c.assign([TopicPartition("min-bytes", 0, 0)])
        self.assertIsNone(c.poll(0.5))
        began = time.monotonic()
        produce("min-bytes", [("k", b"few", None, 0)], **{"linger.ms": 0})
        self.assertEqual(c.poll(10).value(), b"few")
        self.assertGreater(time.monotonic() - began, 0.5, "few bytes wait for more, until the time is over")
        c.close()


class Admin(unittest.TestCase):
    def test_the_cluster_and_offsets_are_described(self):
        admin = create("described", 2)
        produce("described", sample(10))
        cluster = admin.describe_cluster().result(10)
        self.assertEqual([(n.id, n.port) for n in cluster.nodes], [(0, broker.kafka)])
        asked = {TopicPartition("described", p): OffsetSpec.latest() for p in range(2)}
        ends = {p.partition: f.result(10).offset for p, f in admin.list_offsets(asked).items()}
        self.assertEqual(sum(ends.values()), 10)

    def test_what_is_not_there_is_told(self):
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        with self.assertRaises(KafkaException) as caught:
            admin.delete_topics(["never-made"])["never-made"].result(10)
        self.assertEqual(caught.exception.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART)
        resource = ConfigResource(ConfigResource.Type.TOPIC, "never-made")
        with self.assertRaises(KafkaException) as caught:
            admin.describe_configs([resource])[resource].result(10)
        self.assertEqual(caught.exception.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART)

    def test_transactions_end_at_once_with_a_cause(self):
        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "t"})
        with self.assertRaises(KafkaException) as caught:
            producer.init_transactions(10)
        self.assertEqual(caught.exception.args[0].code(), KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)

    def test_create_describe_delete(self):
        admin = create("admin", 3, **{"retention.ms": "3600000"})
        self.assertEqual(len(admin.list_topics("admin", timeout=10).topics["admin"].partitions), 3)
        resource = ConfigResource(ConfigResource.Type.TOPIC, "admin")
        config = admin.describe_configs([resource])[resource].result(10)
        self.assertEqual(config["retention.ms"].value, "3600000")
        with self.assertRaises(KafkaException) as caught:
            create("admin")
        self.assertEqual(caught.exception.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS)
        admin.delete_topics(["admin"])["admin"].result(10)
        self.assertNotIn("admin", admin.list_topics(timeout=10).topics)

    def test_names_that_break_the_rules_are_refused(self):
        for name in ("a/b", "..", "x" * 250, "é"):
            with self.subTest(name[:10]), self.assertRaises(KafkaException) as caught:
                create(name)
            self.assertEqual(caught.exception.args[0].code(), KafkaError.TOPIC_EXCEPTION, name[:10])

    def test_a_json_document_survives_as_it_was(self):
        create("json")
        value = json.dumps({"t": 21.5, "unit": "°C", "nested": [None, True]}, ensure_ascii=False).encode()
        produce("json", [("k", value, None, 0)])
        self.assertEqual(read("json", 1)[0].value(), value)
