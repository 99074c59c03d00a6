"""Real measurements through the whole broker: in over MQTT and the compact protocol, out through four Kafka clients and, by
way of upstream, out of a real Apache Kafka. What is read equals what was sent: every record, key, value, order, timestamp."""

import time
import unittest

import tables
from compact_device import Device
from harness import Broker, eventually, run
from kafka_server import RealKafka, tool
from mqtt_client import V5, V311, Client
from readback import bounds_of_topic, read_topic


def configuration(upstream):
    return f"""
[node]
name = "gw-1"

# Most of the readings are older than any retention.
[topic_defaults]
retention_time = "unlimited"

[[route]]
match = "device/+id/+table/#"
topic = "device-{{table}}"

[[route]]
match = "+table/#"
topic = "{{table}}"

[[upstream]]
name = "central"
bootstrap = ["{upstream}"]
topics = ["*"]
topic_name = "{{topic}}"
"""


def keep_for_ever(bootstrap):
    """Kafka's retention goes by the records' times as well."""
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

    entry = ConfigEntry("log.retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    broker = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([broker]).values():
        done.result(10)


def by_key(records):
    found = {}
    for key, *rest in records:
        found.setdefault(key, []).append(tuple(rest))
    return found


def with_kafka_python(bootstrap, topic):
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends, got, until = consumer.end_offsets(partitions), [], time.monotonic() + 30
    while any(consumer.position(p) < ends[p] for p in partitions) and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=500).values():
            got.extend((r.key, r.value, r.timestamp) for r in records)
    consumer.close()
    return got


def with_librdkafka(bootstrap, topic):
    return [(r.key, r.value, r.timestamp) for r in read_topic(bootstrap, topic)]


def with_kcat(bootstrap, topic):
    # Lengths stand before what may hold anything.
    told = run("kcat", "-b", bootstrap, "-C", "-t", topic, "-e", "-q", "-f", "%T %K %S\n%k%s\n")
    got, at = [], 0
    while at < len(told):
        end = told.index(b"\n", at)
        stamp, key, value = map(int, told[at:end].split())
        at = end + 1
        got.append((told[at : at + key], told[at + key : at + key + value], stamp))
        at += key + value + 1
    return got


def with_java(bootstrap, topic):
    got = []
    for partition, (low, high) in bounds_of_topic(bootstrap, topic).items():
        if low == high:
            continue
        # It ends with the last record; the time-out is for the case that one is missing.
        told = tool("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", bootstrap, "--topic", topic, "--partition", partition,
                    "--offset", "earliest", "--max-messages", high - low, "--timeout-ms", "30000", "--formatter-property", "print.key=true",
                    "--formatter-property", "print.timestamp=true", "--formatter-property", "key.separator=\x01")
        for line in told.splitlines():
            stamp, key, value = line.split("\x01")
            got.append((key.encode(), value.encode(), int(stamp.split(":")[1])))
    return got


CLIENTS = {"librdkafka": with_librdkafka, "kafka-python": with_kafka_python, "kcat": with_kcat, "java": with_java}


class Input(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.kafka = cls.enterClassContext(RealKafka())
        keep_for_ever(cls.kafka.bootstrap)
        cls.broker = cls.enterClassContext(Broker(configuration(cls.kafka.bootstrap)))
        cls.tables = {name: read() for name, read in tables.TABLES.items()}

    def check(self, topic, sent, times):
        """`sent` is (key, value, time) in order; `times` tells how a stored time compares to the one sent with."""
        count = len(sent)
        eventually(lambda: self.arrived(topic) >= count, 60, f"{count} records of {topic} in the real Kafka")
        reference = None
        for place, bootstrap in (("here", self.broker.bootstrap), ("centre", self.kafka.bootstrap)):
            for name, read in CLIENTS.items():
                with self.subTest(f"{topic}: {name}, {place}"):
                    got = read(bootstrap, topic)
                    self.assertEqual(len(got), count)
                    mine, theirs = by_key(sent), by_key(got)
                    self.assertEqual({k: [v for v, _ in rs] for k, rs in theirs.items()}, {k: [v for v, _ in rs] for k, rs in mine.items()})
                    for key, records in theirs.items():
                        for (_, stamp), (_, at) in zip(records, mine[key]):
                            self.assertTrue(times(stamp, at), f"{key}: {stamp} for {at}")
                    # Whoever reads, wherever: the same times.
                    reference = reference or theirs
                    self.assertEqual(theirs, reference)

    def arrived(self, topic):
        try:
            return len(read_topic(self.kafka.bootstrap, topic))
        except (AssertionError, KeyError):
            return 0

    def over_mqtt(self, table, version, qos):
        readings = self.tables[table]
        before = int(time.time() * 1000)
        with Client(self.broker.mqtt, version) as client:
            client.publish_all([(sensor, value) for sensor, _, value in readings], qos)
        after = int(time.time() * 1000)
        sent = [(sensor.encode(), value, at) for sensor, at, value in readings]
        # MQTT has no time of its own: the record bears when the broker took it.
        self.check(table, sent, lambda stamp, _: before - 1 <= stamp <= after + 1)

    def over_compact(self, table):
        # A queue of its own for each table: a new epoch.
        device = Device(self.broker.compact, "logger-1", sorted(tables.TABLES).index(table) + 1)
        readings = self.tables[table]
        for sensor, at, value in readings:
            device.put(sensor, value, at)
        device.flush()
        device.close()
        self.assertEqual(device.nacks, [])
        sent = [(f"device/logger-1/{sensor}".encode(), value, at) for sensor, at, value in readings]
        # A device says when it took the reading: that is the record's time, to the millisecond, also before 1970.
        self.check(f"device-{table}", sent, lambda stamp, at: stamp == at)

    def test_weather_over_mqtt_311_at_qos_1(self):
        self.over_mqtt("weather", V311, 1)

    def test_stocks_over_mqtt_5_at_qos_2(self):
        self.over_mqtt("stocks", V5, 2)

    def test_co2_over_mqtt_5_at_qos_1(self):
        self.over_mqtt("co2", V5, 1)

    def test_this_machine_over_mqtt_311_at_qos_2(self):
        self.over_mqtt("machine", V311, 2)

    def test_weather_over_compact(self):
        self.over_compact("weather")

    def test_stocks_over_compact(self):
        self.over_compact("stocks")

    def test_co2_over_compact(self):
        self.over_compact("co2")

    def test_this_machine_over_compact(self):
        self.over_compact("machine")
