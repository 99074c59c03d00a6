"""The frame of every abuse test: a broker with a healthy client that goes on sending while a hostile one does its worst.
Afterwards the healthy one has all its acks, everything it was acked is in the log, and the broker counted what it refused."""

import random
import threading
import time
import unittest

from harness import SEED, Broker
from mqtt_client import V5, Client
from readback import read_topic

ROUTES = """
[limits]
handshake = "1s"

[[route]]
match = "named/+name/#"
topic = "named-{name}"
"""

# What a broker may hold while it is abused: its idle size, every bounded queue, and room for the allocator.
RESIDENT_BYTES_MAX = 96 << 20


class Healthy(threading.Thread):
    """Publishes one QoS 1 message after the other, each after the last one's ack, until it is told to end."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = Client(port, V5, client_id="healthy")
        self.ended = threading.Event()
        self.acked = 0
        self.slowest = 0.0
        self.failure = None

    def run(self):
        try:
            while not self.ended.is_set():
                began = time.monotonic()
                (reason,) = self.client.publish_all([("healthy/a", str(self.acked).encode())])
                assert not reason.is_failure, reason
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.acked += 1
                self.ended.wait(0.01)
        except AssertionError as failure:
            self.failure = failure


class AbuseTest(unittest.TestCase):
    """One broker a class. Subclasses call `counted` around what must move a counter."""

    @classmethod
    def setUpClass(cls):
        cls.broker = cls.enterClassContext(Broker(ROUTES))
        cls.healthy = Healthy(cls.broker.mqtt)
        cls.healthy.start()

    @classmethod
    def tearDownClass(cls):
        # After all the abuse: nothing that was acked is missing, and in order.
        cls.healthy.ended.set()
        cls.healthy.join(30)
        assert cls.broker.process.poll() is None, cls.broker.log_text()[-3000:]
        got = [int(r.value) for r in read_topic(cls.broker.bootstrap, "telemetry") if r.key == b"healthy/a"]
        assert got == list(range(len(got))) and len(got) >= cls.healthy.acked, (len(got), cls.healthy.acked)
        cls.healthy.client.close()

    def setUp(self):
        self.rng = random.Random(f"{SEED}-{self.id()}")
        self.acked_before = self.healthy.acked

    def tearDown(self):
        until = time.monotonic() + 5
        while self.healthy.acked <= self.acked_before and time.monotonic() < until:
            time.sleep(0.01)
        self.assertIsNone(self.healthy.failure, "the healthy client was harmed")
        self.assertGreater(self.healthy.acked, self.acked_before, "the healthy client was harmed: no ack since")
        self.assertIsNone(self.broker.process.poll(), "the broker is gone")
        self.assertEqual(self.broker.metric("^headwater_.*panics_total"), 0, self.broker.log_text()[-2000:])
        self.assertLess(self.broker.resident_bytes(), RESIDENT_BYTES_MAX)

    def counted(self, pattern=r"peer_errors_total|timeouts_total|refused_total|dropped|over_limit_total"):
        return Counted(self, pattern)


class Counted:
    """Fails unless a counter that matches moves within a moment after the block."""

    def __init__(self, test, pattern):
        self.test, self.pattern = test, pattern

    def __enter__(self):
        self.before = self.test.broker.metric(self.pattern)

    def __exit__(self, kind, *_):
        if kind is None:
            until = time.monotonic() + 5
            while self.test.broker.metric(self.pattern) <= self.before:
                self.test.assertLess(time.monotonic(), until, f"no counter of {self.pattern} moved")
                time.sleep(0.02)
