"""Hostile Kafka clients."""

import struct
import time

from abuse_base import AbuseTest
from raw import Raw, batch, bomb, produce, produce_error, record, request, text
from readback import read_topic

API_VERSIONS, METADATA, FETCH, LIST_OFFSETS, CREATE_TOPICS = 18, 3, 1, 2, 19


class Kafka(AbuseTest):
    def closed(self, data):
        with self.counted(), Raw(self.broker.kafka) as raw:
            return raw.send(data).until_closed(5)

    def create(self, topic):
        """Metadata v1 with auto-creation, until the partitions have a leader."""
        for _ in range(50):
            with Raw(self.broker.kafka) as raw:
                raw.kafka(request(METADATA, 1, struct.pack(">i", 1) + text(topic)))
                if produce_error(raw.kafka(produce(topic, batch(record(b"first"))))) == 0:
                    return
            time.sleep(0.1)
        self.fail(f"{topic} was not made")

    def test_lengths_that_cannot_be_end_the_connection(self):
        for length in (-1, -(2**31), 2**31 - 1, 100_000_000):
            with self.subTest(length):
                self.assertEqual(self.closed(struct.pack(">i", length) + b"\x00\x12\x00\x00" + b"\x00" * 100), b"")

    def test_array_lengths_of_2_to_the_31_end_the_connection_and_take_no_memory(self):
        huge = struct.pack(">i", 2**31 - 1)
        for key, version, body in (
            (METADATA, 1, huge),
            (METADATA, 4, huge + b"\x01"),
            (0, 3, struct.pack(">hhi", -1, -1, 1000) + huge),
            (FETCH, 4, struct.pack(">iiiib", -1, 100, 1, 1 << 20, 0) + huge),
            (LIST_OFFSETS, 1, struct.pack(">i", -1) + huge),
            (CREATE_TOPICS, 2, huge),
            # Compact arrays of the flexible versions: a varint.
            (METADATA, 9, b"\x00" + b"\xff\xff\xff\xff\x0f"),
            (API_VERSIONS, 3, b"\x00" + b"\xff\xff\xff\xff\x0f" * 2),
        ):
            with self.subTest(f"{key} v{version}"):
                frame = request(key, version, body)
                self.closed(struct.pack(">i", len(frame)) + frame)
                self.assertLess(self.broker.resident_bytes(), 64 << 20)

    def test_an_unknown_version_of_apiversions_is_answered_in_version_0(self):
        with Raw(self.broker.kafka) as raw:
            answer = raw.kafka(request(API_VERSIONS, 99, b"\x00"))
            correlation, error = struct.unpack(">ih", answer[:6])
            self.assertEqual((correlation, error), (7, 35))

    def test_unknown_apis_and_versions_end_the_connection(self):
        for key, version in ((999, 0), (-1, 0), (METADATA, 99), (0, 0), (71, 0)):
            with self.subTest(f"{key} v{version}"):
                frame = request(key, version, b"\x00" * 20)
                self.closed(struct.pack(">i", len(frame)) + frame)

    def test_truncated_requests_end_with_the_connection(self):
        frame = produce("trunc", batch(record(b"x")))
        whole = struct.pack(">i", len(frame)) + frame
        for cut in range(1, len(whole), 3):
            with Raw(self.broker.kafka) as raw:
                raw.send(whole[:cut]).half_close()
                raw.until_closed(5)
            with Raw(self.broker.kafka) as raw:
                # The length fits what is sent, the message does not.
                inner = frame[: max(1, cut - 4)]
                raw.send(struct.pack(">i", len(inner)) + inner).half_close()
                raw.until_closed(5)

    def test_requests_in_pieces_are_taken_whole(self):
        self.create("pieces")
        # Around the sizes at which a connection reads differently: a frame in rest, one with much to come, one beyond a read.
        values = [bytes([n]) * size for n, size in enumerate((10, 4000, 5000, 70_000, 900_000, 10))]
        frames = [produce("pieces", batch(record(value))) for value in values]
        stream = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
        for piece in (1447, 65_537):
            with self.subTest(piece), Raw(self.broker.kafka) as raw:
                for at in range(0, len(stream), piece):
                    raw.send(stream[at : at + piece])
                    time.sleep(0.0002)
                for _ in frames:
                    (length,) = struct.unpack(">i", raw.read(4))
                    self.assertEqual(produce_error(raw.read(length)), 0)
        self.assertEqual([r.value for r in read_topic(self.broker.bootstrap, "pieces")], [b"first"] + 2 * values)

    def test_corrupt_batches_are_refused_as_kafka_does_and_nothing_is_stored(self):
        self.create("corrupt")
        good = batch(record(b"good"))
        flipped = bytearray(good)
        flipped[-3] ^= 1
        cases = {
            "crc": (bytes(flipped), {2}),
            "count beyond the records": (batch(record(b"x"), count=5), {2, 87}),
            "fewer than the records": (batch(record(b"x") + record(b"y", delta=1), count=1), {2, 87}),
            "record length beyond the batch": (batch(b"\xfe\xff\xff\xff\x0f\x00"), {2, 87}),
            "garbage for gzip": (batch(b"no gzip at all", attributes=1), {2, 87}),
            "unknown codec": (batch(record(b"x"), attributes=7), {2, 76, 87}),
            "control batch": (batch(record(b"x"), attributes=0x20), {87}),
            "old magic": (batch(record(b"x"), magic=1), {2, 43, 87}),
            "cut short": (good[:-1], {2, 87}),
            "nothing": (b"", {2, 87, 42}),
        }
        for name, (data, codes) in cases.items():
            with self.subTest(name), self.counted(r"kafka.*(refused|rejected|error)|peer_errors_total"), Raw(self.broker.kafka) as raw:
                self.assertIn(produce_error(raw.kafka(produce("corrupt", data))), codes)
        with Raw(self.broker.kafka) as raw:
            self.assertEqual(produce_error(raw.kafka(produce("corrupt", good))), 0)
        self.assertEqual([r.value for r in read_topic(self.broker.bootstrap, "corrupt")], [b"first", b"good"])

    def test_a_compression_bomb_is_refused_within_bounded_memory(self):
        self.create("bomb")
        # Made before connecting: it takes longer than a connection may stay silent.
        attack = produce("bomb", batch(bomb(300 << 20), attributes=1))
        before = self.broker.resident_bytes()
        with Raw(self.broker.kafka) as raw:
            error = produce_error(raw.kafka(attack, 20))
        self.assertIn(error, (2, 10, 87))
        self.assertLess(self.broker.resident_bytes() - before, 64 << 20)
        self.assertEqual([r.value for r in read_topic(self.broker.bootstrap, "bomb")], [b"first"])

    def test_a_consumer_that_reads_nothing_is_bounded(self):
        self.create("noread")
        with Raw(self.broker.kafka) as raw:
            for _ in range(20):
                self.assertEqual(produce_error(raw.kafka(produce("noread", batch(record(bytes(500_000)))))), 0)
        before = self.broker.resident_bytes()
        partition = struct.pack(">iqi", 0, 0, 4 << 20)
        fetch = request(FETCH, 4, struct.pack(">iiiib", -1, 100, 1, 16 << 20, 0) + struct.pack(">i", 1) + text("noread") + struct.pack(">i", 1) + partition)
        stalled = [Raw(self.broker.kafka, 4096) for _ in range(10)]
        for raw in stalled:
            raw.socket.settimeout(0.5)
            raw.send((struct.pack(">i", len(fetch)) + fetch) * 100)
        time.sleep(1)
        self.assertLess(self.broker.resident_bytes() - before, 80 << 20)
        for raw in stalled:
            raw.socket.close()

    def test_many_random_requests_with_a_right_length_harm_nobody(self):
        for n in range(300):
            body = self.rng.randbytes(self.rng.randrange(0, 300))
            frame = struct.pack(">hhi", self.rng.randrange(0, 70), self.rng.randrange(0, 14), n) + body
            with Raw(self.broker.kafka) as raw:
                raw.send(struct.pack(">i", len(frame)) + frame).half_close()
                raw.until_closed(10)
