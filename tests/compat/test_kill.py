"""kill -9 under mixed load, again and again: no acked record is missing or elsewhere than its ack said, no offset changes its
content, and neither QoS 2, nor the compact protocol, nor an idempotent Kafka producer stores anything twice. A device that
forgets its queue and takes a new epoch loses only what had no ack. At the end `headwater check` agrees."""

import collections
import os
import random
import threading
import time
import unittest

import paho.mqtt.client as paho
from confluent_kafka import Producer

from compact_device import ACK, Device, Ended
from harness import SEED, Broker, cli, eventually
from mqtt_client import V311, Client
from mqtt_once import ExactlyOnce
from readback import read_topic

KILLS = int(os.environ.get("HEADWATER_KILLS", "12"))


def value(n):
    """Record n of a load: mostly a reading, now and then something that fills pages."""
    size = random.Random(n).randrange(6000) if n % 61 == 7 else n % 100
    return f"{n} {'x' * size}".encode()


def number(record):
    """Which record of its load this is; it must be that one whole."""
    n = int(record.value.split(b" ", 1)[0])
    assert record.value == value(n), f"{record!r} is not what was sent"
    return n


class Load(threading.Thread):
    """Sends numbered records under its name until told to end, and knows which were acked. `once` is false where a record that
    is sent again may be stored again."""

    once = True

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker = broker
        self.ended = threading.Event()
        self.acked = set()
        self.placed = {}
        self.next = 0
        self.failure = None

    def run(self):
        try:
            self.load()
        except Exception as failure:  # told by the test, which looks at it
            self.failure = failure


class Mqtt(Load):
    """A session that outlives the broker, at QoS 1: paho resends what is not acked, with the same packet id."""

    once = False

    def __init__(self, broker):
        super().__init__(broker)
        self.key = "kill/mqtt-1"

    def load(self):
        client = Client(self.broker.mqtt, V311, client_id=self.key, clean=False)
        client.paho.reconnect_delay_set(0.05, 0.2)
        mids = {}
        while not self.ended.is_set():
            with client.changed:
                waiting = [mid for mid in mids if mid not in client.acked]
            if len(waiting) < 20:
                info = client.paho.publish(self.key, value(self.next), 1)
                if info.rc in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN):
                    mids[info.mid] = self.next
                    self.next += 1
            else:
                time.sleep(0.002)
            self.note(client, mids)
        client.wait(lambda: all(mid in client.acked for mid in mids), 30, f"the last acks of {self.key}")
        self.note(client, mids)
        client.close()

    def note(self, client, mids):
        with client.changed:
            for mid in [mid for mid in mids if mid in client.acked]:
                reason = client.acked.pop(mid)
                assert not reason.is_failure, f"{self.key}: {reason}"
                # The number is free again: paho counts to 65,535 and begins anew.
                self.acked.add(mids.pop(mid))


class MqttOnce(Load):
    """The same at QoS 2. A PUBREC is the ack: what has one is stored."""

    def __init__(self, broker, level):
        super().__init__(broker)
        self.level = level
        self.key = f"kill/mqtt-2-{level}"

    def load(self):
        client = ExactlyOnce(self.broker.mqtt, self.level, self.key, self.key)
        self.acked = client.recorded
        while not self.ended.is_set():
            while client.in_flight() < 20:
                client.publish(self.next, value(self.next))
                self.next += 1
            client.exchange()
        client.flush(30)
        self.resent = client.resent
        client.close()


class Compact(Load):
    """A device. One that forgets has its queue in RAM and is reset with every connection that breaks: what had no ack is not
    sent again, by anybody, and the next life has a new epoch."""

    def __init__(self, broker, forgets=False):
        super().__init__(broker)
        self.forgets = forgets
        self.name = "kill-forgetful" if forgets else "kill-device"
        self.key = f"device/{self.name}/n"
        self.lives = 1

    def load(self):
        device, before = Device(self.broker.compact, self.name), 0
        while not self.ended.is_set():
            for _ in range(20):
                device.put("n", value(self.next))
                self.next += 1
            try:
                if self.forgets:
                    self.once_over(device)
                else:
                    device.flush(30)
            except Ended:
                device.close()
            self.acked.update(range(before, before + device.acked))
            if self.forgets and device.acked < len(device.queue):
                device.close()
                before, self.lives = self.next, self.lives + 1
                device = Device(self.broker.compact, self.name, epoch=self.lives)
        device.flush(30)
        self.acked.update(range(before, before + device.acked))
        device.close()

    @staticmethod
    def once_over(device):
        """Sends what is queued over one connection; a broken one is the end of it."""
        try:
            if not device.socket:
                device.connect()
            while device.send_some():
                pass
            while device.acked < len(device.queue):
                device.receive(ACK, 5)
        except OSError:
            time.sleep(0.05)


class Kafka(Load):
    """A producer that waits for all; librdkafka keeps the order by its sequences, or by one request at a time."""

    def __init__(self, broker, idempotent):
        super().__init__(broker)
        self.once = idempotent
        self.key = "kill/kafka" if idempotent else "kill/kafka-plain"

    def load(self):
        order = {"enable.idempotence": True} if self.once else {"max.in.flight": 1, "acks": "all"}
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 2, "retry.backoff.ms": 50, "reconnect.backoff.ms": 20,
                             "reconnect.backoff.max.ms": 200, "message.timeout.ms": 60_000, "log_level": 2, **order})
        while not self.ended.is_set():
            for _ in range(20):
                n = self.next
                producer.produce("kill", value(n), self.key, on_delivery=lambda error, message, n=n: self.done(error, message, n))
                self.next += 1
            producer.poll(0.01)
            if len(producer) > 500:
                producer.flush(1)
        assert producer.flush(60) == 0, "the Kafka producer was not acked"

    def done(self, error, message, n):
        assert error is None, error
        self.acked.add(n)
        self.placed[message.partition(), message.offset()] = n


class Kill(unittest.TestCase):
    def test_nothing_acked_is_lost_nothing_changes_nothing_is_doubled(self):
        rng = random.Random(SEED)
        topics = ("telemetry", "kill")
        with Broker() as broker:
            loads = [Mqtt(broker), MqttOnce(broker, 5), MqttOnce(broker, 4), Compact(broker), Compact(broker, forgets=True),
                     Kafka(broker, idempotent=True), Kafka(broker, idempotent=False)]
            for load in loads:
                load.start()
            eventually(lambda: all(load.acked or load.failure for load in loads), 20, "a first ack of each")
            self.assertEqual([load.failure for load in loads if load.failure], [])
            seen = {topic: {} for topic in topics}
            for _ in range(KILLS):
                time.sleep(rng.uniform(0.1, 0.8))
                broker.kill()
                broker.start()
                self.assertEqual([load.failure for load in loads if load.failure], [])
                # Everything is read each time: of many kills not behind every third.
                if rng.random() < min(0.3, 10 / KILLS):
                    self.compare(broker, seen)
            for load in loads:
                load.ended.set()
            for load in loads:
                load.join(90)
                self.assertFalse(load.is_alive(), f"{load.key} does not end")
            self.assertEqual([load.failure for load in loads if load.failure], [])
            records = self.compare(broker, seen)
            for load in loads:
                with self.subTest(load.key):
                    self.verify(load, [r for r in records if r.key == load.key.encode()])
            self.assertEqual({r.key.decode() for r in records}, {load.key for load in loads})
            self.assertGreater(next(load.lives for load in loads if getattr(load, "forgets", False)), 1, "no reset was met")
            self.assertGreater(sum(load.resent for load in loads if isinstance(load, MqttOnce)), 0, "no kill met a message without PUBREC")
            told = ", ".join(f"{load.key} {len(load.acked)}" for load in loads)
            print(f"      {KILLS} kills, seed {SEED}; acked: {told}")
            self.assertEqual(broker.stop()[0], 0)
            cli("check", broker.data)

    def verify(self, load, records):
        stored = [number(r) for r in records]
        counts = collections.Counter(stored)
        self.assertGreater(len(load.acked), KILLS)
        self.assertEqual(sorted(load.acked - set(counts)), [], "acked and missing")
        first = list(dict.fromkeys(stored))
        self.assertEqual(first, sorted(first), "out of order")
        if load.once:
            self.assertEqual([n for n, count in counts.items() if count > 1], [], "stored twice")
        there = {(r.partition, r.offset): n for r, n in zip(records, stored)}
        self.assertEqual({place: there.get(place) for place in load.placed}, load.placed, "not where the ack said")

    def compare(self, broker, seen):
        """Reads everything; what was at an offset once is there still."""
        everything = []
        for topic, known in seen.items():
            expected = collections.Counter()
            for r in read_topic(broker.bootstrap, topic, 60):
                everything.append(r)
                # Nothing is compacted or retired here: an offset without a record is a record that went.
                self.assertEqual(r.offset, expected[r.partition], f"{topic} {r.partition} has a hole")
                expected[r.partition] += 1
                content = (r.key, r.value, tuple(r.headers), r.timestamp)
                self.assertEqual(known.setdefault((r.partition, r.offset), content), content, f"{topic} {r.partition}:{r.offset} changed")
        places = {topic: len(known) for topic, known in seen.items()}
        self.assertEqual(len(everything), sum(places.values()), "an offset that was readable is gone")
        return everything
