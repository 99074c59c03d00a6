"""kcat: what a person at a shell uses."""

import json
import time
import unittest

from harness import Broker, eventually, run


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker(sets=["topic_defaults.partitions=1"]))


def kcat(*args, input=None):
    return run("kcat", "-b", broker.bootstrap, *args, input=input).decode()


class Kcat(unittest.TestCase):
    def test_produce_and_consume(self):
        lines = "".join(f"k{i % 5}:value {i} äöü\n" for i in range(200))
        kcat("-P", "-t", "kcat", "-K", ":", input=lines.encode())
        self.assertEqual(kcat("-C", "-t", "kcat", "-e", "-q", "-K", ":"), lines)

    def test_each_codec(self):
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            with self.subTest(codec):
                lines = "".join(f"{codec} {i}\n" for i in range(300))
                kcat("-P", "-t", f"kcat-{codec}", "-z", codec, input=lines.encode())
                self.assertEqual(kcat("-C", "-t", f"kcat-{codec}", "-e", "-q"), lines)

    def test_offsets_keys_headers_and_times_are_told(self):
        kcat("-P", "-t", "kcat-format", "-k", "key", "-H", "a=1", "-H", "b=2", input=b"v")
        told = kcat("-C", "-t", "kcat-format", "-e", "-q", "-f", "%t %p %o %k %s %h\n")
        self.assertEqual(told, "kcat-format 0 0 key v a=1,b=2\n")

    def test_from_an_offset_and_the_last_n(self):
        kcat("-P", "-t", "kcat-seek", input=b"".join(b"%d\n" % i for i in range(30)))
        self.assertEqual(kcat("-C", "-t", "kcat-seek", "-o", "25", "-e", "-q").split(), ["25", "26", "27", "28", "29"])
        self.assertEqual(kcat("-C", "-t", "kcat-seek", "-o", "-2", "-e", "-q").split(), ["28", "29"])

    def test_acks_0_1_and_all_and_an_idempotent_producer(self):
        for i, setting in enumerate(("acks=0", "acks=1", "acks=all", "enable.idempotence=true")):
            kcat("-P", "-t", "kcat-acks", "-X", setting, input=f"{setting}\n".encode())
            # What was not promised may still be on its way.
            eventually(lambda: len(kcat("-C", "-t", "kcat-acks", "-e", "-q").split()) == i + 1, 10, setting)
        self.assertEqual(kcat("-C", "-t", "kcat-acks", "-e", "-q").split(), ["acks=0", "acks=1", "acks=all", "enable.idempotence=true"])

    def test_the_first_record_at_or_after_a_time(self):
        kcat("-P", "-t", "kcat-time", input=b"old")
        time.sleep(0.01)
        at = int(time.time() * 1000)
        kcat("-P", "-t", "kcat-time", input=b"new")
        told = kcat("-Q", "-t", f"kcat-time:0:{at}")
        self.assertRegex(told, r"kcat-time \[0\] offset 1")
        self.assertEqual(kcat("-C", "-t", "kcat-time", "-o", f"s@{at}", "-e", "-q").split(), ["new"])

    def test_metadata(self):
        kcat("-P", "-t", "kcat-list", input=b"x")
        meta = json.loads(kcat("-L", "-J"))
        self.assertEqual(meta["brokers"][0]["name"], broker.bootstrap)
        topic = next(t for t in meta["topics"] if t["topic"] == "kcat-list")
        self.assertEqual([p["partition"] for p in topic["partitions"]], [0])
