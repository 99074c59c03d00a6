"""kill -9 under mixed load, again and again: no acked record is missing, no offset changes its content, and neither QoS 2, nor
the compact protocol, nor an idempotent Kafka producer stores anything twice. At the end `headwater check` agrees."""

import collections
import os
import random
import threading
import time
import unittest

import paho.mqtt.client as paho
from confluent_kafka import Producer

from compact_device import Device, Ended
from harness import SEED, Broker, cli, eventually
from mqtt_client import V5, V311, Client
from readback import read_topic

NOT_FOUND = 0x92
KILLS = int(os.environ.get("HEADWATER_KILLS", "12"))


class Load(threading.Thread):
    """Sends numbered records under its name until told to end, and knows which were acked."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker = broker
        self.ended = threading.Event()
        self.acked = set()
        self.next = 0
        self.failure = None

    def run(self):
        try:
            self.load()
        except Exception as failure:  # told by the test, which looks at it
            self.failure = failure


class Mqtt(Load):
    """A session that outlives the broker: paho resends what is not acked, with the same packet id."""

    def __init__(self, broker, qos, version):
        super().__init__(broker)
        self.qos, self.version = qos, version
        self.key = f"kill/mqtt-{qos}-{version}"

    def load(self):
        client = Client(self.broker.mqtt, self.version, client_id=self.key, clean=False, expiry=3600)
        client.paho.reconnect_delay_set(0.05, 0.2)
        mids = {}
        while not self.ended.is_set():
            with client.changed:
                waiting = [mid for mid in mids if mid not in client.acked]
            if len(waiting) < 20:
                info = client.paho.publish(self.key, str(self.next), self.qos)
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
                # After a crash PUBREL may come again for an id that is released already: MQTT 5, 3.7.2.1, "not an error during recovery".
                assert not reason.is_failure or (self.qos == 2 and reason.value == NOT_FOUND), f"{self.key}: {reason}"
                # The number is free again: paho counts to 65,535 and begins anew.
                self.acked.add(mids.pop(mid))


class Compact(Load):
    def __init__(self, broker):
        super().__init__(broker)
        self.key = "device/kill-device/n"

    def load(self):
        device = Device(self.broker.compact, "kill-device")
        while not self.ended.is_set():
            for _ in range(20):
                device.put("n", str(self.next).encode())
                self.next += 1
            try:
                device.flush(30)
            except Ended:
                device.close()
            self.acked = set(range(device.acked))
        device.flush(30)
        self.acked = set(range(device.acked))
        device.close()


class Kafka(Load):
    """An idempotent producer."""

    def __init__(self, broker):
        super().__init__(broker)
        self.key = "kill/kafka"

    def load(self):
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "linger.ms": 2, "retry.backoff.ms": 50,
                             "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "message.timeout.ms": 60_000, "log_level": 2})
        while not self.ended.is_set():
            for _ in range(20):
                n = self.next
                producer.produce("kill", str(n), self.key, on_delivery=lambda error, _, n=n: self.done(error, n))
                self.next += 1
            producer.poll(0.01)
            if len(producer) > 500:
                producer.flush(1)
        assert producer.flush(60) == 0, "the Kafka producer was not acked"

    def done(self, error, n):
        assert error is None, error
        self.acked.add(n)


class Kill(unittest.TestCase):
    def test_nothing_acked_is_lost_nothing_changes_nothing_is_doubled(self):
        rng = random.Random(SEED)
        topics = ("telemetry", "kill")
        with Broker() as broker:
            loads = [Mqtt(broker, 1, V311), Mqtt(broker, 2, V5), Mqtt(broker, 2, V311), Compact(broker), Kafka(broker)]
            for load in loads:
                load.start()
            eventually(lambda: all(load.acked for load in loads), 20, "a first ack of each")
            seen = {topic: {} for topic in topics}
            for _ in range(KILLS):
                time.sleep(rng.uniform(0.1, 0.8))
                broker.kill()
                broker.start()
                self.assertEqual([load.failure for load in loads if load.failure], [])
                if rng.random() < 0.3:
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
                    self.verify(load, [int(r.value) for r in records if r.key == load.key.encode()])
            told = ", ".join(f"{load.key} {len(load.acked)}" for load in loads)
            print(f"      {KILLS} kills, seed {SEED}; acked: {told}")
            self.assertEqual(broker.stop()[0], 0)
            cli("check", broker.data)

    def verify(self, load, stored):
        counts = collections.Counter(stored)
        self.assertGreater(len(load.acked), KILLS)
        self.assertEqual(sorted(load.acked - set(counts)), [], "acked and missing")
        first = list(dict.fromkeys(stored))
        self.assertEqual(first, sorted(first), "out of order")
        if not (isinstance(load, Mqtt) and load.qos == 1):
            self.assertEqual([n for n, count in counts.items() if count > 1], [], "stored twice")

    def compare(self, broker, seen):
        """Reads everything; what was at an offset once is there still."""
        everything = []
        for topic, known in seen.items():
            for r in read_topic(broker.bootstrap, topic, 60):
                everything.append(r)
                content = (r.key, r.value, tuple(r.headers), r.timestamp)
                self.assertEqual(known.setdefault((r.partition, r.offset), content), content, f"{topic} {r.partition}:{r.offset} changed")
        places = {topic: len(known) for topic, known in seen.items()}
        self.assertEqual(len(everything), sum(places.values()), "an offset that was readable is gone")
        return everything
