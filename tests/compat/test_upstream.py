"""Forwarding to a real Apache Kafka over a link that fails: all records arrive, in order within a partition. The first form
of the forwarder is at-least-once after a crash of headwater; without one each record arrives once."""

import json
import os
import threading
import time
import unittest

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness import Broker, cli, eventually, free_ports
from kafka_server import RealKafka
from mqtt_client import V5, Client
from proxy import Link
from readback import bounds_of_topic, read_topic

CUT_SECONDS = float(os.environ.get("HEADWATER_CUT_SECONDS", "8"))


def configuration(bootstrap, more=""):
    return f"""
[node]
name = "gw-7"

[topic_defaults]
partitions = 3

[[upstream]]
name = "central"
bootstrap = ["{bootstrap}"]
topics = ["*", "!private*"]
topic_name = "{{node}}.{{topic}}"
request_timeout = "2s"
backoff_max = "1s"
{more}
"""


def idempotent(broker):
    """librdkafka takes half a second until it has its producer id: loads keep theirs."""
    return Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "enable.idempotence": True, "partitioner": "murmur2_random"})


def produce(broker, topic, values, keys=10, producer=None):
    errors = []
    producer = producer or idempotent(broker)
    for i in values:
        producer.produce(topic, str(i).encode(), f"k{i % keys}", headers=[("n", str(i).encode())], on_delivery=lambda error, _: error and errors.append(error))
        producer.poll(0)
    assert producer.flush(30) == 0 and not errors, errors[:3]


def there(kafka, topic):
    """What has arrived so far; nothing while the topic is not there."""
    try:
        if topic not in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=5).topics:
            return []
        return read_topic(kafka.bootstrap, topic)
    except (AssertionError, KafkaException):
        return []


def same(test, here, centre):
    """Every partition there is what it is here: offsets apart, record for record."""

    def by_partition(records):
        shape = {}
        for r in records:
            shape.setdefault(r.partition, []).append((r.key, r.value, r.headers, r.timestamp))
        return shape

    test.assertEqual(by_partition(here), by_partition(centre))


class Upstream(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        (cls.port,) = free_ports(1)
        cls.kafka = cls.enterClassContext(RealKafka(advertise_link=cls.port))
        cls.link = cls.enterClassContext(Link(cls.port, cls.kafka.link))

    def setUp(self):
        self.link.set("pass")
        self.broker = self.enterContext(Broker(configuration(f"127.0.0.1:{self.port}")))

    def arrived(self, topic, count, seconds=60):
        def enough():
            got = there(self.kafka, f"gw-7.{topic}")
            return got if len(got) >= count else None

        return eventually(enough, seconds, f"{count} records of {topic} upstream")

    def test_what_comes_in_arrives_with_keys_headers_and_times(self):
        produce(self.broker, "plain", range(2000))
        with Client(self.broker.mqtt, V5) as client:
            client.publish_all([(f"plant/{i % 5}", str(i).encode()) for i in range(200)])
        same(self, read_topic(self.broker.bootstrap, "plain"), self.arrived("plain", 2000))
        same(self, read_topic(self.broker.bootstrap, "telemetry"), self.arrived("telemetry", 200))

    def test_a_missing_topic_is_made_with_the_same_partition_count(self):
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        admin.create_topics([NewTopic("five", 5, 1)])["five"].result(10)
        produce(self.broker, "five", range(50))
        self.arrived("five", 50)
        topics = AdminClient({"bootstrap.servers": self.kafka.bootstrap}).list_topics(timeout=10).topics
        self.assertEqual(len(topics["gw-7.five"].partitions), 5)

    def test_what_a_pattern_leaves_out_stays(self):
        produce(self.broker, "private-a", range(10))
        produce(self.broker, "public-a", range(10))
        self.arrived("public-a", 10)
        topics = AdminClient({"bootstrap.servers": self.kafka.bootstrap}).list_topics(timeout=10).topics
        self.assertNotIn("gw-7.private-a", topics)

    def test_each_codec_passes_through(self):
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            producer = Producer({"bootstrap.servers": self.broker.bootstrap, "compression.type": codec, "linger.ms": 20})
            for i in range(300):
                producer.produce(f"codec-{codec}", f"{codec} {i}" * 5, "k")
            self.assertEqual(producer.flush(20), 0)
            same(self, read_topic(self.broker.bootstrap, f"codec-{codec}"), self.arrived(f"codec-{codec}", 300))

    def test_retention_waits_for_the_link_where_a_topic_holds_also_after_a_kill(self):
        at = ("--broker", self.broker.bootstrap)
        for topic, hold in (("held", "true"), ("free", "false")):
            cli("topic", "create", topic, *at, "--partitions", "1", "--setting", "retention.ms=1000", "--setting", f"hold.until.forwarded={hold}")

        def start(topic):
            return bounds_of_topic(self.broker.bootstrap, topic)[0][0]

        self.link.set("refuse")
        self.link.cut()
        count = 0
        for _ in range(2):
            produce(self.broker, "held", range(count, count + 300))
            produce(self.broker, "free", range(300))
            count += 300
            # What retention took of the one it has looked at in the other.
            eventually(lambda: start("free") == count, 20, "the end of what nobody holds")
            self.assertEqual(start("held"), 0)
            self.broker.restart()
        self.assertEqual(start("held"), 0)
        self.link.set("pass")
        here = read_topic(self.broker.bootstrap, "held")
        same(self, here, self.arrived("held", count))
        eventually(lambda: start("held") == count, 20, "the end of what is forwarded")
        self.assertEqual(self.broker.metric("headwater_log_unforwarded_records_total"), 0)
        self.assertEqual(json.loads(self.broker.http_get("/api/v1/losses")), [])

    def test_a_cut_link_and_a_restarted_kafka_lose_nothing_and_keep_the_order(self):
        ended, sent, failure = threading.Event(), [0], []

        def load():
            producer = idempotent(self.broker)
            try:
                while not ended.is_set():
                    produce(self.broker, "cut", range(sent[0], sent[0] + 200), producer=producer)
                    sent[0] += 200
                    ended.wait(0.05)
            except AssertionError as error:
                failure.append(error)

        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        eventually(lambda: sent[0] >= 1000, 20)
        restart = threading.Thread(target=lambda: (self.kafka.stop("KILL"), time.sleep(CUT_SECONDS / 4), self.kafka.start()))
        restart.start()
        before, resets = sent[0], self.link.resets
        modes = self.link.misbehave(CUT_SECONDS)
        during = sent[0] - before
        restart.join()
        back = time.monotonic()
        # While the link is there again, the backlog and what still comes in go together.
        eventually(lambda: sent[0] >= before + during + 600, 20)
        ended.set()
        thread.join()
        self.assertEqual(failure, [], "ingest was harmed by the link")
        self.assertGreaterEqual(during, 200 * CUT_SECONDS, "ingest waited for the link")
        eventually(lambda: self.broker.metric("headwater_upstream_lag_records") == 0, 60 + CUT_SECONDS, "the end of the backlog")
        drained = time.monotonic() - back
        arrived = self.arrived("cut", sent[0])
        twice = len(arrived) - len({r.value for r in arrived})
        print(f"      {sent[0]} records, {during} of them while the link failed for {CUT_SECONDS:.0f} s ({', '.join(modes)}; {self.link.resets - resets} resets)"
              f" and Kafka restarted; drained {drained:.1f} s after; {twice} duplicates; {self.broker.metric('upstream_batches_retried'):.0f} batches sent again,"
              f" {self.broker.metric('upstream_timeouts'):.0f} time-outs, {self.broker.metric('upstream_producer_resets'):.0f} new producer ids")
        same(self, read_topic(self.broker.bootstrap, "cut"), arrived)

    def test_resets_in_the_middle_of_requests_and_answers_make_no_duplicates(self):
        self.link.set("reset")
        before = self.link.resets
        producer = idempotent(self.broker)
        sent = 0
        while self.link.resets < before + 5:
            self.assertLess(sent, 100_000, f"{self.link.resets - before} resets only")
            produce(self.broker, "resets", range(sent, sent + 200), producer=producer)
            sent += 200
        self.link.set("pass")
        same(self, read_topic(self.broker.bootstrap, "resets"), self.arrived("resets", sent))

    def test_a_link_that_hangs_is_noticed_and_left(self):
        produce(self.broker, "hang", range(100))
        self.arrived("hang", 100)
        self.link.set("black")
        produce(self.broker, "hang", range(100, 200))
        # Nothing is closed: only the missing answer tells. The request's time-out is 2 s here. The second one is a new connection's,
        # which is taken and then silent as well.
        eventually(lambda: self.broker.metric("headwater_upstream_timeouts_total") >= 2, 15, "time-outs of the hung link")
        told = self.status()
        self.assertEqual((told["connected"], told["lag_records"]), (False, 100))
        self.assertIn("nothing moved within the request time-out", told["last_error"])
        self.assertIn("upstream", self.broker.http_get("/healthz"))
        # Those that hang stay as they are: it must have left them.
        self.link.set("pass")
        same(self, read_topic(self.broker.bootstrap, "hang"), self.arrived("hang", 200))

    def test_after_a_crash_it_goes_on_and_loses_nothing(self):
        self.link.set("refuse")
        produce(self.broker, "crash", range(500))
        self.broker.restart()
        self.link.set("pass")
        produce(self.broker, "crash", range(500, 1000))
        eventually(lambda: len({r.value for r in there(self.kafka, "gw-7.crash")}) == 1000, 60, "1000 different records upstream")
        self.broker.restart()
        produce(self.broker, "crash", range(1000, 1100))
        eventually(lambda: len({r.value for r in there(self.kafka, "gw-7.crash")}) == 1100, 60, "1100 different records upstream")
        got = there(self.kafka, "gw-7.crash")
        for key in {r.key for r in got}:
            # At least once: a resent run may repeat, but what is new comes in order.
            seen = list(dict.fromkeys(int(r.value) for r in got if r.key == key))
            self.assertEqual(seen, sorted(seen))

    def test_what_the_centre_refuses_is_counted_kept_and_stops_nothing(self):
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        admin.create_topics([NewTopic("gw-7.poison", 3, 1, config={"max.message.bytes": "2000"})])["gw-7.poison"].result(10)
        produce(self.broker, "poison", range(10), keys=1)
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "partitioner": "murmur2_random"})
        producer.produce("poison", os.urandom(50_000), "k0")
        self.assertEqual(producer.flush(10), 0)
        produce(self.broker, "poison", range(10, 20), keys=1)
        got = self.arrived("poison", 20)
        self.assertEqual([int(r.value) for r in got], list(range(20)))
        eventually(lambda: self.broker.metric("headwater_upstream_batches_refused_total") == 1, 10, "the count of refused batches")
        self.assertEqual(self.broker.metric("headwater_upstream_records_refused_total"), 1)
        (refused,) = self.status(lambda told: told["refused_batches"] == 1)["refused"]
        self.assertEqual((refused["topic"], refused["records"], refused["error"]), ("poison", 1, 10))
        self.assertIn("MESSAGE_TOO_LARGE", refused["cause"])
        kept = read_topic(self.broker.bootstrap, "poison")
        self.assertEqual(len(kept), 21, "the refused record is kept here")
        self.assertEqual([len(r.value) for r in kept if (r.partition, r.offset) == (refused["partition"], refused["offset"])], [50_000])
        self.broker.restart()
        self.assertEqual(self.status(lambda told: told["refused"])["refused"], [refused], "it is known after a kill")

    def test_a_record_from_the_future_is_refused_alone(self):
        now = int(time.time() * 1000)
        errors = []
        # One batch of ten: Apache Kafka 4 takes no timestamp that is more than an hour ahead.
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 200})
        for i in range(10):
            producer.produce("future", str(i), "k", timestamp=now + (86_400_000 if i == 4 else i), on_delivery=lambda error, _: error and errors.append(error))
        self.assertEqual((producer.flush(10), errors), (0, []))
        self.assertEqual([int(r.value) for r in self.arrived("future", 9)], [0, 1, 2, 3, 5, 6, 7, 8, 9])
        (refused,) = self.status(lambda told: told["refused_batches"] == 1)["refused"]
        self.assertEqual((refused["topic"], refused["offset"], refused["records"], refused["error"]), ("future", 4, 1, 32))

    def test_status_tells_how_far_it_is(self):
        produce(self.broker, "status", range(30))
        self.arrived("status", 30)
        told = self.status(lambda told: told["lag_records"] == 0 and told["forwarded_records"])
        self.assertEqual((told["name"], told["connected"], told["forwarded_records"]), ("central", True, 30))
        partitions = [p for p in told["partitions"] if p["topic"] == "status"]
        self.assertEqual([(p["partition"], p["topic_there"], p["partition_there"]) for p in partitions], [(n, "gw-7.status", n) for n in range(3)])
        self.assertEqual(sum(p["next_offset"] for p in partitions), 30)
        text = cli("upstream", "status", "central", "--http", f"http://127.0.0.1:{self.broker.http}").stdout.decode()
        self.assertIn("central: connected, 0 records behind, 30 forwarded", text)

    def status(self, check=lambda told: True):
        """What `headwater upstream status` tells, once it is as `check` wants it: it is renewed twice a second."""

        def told():
            line = json.loads(cli("upstream", "status", "--json", "--http", f"http://127.0.0.1:{self.broker.http}").stdout)
            return line if check(line) else None

        return eventually(told, 10, "the status")
