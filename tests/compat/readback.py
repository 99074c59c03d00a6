"""All records of a topic, through librdkafka; the plain way of looking at what the log holds."""

import time

from confluent_kafka import Consumer, KafkaException, TopicPartition


class Record:
    """One record as a client sees it."""

    def __init__(self, message):
        self.partition, self.offset = message.partition(), message.offset()
        self.key, self.value = message.key(), message.value()
        self.headers = message.headers() or []
        self.timestamp = message.timestamp()[1]

    def __repr__(self):
        return f"{self.partition}:{self.offset} {self.key!r} = {self.value!r}"


def bounds_of(consumer, partition, until):
    """First offset and high watermark. A Kafka that has just made the topic, or is just back, answers that it does not lead it yet."""
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=10)
        except KafkaException as e:
            # librdkafka does not call it retriable; after new metadata it is.
            if e.args[0].name() not in ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE") or time.monotonic() >= until:
                raise
            consumer.list_topics(partition.topic, timeout=10)


def consumer(bootstrap, **more):
    return Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True, **more})


def all_bounds(c, topic, until):
    found = c.list_topics(topic, timeout=10).topics[topic]
    assert found.error is None, found.error
    return {p: bounds_of(c, TopicPartition(topic, p), until) for p in sorted(found.partitions)}


def bounds_of_topic(bootstrap, topic, seconds=20):
    """First offset and high watermark by partition."""
    c = consumer(bootstrap)
    try:
        return all_bounds(c, topic, time.monotonic() + seconds)
    finally:
        c.close()


def read_topic(bootstrap, topic, seconds=20, **more):
    """Every record up to the high watermarks of now, by partition, in offset order."""
    c = consumer(bootstrap, **more)
    try:
        until = time.monotonic() + seconds
        # Not until "end of partition": while somebody writes, that never comes.
        bounds = all_bounds(c, topic, until)
        c.assign([TopicPartition(topic, p, 0) for p in bounds])
        open_partitions, records = {p for p, (low, high) in bounds.items() if low < high}, []
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
