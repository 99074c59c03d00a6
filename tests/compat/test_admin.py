"""Looking after topics that are there: records deleted and settings altered by librdkafka's admin client, kafka-python's and the
command line; each again after kill -9."""

import json
import unittest

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewPartitions, NewTopic
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource as PythonResource, ConfigResourceType, NewPartitions as PythonPartitions
from kafka.partitioner import murmur2

from harness import Broker, cli, eventually
from mqtt_client import Client
from readback import read_topic

FILE = """\
[[topic]]
name = "pinned"
partitions = 1
retention_time = "7d"
"""


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker(config=FILE))


def admin():
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 4})


def create(topic, partitions=1, **config):
    client = admin()
    client.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(10)


def produce(topic, values, partition=0):
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 50})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def consumer(**more):
    return Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "unused", "enable.auto.commit": False, **more})


def bounds(topic, partition=0):
    c = consumer()
    try:
        return c.get_watermark_offsets(TopicPartition(topic, partition), 10, cached=False)
    finally:
        c.close()


def read(topic, offset, count):
    c = consumer()
    c.assign([TopicPartition(topic, 0, offset)])
    got = []

    def enough():
        got.extend(c.consume(500, 0.2))
        return len(got) >= count

    eventually(enough, 15, f"{count} records")
    c.close()
    for message in got:
        assert message.error() is None, message.error()
    return [message.offset() for message in got]


def delete(topic, offset, partition=0):
    """The low watermark, or the error's code."""
    client = admin()
    try:
        (future,) = client.delete_records([TopicPartition(topic, partition, offset)]).values()
        return future.result(10).low_watermark
    except KafkaException as error:
        return error.args[0].code()


def alter(topic, name, value=None, operation=AlterConfigOpType.SET, **more):
    entry = ConfigEntry(name, value, incremental_operation=operation)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    client = admin()
    (future,) = client.incremental_alter_configs([resource], **more).values()
    return future.result(10)


def setting(topic, name):
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    client = admin()
    (future,) = client.describe_configs([resource]).values()
    entry = future.result(10)[name]
    return entry.value, ConfigSource(entry.source)


class DeleteRecords(unittest.TestCase):
    def test_the_log_start_moves_and_a_kill_does_not_bring_records_back(self):
        create("cut")
        produce("cut", [b"%d" % i for i in range(100)])
        self.assertEqual(delete("cut", 37), 37)
        for _ in range(2):
            self.assertEqual(bounds("cut"), (37, 100))
            self.assertEqual(read("cut", 37, 63), list(range(37, 100)))
            broker.restart()
        self.assertEqual(delete("cut", 12), 37)
        self.assertEqual(delete("cut", -1), 100)
        broker.restart()
        self.assertEqual(bounds("cut"), (100, 100))
        produce("cut", [b"next"])
        self.assertEqual(read("cut", 100, 1), [100])

    def test_what_is_not_there_is_refused_as_kafka_does(self):
        create("cut-not")
        produce("cut-not", [b"a", b"b"])
        self.assertEqual(delete("cut-not", 3), KafkaError.OFFSET_OUT_OF_RANGE)
        self.assertEqual(bounds("cut-not"), (0, 2))
        self.assertEqual(delete("cut-not", 0, partition=5), KafkaError._NOENT)
        self.assertEqual(delete("cut-not", 2), 2)

    def test_a_fetch_before_the_log_start_is_out_of_range(self):
        create("cut-fetch")
        produce("cut-fetch", [b"a", b"b", b"c"])
        self.assertEqual(delete("cut-fetch", 2), 2)
        c = consumer(**{"auto.offset.reset": "error"})
        c.assign([TopicPartition("cut-fetch", 0, 0)])
        message = eventually(lambda: c.poll(0.5), 15, "an answer")
        c.close()
        self.assertEqual(message.error().code(), KafkaError._AUTO_OFFSET_RESET)

    def test_the_check_agrees_after_a_kill(self):
        create("cut-check", 2)
        produce("cut-check", [b"x" * 1000] * 50)
        produce("cut-check", [b"x"] * 5, partition=1)
        self.assertEqual(delete("cut-check", 20), 20)
        self.assertEqual(delete("cut-check", -1, partition=1), 5)
        broker.kill()
        try:
            told = cli("check", broker.data).stdout.decode()
        finally:
            broker.start()
        self.assertIn("cut-check partition 0: offsets 20 to 50", told)
        self.assertIn("cut-check partition 1: offsets 5 to 5", told)


class Settings(unittest.TestCase):
    def test_a_setting_is_altered_and_stays_after_a_kill(self):
        create("set")
        default = setting("set", "retention.ms")
        self.assertEqual(default[1], ConfigSource.DEFAULT_CONFIG)
        alter("set", "retention.ms", "123456")
        for _ in range(2):
            self.assertEqual(setting("set", "retention.ms"), ("123456", ConfigSource.DYNAMIC_TOPIC_CONFIG))
            broker.restart()
        alter("set", "retention.ms", operation=AlterConfigOpType.DELETE)
        for _ in range(2):
            self.assertEqual(setting("set", "retention.ms"), default)
            broker.restart()
        alter("set", "cleanup.policy", "compact", AlterConfigOpType.APPEND)
        self.assertEqual(setting("set", "cleanup.policy")[0], "compact,delete")

    def test_retention_is_in_force_at_once(self):
        create("set-now")
        for _ in range(5):
            produce("set-now", [b"x" * 1000])
        alter("set-now", "retention.bytes", "2500")
        eventually(lambda: bounds("set-now") == (2, 5), 5, "a later log start")

    def test_validation_changes_nothing(self):
        create("set-not")
        before = setting("set-not", "retention.ms")
        alter("set-not", "retention.ms", "5", validate_only=True)
        self.assertEqual(setting("set-not", "retention.ms"), before)

    def test_what_cannot_be_is_refused_with_what_to_try(self):
        create("set-wrong")
        cases = [
            ("set-wrong", "retention.mss", "1", "retention.ms"),
            ("set-wrong", "retention.ms", "soon", "Try:"),
            ("pinned", "retention.ms", "1", "line 1"),
        ]
        for topic, name, value, told in cases:
            with self.subTest(name), self.assertRaises(KafkaException) as raised:
                alter(topic, name, value)
            error = raised.exception.args[0]
            self.assertEqual(error.code(), KafkaError.INVALID_CONFIG)
            self.assertIn(told, error.str())
        self.assertEqual(setting("pinned", "retention.ms")[1], ConfigSource.STATIC_BROKER_CONFIG)

    def test_the_older_request_of_kafka_python(self):
        create("set-old", **{"priority": "3"})
        client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        client.alter_configs([PythonResource(ConfigResourceType.TOPIC, "set-old", configs={"retention.ms": "777"})])
        client.close()
        broker.restart()
        self.assertEqual(setting("set-old", "retention.ms")[0], "777")


class Partitions(unittest.TestCase):
    def grow(self, topic, count, **more):
        """Nothing, or the error's code."""
        assignment = {"replica_assignment": more.pop("replica_assignment")} if "replica_assignment" in more else {}
        client = admin()
        try:
            (future,) = client.create_partitions([NewPartitions(topic, count, **assignment)], **more).values()
            future.result(10)
        except KafkaException as error:
            return error.args[0].code()

    def count(self, topic):
        return len(admin().list_topics(topic, timeout=10).topics[topic].partitions)

    def test_partitions_are_added_and_stay_after_a_kill(self):
        create("grow", 2)
        produce("grow", [b"before"] * 3, partition=1)
        self.assertIsNone(self.grow("grow", 5))
        for _ in range(2):
            self.assertEqual(self.count("grow"), 5)
            produce("grow", [b"after"], partition=4)
            broker.restart()
        self.assertEqual([bounds("grow", p) for p in range(5)], [(0, 0), (0, 3), (0, 0), (0, 0), (0, 2)])

    def test_fewer_or_as_many_or_elsewhere_or_of_nothing_is_refused_with_kafkas_codes(self):
        create("grow-not", 3)
        for count in (3, 2):
            self.assertEqual(self.grow("grow-not", count), KafkaError.INVALID_PARTITIONS)
        self.assertEqual(self.grow("grow-not", 5, replica_assignment=[[0], [7]]), KafkaError.INVALID_REPLICA_ASSIGNMENT)
        self.assertEqual(self.grow("grow-none", 5), KafkaError.UNKNOWN_TOPIC_OR_PART)
        self.assertEqual(self.grow("pinned", 9), KafkaError.INVALID_PARTITIONS)
        self.assertIsNone(self.grow("grow-not", 5, validate_only=True))
        self.assertEqual(self.count("grow-not"), 3)

    def test_kafka_python_grows_a_topic_that_a_consumer_reads_and_mqtt_writes_by_key(self):
        create("telemetry", 1)
        c = consumer(**{"topic.metadata.refresh.interval.ms": 200})
        self.addCleanup(c.close)
        client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        self.addCleanup(client.close)
        keys = [f"grow/{i}" for i in range(40)]
        with Client(broker.mqtt) as device, Client(broker.mqtt) as subscriber:
            subscriber.subscribe("grow/#")
            device.publish_all([(key, b"before") for key in keys])
            client.create_partitions({"telemetry": PythonPartitions(8)})
            device.publish_all([(key, b"after") for key in keys])
            # Live delivery follows the new partitions.
            subscriber.wait_messages(80)
        eventually(lambda: len(c.list_topics("telemetry", timeout=10).topics["telemetry"].partitions) == 8, 10, "the new partitions")
        placed = {}
        for record in read_topic(broker.bootstrap, "telemetry"):
            placed.setdefault(record.value, {})[record.key.decode()] = record.partition
        self.assertEqual(set(placed[b"before"].values()), {0})
        # Where Kafka's own producers put these keys.
        self.assertEqual(placed[b"after"], {key: (murmur2(key.encode()) & 0x7FFFFFFF) % 8 for key in keys})

    def test_the_command_line_grows_a_topic_and_changes_a_setting(self):
        create("grow-cli", 2)

        def alter_cli(*args, **more):
            return cli("topic", "alter", "grow-cli", *args, "--broker", broker.bootstrap, **more)

        alter_cli("--partitions", "6", "--set", "priority=2")
        self.assertEqual((self.count("grow-cli"), setting("grow-cli", "priority")[0]), (6, "2"))
        refused = alter_cli("--partitions", "4", check=False)
        self.assertEqual(refused.returncode, 2, refused.stderr)
        self.assertIn(b"Try: more than 6", refused.stderr)


class CommandLine(unittest.TestCase):
    def test_alter(self):
        create("cli-alter")

        def at(*args, **more):
            return cli("topic", *args, "--broker", broker.bootstrap, **more)

        def told():
            return json.loads(at("describe", "cli-alter", "--json").stdout)["settings"]

        before = told()
        at("alter", "cli-alter", "--set", "retention.ms=86400000", "--set", "priority=2")
        broker.restart()
        self.assertEqual(told(), {**before, "retention.ms": "86400000", "priority": "2"})
        done = at("alter", "cli-alter", "--unset", "retention.ms", "--unset", "priority", "--json")
        self.assertEqual(json.loads(done.stdout), {"topic": "cli-alter", "altered": True})
        self.assertEqual(told(), before)
        for code, more in [(2, ["cli-alter", "--set", "retention.ms=soon"]), (2, ["cli-alter", "--set", "retention.ms"]), (2, ["cli-alter"]), (3, ["cli-gone", "--unset", "priority"])]:
            with self.subTest(more):
                done = at("alter", *more, check=False)
                self.assertEqual(done.returncode, code, done.stderr)


if __name__ == "__main__":
    unittest.main()
