"""aiokafka: asyncio programs."""

import asyncio
import time
import unittest

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from harness import Broker


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker(sets=["topic_defaults.partitions=1"]))


class AioKafka(unittest.IsolatedAsyncioTestCase):
    async def round_trip(self, codec, **more):
        topic = f"aio-{codec}-{len(more)}"
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=codec, acks="all", linger_ms=5, **more)
        await producer.start()
        now = int(time.time() * 1000)
        sent = [(f"k{i % 3}".encode(), f"{i}".encode() * 20, now - 1000 + i) for i in range(300)]
        futures = [await producer.send(topic, value, key, timestamp_ms=at, headers=[("h", key)]) for key, value, at in sent]
        acks = await asyncio.wait_for(asyncio.gather(*futures), 20)
        await producer.stop()
        self.assertEqual([ack.offset for ack in acks], list(range(300)))
        consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None, enable_auto_commit=False)
        await consumer.start()
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        got = [await asyncio.wait_for(consumer.getone(), 15) for _ in sent]
        await consumer.stop()
        self.assertEqual([(m.key, m.value, m.timestamp) for m in got], sent)
        self.assertEqual([list(m.headers) for m in got], [[("h", key)] for key, _, _ in sent])

    async def test_uncompressed(self):
        await self.round_trip(None)

    async def test_gzip(self):
        await self.round_trip("gzip")

    async def test_snappy(self):
        await self.round_trip("snappy")

    async def test_lz4(self):
        await self.round_trip("lz4")

    async def test_zstd(self):
        await self.round_trip("zstd")

    async def test_a_consumer_that_waits_gets_what_comes_and_a_time_is_found(self):
        consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=5000)
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks=1)
        await consumer.start()
        await producer.start()
        try:
            await producer.send_and_wait("aio-live", b"first", timestamp_ms=1_700_000_000_000)
            partition = TopicPartition("aio-live", 0)
            consumer.assign([partition])
            await consumer.seek_to_end()
            waits = asyncio.ensure_future(consumer.getone())
            self.assertFalse((await asyncio.wait([waits], timeout=0.5))[0], "nothing is there yet")
            began = time.monotonic()
            await producer.send_and_wait("aio-live", b"second", timestamp_ms=1_700_000_002_000)
            self.assertEqual((await asyncio.wait_for(waits, 10)).value, b"second")
            self.assertLess(time.monotonic() - began, 3, "the append wakes the long poll")
            found = await consumer.offsets_for_times({partition: 1_700_000_001_000})
            self.assertEqual(found[partition].offset, 1)
        finally:
            await producer.stop()
            await consumer.stop()

    async def test_acks_0(self):
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks=0)
        await producer.start()
        for i in range(5):
            await producer.send_and_wait("aio-acks", str(i).encode())
        await producer.stop()
        consumer = AIOKafkaConsumer("aio-acks", bootstrap_servers=broker.bootstrap, group_id=None, auto_offset_reset="earliest")
        await consumer.start()
        got = [(await asyncio.wait_for(consumer.getone(), 15)).value for _ in range(5)]
        await consumer.stop()
        self.assertEqual(got, [b"0", b"1", b"2", b"3", b"4"])

    async def test_idempotent(self):
        await self.round_trip(None, enable_idempotence=True)
