"""Apache Kafka's own tools, unmodified, against headwater."""

import json
import re
import time
import unittest

from confluent_kafka import Producer

from harness import Broker
from kafka_server import tool


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def topics(*args):
    return tool("TopicCommand", "--bootstrap-server", broker.bootstrap, *args)


def produce(topic, text, *args):
    tool("ConsoleProducer", "--bootstrap-server", broker.bootstrap, "--topic", topic, *args, input=text.encode())


def consume(topic, count, *args):
    return tool("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", broker.bootstrap, "--topic", topic,
                "--max-messages", count, "--timeout-ms", "10000", *args)


class Topics(unittest.TestCase):
    def test_create_list_describe_delete(self):
        self.assertIn("Created topic java-topics.", topics("--create", "--topic", "java-topics", "--partitions", "3", "--config", "retention.ms=7200000"))
        self.assertIn("java-topics", topics("--list").split())
        told = topics("--describe", "--topic", "java-topics")
        self.assertIn("PartitionCount: 3", told)
        self.assertIn("retention.ms=7200000", told)
        self.assertEqual(len(re.findall(r"Partition: \d\s+Leader: \d+", told)), 3)
        topics("--delete", "--topic", "java-topics")
        self.assertNotIn("java-topics", topics("--list").split())

    def test_a_topic_that_is_there_is_told(self):
        topics("--create", "--topic", "java-twice", "--partitions", "1")
        with self.assertRaisesRegex(AssertionError, "already exists"):
            topics("--create", "--topic", "java-twice", "--partitions", "1")
        topics("--create", "--topic", "java-twice", "--partitions", "1", "--if-not-exists")

    def test_configs_are_described(self):
        topics("--create", "--topic", "java-config", "--partitions", "1", "--config", "retention.bytes=1048576")
        told = tool("kafka.admin.ConfigCommand", "--bootstrap-server", broker.bootstrap, "--describe", "--entity-type", "topics", "--entity-name", "java-config", "--all")
        self.assertIn("retention.bytes=1048576", told)
        self.assertIn("cleanup.policy=delete", told)


    def test_configs_of_the_node_are_described(self):
        told = tool("kafka.admin.ConfigCommand", "--bootstrap-server", broker.bootstrap, "--describe", "--entity-type", "brokers", "--entity-name", "0", "--all")
        for setting in ("auto.create.topics.enable=true", "num.partitions=4", "message.max.bytes=1048576"):
            self.assertIn(setting, told)

    def test_what_cannot_be_is_refused_with_its_cause(self):
        for more, cause in (
            (("--partitions", "1", "--config", "retention.mss=1"), "retention.ms"),
            (("--partitions", "1", "--config", "retention.ms=soon"), "retention.ms"),
            (("--partitions", "1", "--replication-factor", "3"), "replication factor 3"),
            (("--partitions", "0"), "partitions"),
        ):
            with self.subTest(more), self.assertRaisesRegex(AssertionError, cause):
                topics("--create", "--topic", "java-never", *more)
        self.assertNotIn("java-never", topics("--list").split())


class Console(unittest.TestCase):
    def test_producer_and_consumer_with_keys_and_headers(self):
        topics("--create", "--topic", "java-console", "--partitions", "1")
        lines = [f"h:{i}\tk{i % 3}\tvalue {i} ä" for i in range(50)]
        produce("java-console", "\n".join(lines) + "\n", "--reader-property", "parse.key=true", "--reader-property", "parse.headers=true")
        got = consume("java-console", 50, "--partition", "0", "--offset", "earliest", "--formatter-property", "print.key=true", "--formatter-property", "print.headers=true")
        self.assertEqual(got.splitlines(), lines)

    def test_consumer_from_a_partition_and_offset(self):
        topics("--create", "--topic", "java-seek", "--partitions", "1")
        produce("java-seek", "".join(f"{i}\n" for i in range(20)))
        got = consume("java-seek", 5, "--partition", "0", "--offset", "15", "--formatter-property", "print.offset=true")
        self.assertEqual(got.splitlines(), [f"Offset:{i}\t{i}" for i in range(15, 20)])

    def test_each_codec(self):
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            with self.subTest(codec):
                topics("--create", "--topic", f"java-{codec}", "--partitions", "1")
                text = "".join(f"{codec} {i}\n" for i in range(200))
                produce(f"java-{codec}", text, "--compression-codec", codec)
                self.assertEqual(consume(f"java-{codec}", 200, "--partition", "0", "--offset", "earliest"), text)

    def test_first_use_makes_the_topic(self):
        produce("java-made", "one\n")
        told = topics("--describe", "--topic", "java-made")
        self.assertIn("PartitionCount: 4", told)


class Offsets(unittest.TestCase):
    def test_get_offsets(self):
        topics("--create", "--topic", "java-offsets", "--partitions", "2")
        produce("java-offsets", "".join(f"key{i}\tv\n" for i in range(40)), "--reader-property", "parse.key=true")
        latest = tool("GetOffsetShell", "--bootstrap-server", broker.bootstrap, "--topic", "java-offsets")
        ends = {int(p): int(o) for p, o in re.findall(r"java-offsets:(\d+):(\d+)", latest)}
        self.assertEqual(sum(ends.values()), 40)
        earliest = tool("GetOffsetShell", "--bootstrap-server", broker.bootstrap, "--topic", "java-offsets", "--time", "earliest")
        self.assertEqual(sorted(earliest.split()), ["java-offsets:0:0", "java-offsets:1:0"])

    def test_get_offsets_by_time_and_of_the_largest_timestamp(self):
        topics("--create", "--topic", "java-times", "--partitions", "1")
        base = int(time.time() * 1000) - 100_000
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
        # The largest timestamp is not the last one's.
        for ms in (0, 1000, 5000, 2000):
            producer.produce("java-times", b"v", timestamp=base + ms)
            self.assertEqual(producer.flush(10), 0)
        for asked, offset in ((base + 1, 1), (base + 1001, 2), (base + 5001, None), ("max-timestamp", 2), ("latest", 4)):
            told = tool("GetOffsetShell", "--bootstrap-server", broker.bootstrap, "--topic", "java-times", "--time", asked)
            with self.subTest(asked):
                # Where nothing is that late, Kafka's tool leaves the partition out.
                self.assertEqual(told.split(), [] if offset is None else [f"java-times:0:{offset}"])


class Load(unittest.TestCase):
    def test_producer_performance_with_acks_all(self):
        topics("--create", "--topic", "java-load", "--partitions", "2")
        told = tool("ProducerPerformance", "--bootstrap-server", broker.bootstrap, "--topic", "java-load", "--num-records", "20000", "--record-size", "200",
                    "--throughput", "-1", "--command-property", "acks=all")
        self.assertRegex(told, r"20000 records sent, [\d.,]+ records/sec")
        ends = tool("GetOffsetShell", "--bootstrap-server", broker.bootstrap, "--topic", "java-load")
        self.assertEqual(sum(int(line.rsplit(":", 1)[1]) for line in ends.split()), 20000)

    def test_verifiable_producer_is_acked_for_each(self):
        topics("--create", "--topic", "java-verify", "--partitions", "1")
        told = tool("VerifiableProducer", "--bootstrap-server", broker.bootstrap, "--topic", "java-verify", "--max-messages", "500", "--acks", "-1")
        summary = json.loads(told.strip().splitlines()[-1])
        self.assertEqual((summary["sent"], summary["acked"]), (500, 500))
        got = consume("java-verify", 500, "--partition", "0", "--offset", "earliest")
        self.assertEqual(got.split(), [str(i) for i in range(500)])

    def test_broker_api_versions_are_read(self):
        told = tool("BrokerApiVersionsCommand", "--bootstrap-server", broker.bootstrap)
        for api in ("Produce(0)", "Fetch(1)", "Metadata(3)", "ApiVersions(18)", "InitProducerId(22)"):
            self.assertIn(api, told)
