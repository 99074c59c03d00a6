"""Hostile peers on every port, MQTT above all: a clear protocol-level error or a closed connection, a counter, nobody else harmed."""

import pathlib
import struct
import time
import unittest

from abuse_base import AbuseTest
from harness import eventually
from mqtt_client import V5, Client
from raw import Raw, connect, mqtt, packet, publish, random_bytes, still_open, subscribe, text
from readback import read_topic

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))
HTTP_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
KAFKA_METADATA = struct.pack(">ihhih", 12, 3, 1, 1, -1) + struct.pack(">i", 0)


class EveryPort(AbuseTest):
    def ports(self):
        return [("mqtt", self.broker.mqtt), ("kafka", self.broker.kafka), ("compact", self.broker.compact)]

    def test_random_bytes_end_the_connection(self):
        for name, port in self.ports():
            with self.subTest(name), self.counted():
                for _ in range(50):
                    with Raw(port) as raw:
                        raw.send(random_bytes(self.rng, 4000)).half_close()
                        raw.until_closed(5)

    def test_the_wrong_protocol_ends_the_connection(self):
        for name, port in self.ports():
            others = {"tls": TLS_HELLO, "http": HTTP_GET, "mqtt": connect(), "kafka": KAFKA_METADATA}
            others.pop(name, None)
            for other, data in others.items():
                with self.subTest(f"{other} on {name}"), self.counted(), Raw(port) as raw:
                    raw.send(data)
                    raw.until_closed(5)

    def test_binary_on_the_http_port_is_refused(self):
        for data in (TLS_HELLO, connect(), KAFKA_METADATA, b"\x00" * 100):
            with self.subTest(data[:4]), Raw(self.broker.http) as raw:
                got = raw.send(data).half_close().until_closed(15)
                self.assertTrue(got == b"" or got.startswith(b"HTTP/1.1 400"), got[:100])

    def test_a_connection_that_says_nothing_is_closed_in_time(self):
        for name, port in self.ports():
            with self.subTest(name), self.counted(), Raw(port) as raw:
                began = time.monotonic()
                raw.until_closed(5)
                self.assertGreater(time.monotonic() - began, 0.5, "handshake is 1s here")

    def test_a_first_message_in_pieces_that_never_ends_is_closed_in_time(self):
        for name, port in self.ports():
            data = {"mqtt": connect()[:-1], "kafka": KAFKA_METADATA[:-1], "compact": b"\x05\x01\x02"}[name]
            with self.subTest(name), self.counted(), Raw(port) as raw:
                for byte in data:
                    raw.send(bytes([byte]))
                raw.until_closed(5)

    def test_hundreds_of_half_open_connections_hold_little_memory(self):
        before = self.broker.resident_bytes()
        held = [Raw(port) for _ in range(100) for _, port in self.ports()]
        for raw in held[::2]:
            raw.send(b"\x10")
        time.sleep(0.3)
        self.assertLess(self.broker.resident_bytes() - before, 16 << 20)
        for raw in held:
            raw.socket.close()

    def test_connections_that_are_reset_leave_nothing_behind(self):
        before = self.broker.metric(r"^headwater_.*connections(\{|$)")
        for _ in range(100):
            for _, port in self.ports():
                raw = Raw(port)
                raw.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close sends a reset
                raw.send(b"\x10\x0c")
                raw.socket.close()
        eventually(lambda: self.broker.metric(r"^headwater_.*connections(\{|$)") <= before + 1, 10, "the connections' end")


class Mqtt(AbuseTest):
    def refused(self, data, level=4):
        """What an accepted client that sends this gets back before it is cut off."""
        with self.counted(), mqtt(self.broker.mqtt, level) as raw:
            return raw.send(data).until_closed(5)

    def reason(self, data):
        """The reason code of the DISCONNECT that MQTT 5 sends before it closes."""
        got = self.refused(data, 5)
        self.assertEqual(got[:1], b"\xe0", f"no DISCONNECT: {got!r}")
        return got[2]

    def test_nul_in_a_topic_is_malformed(self):
        self.refused(publish("a\x00b", qos=1))
        self.assertIn(self.reason(publish("a\x00b", qos=1, level=5)), (0x81, 0x82, 0x90))
        self.assertEqual(self.keys("a\x00b"), [])

    def test_wildcards_in_a_published_topic_are_malformed(self):
        for topic in ("a/+/b", "a/#", "+", "#"):
            with self.subTest(topic):
                self.refused(publish(topic, qos=1))
                self.assertIn(self.reason(publish(topic, qos=1, level=5)), (0x81, 0x82, 0x90))

    def test_broken_utf_8_in_a_topic_is_malformed(self):
        for topic in (b"a\xff", b"\xc0\x80", b"\xed\xa0\x80"):
            with self.subTest(topic):
                self.refused(publish(topic, qos=1))
                self.assertIn(self.reason(publish(topic, qos=1, level=5)), (0x81, 0x82, 0x90))

    def test_an_empty_topic_is_refused(self):
        self.refused(publish("", qos=1))
        self.assertIn(self.reason(publish("", qos=1, level=5)), (0x81, 0x82, 0x90))

    def keys(self, key):
        self.healthy_wrote()
        return [r for r in read_topic(self.broker.bootstrap, "telemetry") if r.key == key.encode()]

    def healthy_wrote(self):
        # The topic is there once the healthy client has an ack.
        eventually(lambda: self.healthy.acked > 0)

    def test_dots_are_no_path(self):
        names = ("..", ".", "../../../etc", "a/../../b", "__consumer_offsets")
        top = self.broker.directory
        before = sorted(p.name for p in top.iterdir())
        with Client(self.broker.mqtt, V5) as client:
            reasons = client.publish_all([(f"named/{name}", name.encode()) for name in names] + [(name, b"plain") for name in names])
        self.assertTrue(all(not r.is_failure for r in reasons), reasons)
        self.assertEqual(sorted(p.name for p in top.iterdir()), before)
        for name in names:
            self.assertEqual([r.value for r in self.keys(name)], [b"plain"])
        self.assertFalse(set(self.topics()) & {"..", ".", "__consumer_offsets"})
        self.assertIn(b"..", [r.value for r in read_topic(self.broker.bootstrap, "named-..")])

    def topics(self):
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.broker.bootstrap}).list_topics(timeout=10).topics

    def test_300_characters_and_utf_8_are_kept_in_a_key(self):
        with Client(self.broker.mqtt, V5) as client:
            for topic in ("x" * 300, "日本/" * 100, "a b\tc"):
                (reason,) = client.publish_all([(topic, b"v")])
                self.assertFalse(reason.is_failure, topic)
                self.assertEqual([r.value for r in self.keys(topic)], [b"v"])

    def test_a_name_too_long_for_a_log_topic_is_refused_by_name_and_the_rest_goes_on(self):
        with Client(self.broker.mqtt, V5) as client:
            with self.counted():
                (reason,) = client.publish_all([(f"named/{'x' * 300}", b"v")])
            self.assertEqual(reason.value, 0x90)
            (reason,) = client.publish_all([("named/fits", b"v")])
            self.assertFalse(reason.is_failure)
        with self.counted(), mqtt(self.broker.mqtt) as raw:
            # 3.1.1 has no negative ack: none comes, and the connection ends.
            self.assertEqual(raw.send(publish(f"named/{'x' * 300}", qos=1)).until_closed(5), b"")

    def test_utf_8_in_a_log_topics_name_is_escaped(self):
        with Client(self.broker.mqtt, V5) as client:
            (reason,) = client.publish_all([("named/é", b"v")])
        self.assertFalse(reason.is_failure)
        self.assertEqual([r.value for r in read_topic(self.broker.bootstrap, "named-_c3_a9")], [b"v"])

    def test_an_oversized_packet_is_refused_from_its_first_bytes(self):
        # 200 MiB are announced and never sent.
        head = b"\x30" + bytes([0xFF, 0xFF, 0xFF, 0x60])
        self.refused(head)
        self.assertEqual(self.reason(head), 0x95)

    def test_a_length_that_never_ends_is_malformed(self):
        self.refused(b"\x30\xff\xff\xff\xff\x01")
        self.assertEqual(self.reason(b"\x30\xff\xff\xff\xff\x01"), 0x81)

    def test_packets_of_the_wrong_direction_or_with_wrong_flags_end_the_connection(self):
        for data in (b"\x20\x02\x00\x00", b"\xd0\x00", b"\x90\x03\x00\x01\x00", b"\xb0\x02\x00\x01", b"\x00\x00", b"\xf1\x00", b"\x36\x05\x00\x01a\x00\x01",
                     b"\x80\x06\x00\x01\x00\x01a\x00", b"\x60\x02\x00\x01", b"\xc1\x00", connect()):
            for level in (4, 5):
                with self.subTest(f"{data[:4].hex()} {level}"):
                    self.refused(data, level)

    def test_a_packet_before_connect_ends_the_connection(self):
        for data in (publish("a", qos=1), b"\xc0\x00", subscribe("a")):
            with self.subTest(data[:1]), self.counted(), Raw(self.broker.mqtt) as raw:
                self.assertEqual(raw.send(data).until_closed(5), b"")

    def test_an_unknown_protocol_level_is_told(self):
        with self.counted(), Raw(self.broker.mqtt) as raw:
            self.assertEqual(raw.send(connect(3)).until_closed(5)[:4], b"\x20\x02\x00\x01")
        with self.counted(), Raw(self.broker.mqtt) as raw:
            self.assertIn(raw.send(connect(9)).until_closed(5)[3:4], (b"\x01", b"\x84"))

    def test_truncated_packets_end_with_the_connection(self):
        whole = connect() + publish("trunc/a", b"payload", 1) + subscribe("trunc/#")
        for cut in range(1, len(whole)):
            with Raw(self.broker.mqtt) as raw:
                raw.send(whole[:cut]).half_close()
                raw.until_closed(5)

    def test_a_client_that_falls_silent_is_closed_after_its_keep_alive(self):
        with self.counted(), mqtt(self.broker.mqtt, keep_alive=1) as raw:
            began = time.monotonic()
            raw.until_closed(5)
            self.assertGreater(time.monotonic() - began, 1.2)

    def test_an_invalid_filter_is_refused(self):
        for topic in ("a#", "a/#/b", "a+", "", "a\x00"):
            with self.subTest(topic):
                got = None
                with mqtt(self.broker.mqtt) as raw:
                    raw.send(subscribe(topic))
                    got = raw.read(5, 5)
                    self.assertTrue(got == b"" or got == b"\x90\x03\x00\x01\x80", got)

    def test_a_subscriber_that_reads_nothing_is_bounded_and_harms_nobody(self):
        with mqtt(self.broker.mqtt, 4, receive_buffer=4096) as qos0, mqtt(self.broker.mqtt, 4, receive_buffer=4096, client_id="slow1") as qos1:
            qos0.send(subscribe("slow/#", 0)).read(5)
            qos1.send(subscribe("slow/#", 1)).read(5)
            with self.counted("dropped|peer_errors_total|timeouts_total|disconnects_total"), Client(self.broker.mqtt, V5) as client, Client(self.broker.mqtt, V5) as reader:
                reader.subscribe("slow/#", 1)
                payload = bytes(20_000)
                for i in range(20):
                    client.publish_all([(f"slow/{i}", payload) for _ in range(50)])
                    # One that reads keeps up: what waits for it is bounded as well.
                    self.assertEqual(len(reader.wait_messages(50 * (i + 1), 30)), 50 * (i + 1))
            self.assertTrue(still_open(qos0), "QoS 0 is dropped, the connection stays")
            self.assertLess(self.broker.resident_bytes(), 96 << 20)

    def test_a_publisher_that_never_reads_its_acks_is_bounded(self):
        with mqtt(self.broker.mqtt, receive_buffer=4096) as raw:
            raw.socket.settimeout(2)
            one = b"".join(publish("noread/a", bytes(100), 1, pkid=1 + i) for i in range(1000))
            try:
                for _ in range(200):
                    raw.socket.sendall(one)
            except (TimeoutError, ConnectionError):
                pass
            self.assertLess(self.broker.resident_bytes(), 96 << 20)

    def test_no_file_is_made_outside_of_the_data_directory(self):
        known = {"data", "headwater.log", "headwater.toml"}
        self.assertEqual({p.name for p in pathlib.Path(self.broker.directory).iterdir()} - known, set())


class Http(AbuseTest):
    def test_headers_without_an_end_are_refused(self):
        with Raw(self.broker.http) as raw:
            raw.send(b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 2_000_000)
            got = raw.until_closed(15)
            self.assertTrue(got == b"" or got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), got[:60])

    def test_unknown_paths_and_methods_are_told(self):
        # A name that is not this machine's own comes from a page that wants to reach it through somebody's browser.
        with Raw(self.broker.http) as raw:
            got = raw.send(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").until_closed(5)
            self.assertEqual(got.split(b" ")[1:2], [b"403"], got[:100])
        for line, status in ((b"GET /../../etc/passwd", b"404"), (b"GET /nothing", b"404"), (b"DELETE /metrics", b"405")):
            with self.subTest(line), Raw(self.broker.http) as raw:
                got = raw.send(line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").until_closed(5)
                self.assertEqual(got.split(b" ")[1:2], [status], got[:100])


class Compact(AbuseTest):
    def test_frames_with_a_wrong_checksum_are_skipped_or_refused(self):
        with self.counted(r"compact.*(crc|bad|corrupt|refused|frames)|peer_errors_total"), Raw(self.broker.compact) as raw:
            raw.send(b"\x00" + bytes([9]) + bytes(range(1, 9)) + b"\x00").half_close()
            raw.until_closed(5)

    def test_a_frame_without_an_end_is_bounded(self):
        with self.counted("compact_bad_frames_total"), Raw(self.broker.compact) as raw:
            raw.send(b"\x01" * 1_000_000).half_close()
            raw.until_closed(5)


if __name__ == "__main__":
    unittest.main()
