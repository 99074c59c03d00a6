"""Compaction beside Apache Kafka's: the same records go to both, and once both have cleaned, a reader from the start finds the same
records at the same offsets. And kill -9 while it is at work."""

import collections
import random
import threading
import time
import unittest

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from harness import SEED, Broker, cli, eventually
from kafka_server import RealKafka
from readback import read_topic

CODECS = ("none", "gzip", "zstd")
KEYS = 40
# A segment of Kafka's ends where the timestamps have gone on by a minute.
SEGMENT_MS = 60_000


def admin(bootstrap):
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})


def create(bootstrap, topic, **config):
    config = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.ms": str(SEGMENT_MS), **config}
    config = {name.replace("_", "."): value for name, value in config.items()}
    client = admin(bootstrap)
    client.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(20)


def clean_often(kafka):
    """Apache Kafka's cleaner looks every fifteen seconds unless told otherwise."""
    entry = ConfigEntry("log.cleaner.backoff.ms", "200", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[entry])
    client = admin(kafka.bootstrap)
    (future,) = client.incremental_alter_configs([resource]).values()
    future.result(20)


def shown(bootstrap, topic):
    """Every record: offset, key, value, timestamp."""
    records = read_topic(bootstrap, topic, **{"check.crcs": True})
    return [(r.offset, r.key, r.value, r.timestamp) for r in records]


class Both:
    """One topic on both sides, and what was written to it."""

    def __init__(self, bootstraps, topic, codec="none", **config):
        self.bootstraps, self.topic = bootstraps, topic
        self.written = []
        # From an hour ago, on: no record is from the future.
        self.time_ms = int(time.time() * 1000) - 3_600_000
        self.producers = []
        for bootstrap in bootstraps:
            create(bootstrap, topic, **config)
            self.producers.append(Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": codec, "enable.idempotence": True}))

    def write(self, key, value):
        self.time_ms += 100
        self.written.append((len(self.written), key, value, self.time_ms))
        for producer in self.producers:
            producer.produce(self.topic, key=key, value=value, partition=0, timestamp=self.time_ms)

    def flush(self):
        for producer in self.producers:
            assert producer.flush(20) == 0

    def end_segment(self, value=b"x" * 2000):
        """The newest segment of Kafka's, and the newest batch of headwater's, hold this one record alone."""
        self.flush()
        self.time_ms += 2 * SEGMENT_MS
        self.write(b"end", value)
        self.flush()

    def kept(self, tombstones):
        """The last record of each key, but the newest record is not looked at."""
        last = {key: offset for offset, key, _, _ in self.written[:-1]}
        kept = [record for record in self.written[:-1] if last[record[1]] == record[0] and (tombstones or record[2] is not None)]
        return kept + self.written[-1:]

    def await_kept(self, tombstones):
        for bootstrap in self.bootstraps:
            eventually(lambda: shown(bootstrap, self.topic) == self.kept(tombstones), 60, f"what is to stay of {self.topic} at {bootstrap}")


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


class BesideKafka(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kafka = cls.enterClassContext(RealKafka())
        clean_often(cls.kafka)
        cls.bootstraps = (cls.kafka.bootstrap, broker.bootstrap)

    def test_the_same_records_stay(self):
        rng = random.Random(SEED)
        topics = [Both(self.bootstraps, f"same-{codec}", codec) for codec in CODECS]
        for segment in range(4):
            for both in topics:
                for n in range(400):
                    key = b"key-%d" % rng.randrange(KEYS)
                    both.write(key, None if rng.randrange(5) == 0 else b"%d-%d " % (segment, n) * rng.randrange(1, 40))
                    if rng.randrange(50) == 0:
                        both.flush()
                both.end_segment()
        for both in topics:
            both.await_kept(tombstones=True)
            there, here = (shown(bootstrap, both.topic) for bootstrap in self.bootstraps)
            self.assertEqual(there, here)
            self.assertLess(len(here), KEYS + 6)
            self.assertTrue(any(value is None for _, _, value, _ in here), "no tombstone is left to compare")
        before = [shown(broker.bootstrap, both.topic) for both in topics]
        broker.restart()
        self.assertEqual([shown(broker.bootstrap, both.topic) for both in topics], before)

    def test_tombstones_go_a_while_after_they_were_first_cleaned(self):
        both = Both(self.bootstraps, "tombstones", delete_retention_ms="300")
        for n in range(20):
            both.write(b"key-%d" % n, b"value")
        for n in range(0, 20, 2):
            both.write(b"key-%d" % n, None)
        both.end_segment()

        def both_without():
            # Neither looks at a partition in which nothing is new.
            both.end_segment()
            return all(value is not None for bootstrap in self.bootstraps for _, _, value, _ in shown(bootstrap, "tombstones"))

        eventually(both_without, 60, "the end of the tombstones")
        both.await_kept(tombstones=False)

    def test_a_record_without_a_key_is_refused(self):
        told = []
        for bootstrap in self.bootstraps:
            create(bootstrap, "keyed")
            errors = []
            producer = Producer({"bootstrap.servers": bootstrap})
            producer.produce("keyed", b"no key", on_delivery=lambda error, _: errors.append(error and error.name()))
            producer.produce("keyed", b"value", key=b"key", on_delivery=lambda error, _: None)
            producer.flush(20)
            told.append(errors)
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[1], ["INVALID_RECORD"])


class Killed(unittest.TestCase):
    def test_kills_while_it_cleans_lose_nothing_that_was_acked(self):
        create(broker.bootstrap, "killed")
        rng = random.Random(SEED)
        acked, ended, failures = collections.defaultdict(lambda: -1), threading.Event(), []

        def load():
            producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1, "enable.idempotence": True, "reconnect.backoff.max.ms": 200, "log_level": 2})
            for n in range(10**9):
                if ended.is_set():
                    break
                key = b"%d" % (n % 97)

                def delivered(error, _, key=key, n=n):
                    if error:
                        failures.append(error)
                    acked[key] = max(acked[key], n)

                producer.produce("killed", key=key, value=b"%d " % n * 20, on_delivery=delivered)
                producer.poll(0.002 if n % 10 == 0 else 0)
            producer.flush(30)

        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        removed = 0
        for _ in range(3):
            begun = broker.metric("headwater_log_compacted_records_total")
            eventually(lambda: broker.metric("headwater_log_compacted_records_total") > begun, 30, "a pass")
            removed += broker.metric("headwater_log_compacted_records_total")
            time.sleep(rng.random() * 0.05)
            told = dict(acked)
            broker.restart()
            self.check_last(told)
        ended.set()
        thread.join(40)
        self.assertFalse(thread.is_alive() or failures, failures)
        self.check_last(acked)
        self.assertGreater(removed, 1000)
        broker.stop()
        checked = cli("check", broker.data)
        print(f"3 kills while it cleans, {removed:.0f} records removed; {checked.stdout.decode().splitlines()[-1]}")
        broker.start()

    def check_last(self, told):
        last = {}
        for record in read_topic(broker.bootstrap, "killed", 40):
            n = int(record.value.split(b" ", 1)[0])
            self.assertGreater(n, last.get(record.key, -1), "an older value behind a newer one")
            last[record.key] = n
        for key, n in told.items():
            self.assertGreaterEqual(last.get(key, -1), n, f"key {key}")


if __name__ == "__main__":
    unittest.main()
