"""All records of a topic, through librdkafka; the plain way of looking at what the log holds."""

import time

from confluent_kafka import Consumer, TopicPartition


class Record:
    """One record as a client sees it."""

    def __init__(self, message):
        self.partition, self.offset = message.partition(), message.offset()
        self.key, self.value = message.key(), message.value()
        self.headers = message.headers() or []
        self.timestamp = message.timestamp()[1]

    def __repr__(self):
        return f"{self.partition}:{self.offset} {self.key!r} = {self.value!r}"


def read_topic(bootstrap, topic, seconds=20, **more):
    """Every record up to the high watermarks of now, by partition, in offset order."""
    c = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True, **more})
    try:
        found = c.list_topics(topic, timeout=10).topics[topic]
        assert found.error is None, found.error
        partitions = sorted(found.partitions)
        # Not until "end of partition": while somebody writes, that never comes.
        bounds = {p: c.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions}
        c.assign([TopicPartition(topic, p, 0) for p in partitions])
        open_partitions, records, until = {p for p, (low, high) in bounds.items() if low < high}, [], time.monotonic() + seconds
        while open_partitions:
            assert time.monotonic() < until, f"{topic}: the ends of {open_partitions} were not reached within {seconds} s"
            for message in c.consume(1000, 0.2):
                if message.error() is None:
                    end = bounds[message.partition()][1]
                    if message.offset() < end:
                        records.append(Record(message))
                    if message.offset() + 1 >= end:
                        open_partitions.discard(message.partition())
                elif message.error().name() == "_PARTITION_EOF":
                    open_partitions.discard(message.partition())
                elif not message.error().retriable():
                    raise AssertionError(message.error())
        return sorted(records, key=lambda r: (r.partition, r.offset))
    finally:
        c.close()
