"""Hours of a gateway's life in minutes: full load over Kafka and MQTT on the real binary, with a quota and retention so small that
the whole log goes and comes again every few seconds, and kill -9 now and then. What must stay flat is sampled all the while: file
sizes, resident memory, ack latency. Ends with a table, and with 1 when one of them grows.

    soak.py [--minutes N]

**Flat** is judged by the slope of a line through the samples (Theil and Sen: the median of the slopes between all pairs, so that
single spikes weigh nothing), times the time they span: by how much it grew from their beginning to their end. It may be a share
of the median, and never less than a floor below which it is noise (`SERIES`). Files and latency are judged from the moment on at
which the quota was first reached; memory in the last life alone, the second half of the time, for a new process begins small.
A leak of one byte a record would be past the bound of memory after some 100,000 records: less than a second of the load."""

import argparse
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from harness import SEED, Broker, cli, eventually
from mqtt_client import Client
from readback import read_topic

MIB = 1 << 20
QUOTA = 64 * MIB
KILLS = 4
CONFIG = """
[storage]
quota = "64MiB"

[topic_defaults]
partitions = 3
retention_time = "5s"

# Goes by time.
[[topic]]
name = "readings"
retention_time = "2s"

# Goes by size.
[[topic]]
name = "events"
retention_time = "unlimited"
retention_size = "2MiB"

# Goes for the quota.
[[topic]]
name = "pictures"
retention_time = "unlimited"
retention_size = "unlimited"
priority = 1

# Records that are counted, one at a time.
[[topic]]
name = "probe"
partitions = 1
retention_time = "unlimited"
retention_size = "4MiB"
priority = 9
"""

# What is sampled: unit, divisor, what it may grow by as a share of its median, and at least.
SERIES = {
    "all files": ("MiB", MIB, 0.10, 4 * MIB),
    "database": ("MiB", MIB, 0.15, 2 * MIB),
    # It grows from 8 to 32 MiB where the disk is too slow for the load, and stays there; the quota counts it.
    "ring": ("MiB", MIB, 0.10, 24 * MIB),
    "data files": ("MiB", MIB, 0.15, 4 * MIB),
    "resident": ("MiB", MIB, 0.10, 3 * MIB),
    # Of two processors under full load; what leaks goes on growing.
    "ack p50": ("ms", 1e-3, 0.50, 25e-3),
    "ack p99": ("ms", 1e-3, 1.00, 25e-3),
}


def slope(points):
    """Of the line through points of time and value, by Theil and Sen."""
    slopes = [(v2 - v1) / (t2 - t1) for i, (t1, v1) in enumerate(points) for t2, v2 in points[i + 1 :] if t2 > t1]
    return statistics.median(slopes) if slopes else 0.0


def judge(name, points):
    """By how much a series grew over the time that its points span, and how much is allowed."""
    _, _, share, floor = SERIES[name]
    grew = slope(points) * (points[-1][0] - points[0][0])
    return grew, max(floor, share * statistics.median(value for _, value in points))


def blocks(path):
    """Bytes on the disk of a file, or of all below a folder."""
    try:
        if path.is_dir():
            return sum(blocks(entry) for entry in path.iterdir())
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


class Load(threading.Thread):
    """Sends until told to end; a failure is told at the end."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.ended, self.failure, self.acked = broker, threading.Event(), None, 0
        self.start()

    def run(self):
        try:
            while not self.ended.is_set():
                self.load()
        except Exception as failure:  # told by `end`
            self.failure = failure

    def end(self):
        self.ended.set()
        self.join(60)
        if self.failure or self.is_alive():
            raise AssertionError(f"{type(self).__name__}: {self.failure or 'it does not end'}")


class Kafka(Load):
    """As fast as records are acked."""

    def __init__(self, broker, topic, size):
        self.topic, self.size, self.errors = topic, size, []
        self.bytes = random.Random(SEED).randbytes(4 * MIB)
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 5, "batch.size": 256 << 10, "queue.buffering.max.kbytes": 8192, "log_level": 0})
        super().__init__(broker)

    def load(self):
        at = self.acked * 61 % (len(self.bytes) - self.size)
        try:
            self.producer.produce(self.topic, self.bytes[at : at + self.size], on_delivery=self.done)
            self.producer.poll(0)
        except BufferError:
            self.producer.poll(0.05)

    def done(self, error, _):
        self.acked += error is None
        if error:
            raise KafkaException(error)

    def end(self):
        super().end()
        assert self.producer.flush(60) == 0, f"{self.topic}: records without an ack"


class Mqtt(Load):
    """QoS 1 in hundreds; a broken connection is made again."""

    def load(self):
        try:
            with Client(self.broker.mqtt) as client:
                while not self.ended.is_set():
                    self.acked += len(client.publish_all((f"line/{n}/temperature", b"21.5") for n in range(100)))
        except (AssertionError, OSError):
            self.ended.wait(0.2)


class Probe(Load):
    """One record at a time: how long its ack takes, and that it is there at the end."""

    def __init__(self, broker):
        self.producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "reconnect.backoff.max.ms": 200, "log_level": 0})
        self.times, self.numbers = [], set()
        super().__init__(broker)

    def load(self):
        began, starts, number = time.monotonic(), self.broker.starts, self.acked
        self.producer.produce("probe", b"%d" % number, on_delivery=self.done)
        assert self.producer.flush(60) == 0, "a probe without an ack"
        # The time that the broker was away is none of the ack's.
        if self.broker.starts == starts and self.broker.up:
            self.times.append(time.monotonic() - began)
        self.ended.wait(0.002)

    def done(self, error, message):
        if error:
            raise KafkaException(error)
        self.numbers.add(int(message.value()))
        self.acked += 1

    def take(self):
        times, self.times = self.times, []
        return sorted(times)


class Soak:
    """Runs it all; `report` gives the table and what was not flat."""

    def __init__(self, seconds):
        self.seconds, self.samples, self.full_at, self.starts = seconds, {name: [] for name in SERIES}, None, []

    def run(self):
        with Broker(CONFIG) as broker:
            broker.up = True
            probe = Probe(broker)
            loads = [Kafka(broker, "pictures", 32_000), Kafka(broker, "events", 1_000), Kafka(broker, "readings", 100), Mqtt(broker), probe]
            began = time.monotonic()
            # All kills in the first half: memory is judged in the second, in one life.
            kills = [began + self.seconds * 0.5 * (n + 1) / KILLS for n in range(KILLS)]
            while (now := time.monotonic()) < began + self.seconds:
                if kills and now >= kills[0]:
                    kills.pop(0)
                    self.kill(broker)
                    probe.take()
                    self.life_at = time.monotonic()
                time.sleep(0.5)
                self.sample(broker, probe)
            for load in loads:
                load.end()
            self.acked = {getattr(load, "topic", type(load).__name__.lower()): load.acked for load in loads}
            metrics = broker.metrics()
            self.written = sum(metrics[name] for name in ("headwater_log_bytes_total",))
            assert metrics["headwater_log_shed_records_total"] > 0, "the quota took nothing"
            assert metrics["headwater_log_expired_records_total"] > 0, "retention took nothing"
            assert metrics["headwater_log_stores_lost_total"] == 0, "a store was lost"
            there = {int(record.value) for record in read_topic(broker.bootstrap, "probe", 60)}
            # The quota may take all of it, where everything else was not enough.
            assert there or "probe" in broker.http_get("/api/v1/losses"), "the probe's records are gone"
            missing = {number for number in probe.numbers if there and number >= min(there)} - there
            assert not missing, f"acked and not there: {sorted(missing)[:5]}"
            assert broker.stop(30)[0] == 0, "it does not stop"
            cli("check", broker.data, timeout=120)
        return self

    def kill(self, broker):
        broker.up = False
        began = time.monotonic()
        broker.restart()
        self.starts.append(time.monotonic() - began)
        broker.up = True

    def sample(self, broker, probe):
        now, times = time.monotonic(), probe.take()
        files = {"all files": broker.data, "database": broker.data / "headwater.redb", "ring": broker.data / "headwater.ring", "data files": broker.data / "headwater.data"}
        found = {name: blocks(path) for name, path in files.items()}
        if self.full_at is None and found["all files"] > 0.75 * QUOTA:
            self.full_at = now
        found["resident"] = broker.resident_bytes()
        if len(times) >= 3:
            found["ack p50"], found["ack p99"] = times[len(times) // 2], times[len(times) * 99 // 100]
        for name, value in found.items():
            self.samples[name].append((now, value))

    def judged(self, name):
        """The samples that count."""
        since = self.life_at + 5 if name == "resident" else self.full_at
        return [(at, value) for at, value in self.samples[name] if at >= since]

    def report(self):
        assert self.full_at, "the quota was never near"
        grown, lines = [], ["| | unit | samples | first third | last third | highest | grew by | may by | |", "|---|---|---|---|---|---|---|---|---|"]
        for name, (unit, one, _, _) in SERIES.items():
            points = self.judged(name)
            assert len(points) >= 12, f"{name}: {len(points)} samples say nothing"
            third = len(points) // 3
            first, last = (statistics.median(v for _, v in part) for part in (points[:third], points[-third:]))
            grew, allowed = judge(name, points)
            flat = grew <= allowed
            grown += [] if flat else [name]
            shown = [f"{value / one:.1f}" for value in (first, last, max(v for _, v in points), grew, allowed)]
            lines.append(f"| {name} | {unit} | {len(points)} | {' | '.join(shown)} | {'flat' if flat else '**grows**'} |")
        highest = max(value for _, value in self.samples["all files"])
        if highest > QUOTA:
            grown.append(f"all files: {highest / MIB:.1f} MiB at a quota of {QUOTA / MIB:.0f}")
        acked = ", ".join(f"{count:,} {name}" for name, count in self.acked.items())
        lines.append(f"{self.seconds:.0f} s; acked: {acked}. In the last life the log came in {self.written / QUOTA:.0f} times over; {len(self.starts)} kills, back within {max(self.starts):.2f} s.")
        return lines, grown


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--minutes", type=float, default=3)
    soak = Soak(arguments.parse_args().minutes * 60).run()
    lines, grown = soak.report()
    print("\n".join(lines))
    sys.exit(f"does not stay flat: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
