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

    async def test_idempotent(self):
        await self.round_trip(None, enable_idempotence=True)
