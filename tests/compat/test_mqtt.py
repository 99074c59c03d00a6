"""paho-mqtt, MQTT 3.1.1 and 5: in at each QoS, out live with wildcards, and what of it stands in the log."""

import time
import unittest

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import Broker, eventually
from mqtt_client import V5, V311, Client
from raw import Raw, connect, mqtt, packet, publish, subscribe
from readback import read_topic

ROUTES = """
[[route]]
match = "plant/+line/+machine/#"
topic = "plant-{line}"
key = "{machine}"
headers = { path = "{mqtt_topic}" }
"""


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker(ROUTES))


def both(test):
    def each(self):
        for version in (V311, V5):
            with self.subTest("5" if version == V5 else "3.1.1"):
                test(self, version)

    return each


def stored(prefix, topic="telemetry"):
    """The records whose key begins with the prefix, in order."""
    return [r for r in read_topic(broker.bootstrap, topic) if r.key and r.key.startswith(prefix.encode())]


class In(unittest.TestCase):
    def check(self, version, qos):
        prefix = f"in/{version}/{qos}"
        sent = [(f"{prefix}/{i % 3}", f"value {i}".encode()) for i in range(200)]
        before = int(time.time() * 1000)
        with Client(broker.mqtt, version) as client:
            client.publish_all(sent, qos)
        if qos == 0:
            eventually(lambda: len(stored(prefix)) == 200, 10, "200 records of QoS 0")
        after = int(time.time() * 1000)
        got = stored(prefix)
        for n in range(3):
            topic = f"{prefix}/{n}"
            self.assertEqual([r.value for r in got if r.key == topic.encode()], [p for t, p in sent if t == topic])
        self.assertEqual(len(got), 200)
        self.assertTrue(all(before - 1 <= r.timestamp <= after + 1 for r in got), "append time lies between publish and ack")
        for r in got:
            self.assertNotIn("mqtt.topic", dict(r.headers), "the key is the topic already")
            self.assertEqual(dict(r.headers).get("mqtt.qos"), None if qos == 1 else str(qos).encode())

    @both
    def test_qos_0(self, version):
        self.check(version, 0)

    @both
    def test_qos_1(self, version):
        self.check(version, 1)

    @both
    def test_qos_2(self, version):
        self.check(version, 2)

    @both
    def test_a_route_names_topic_key_and_headers(self, version):
        line = f"L{version}"
        with Client(broker.mqtt, version) as client:
            client.publish_all([(f"plant/{line}/press-{i % 2}/temp", str(i).encode()) for i in range(20)])
        got = read_topic(broker.bootstrap, f"plant-{line}")
        self.assertEqual({r.key for r in got}, {b"press-0", b"press-1"})
        self.assertEqual([int(r.value) for r in got if r.key == b"press-1"], list(range(1, 20, 2)))
        for r in got:
            path = f"plant/{line}/press-{int(r.value) % 2}/temp".encode()
            self.assertEqual(dict(r.headers)["path"], path)
            self.assertEqual(dict(r.headers)["mqtt.topic"], path, "the key is not the topic")

    def test_properties_of_v5_become_headers(self):
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        properties.ResponseTopic = "answers/here"
        properties.CorrelationData = b"\x00\x01"
        properties.MessageExpiryInterval = 3600
        properties.UserProperty = [("site", "north"), ("site", "again")]
        with Client(broker.mqtt, V5) as client:
            mid = client.publish("props/a", b"{}", 1, properties=properties)
            client.wait(lambda: mid in client.acked)
        (record,) = stored("props/")
        headers = dict(record.headers)
        self.assertEqual(headers["content-type"], b"application/json")
        self.assertEqual(headers["mqtt.response-topic"], b"answers/here")
        self.assertEqual(headers["mqtt.correlation"], b"\x00\x01")
        self.assertIn("mqtt.expiry", headers)
        self.assertEqual([v for n, v in record.headers if n == "site"], [b"north", b"again"])

    @both
    def test_empty_and_binary_payloads_are_kept(self, version):
        prefix = f"payload/{version}"
        with Client(broker.mqtt, version) as client:
            client.publish_all([(f"{prefix}", b""), (f"{prefix}", bytes(range(256)))], 1)
        self.assertEqual([r.value for r in stored(prefix)], [b"", bytes(range(256))])

    @both
    def test_names_beyond_ascii_are_kept(self, version):
        topic = f"été/ночь/{version}/..//"
        with Client(broker.mqtt, version) as client:
            client.publish_all([(topic, b"x")])
        self.assertEqual([r.key.decode() for r in stored("été/") if str(version) in r.key.decode()], [topic])


class Out(unittest.TestCase):
    @both
    def test_live_delivery_at_each_qos(self, version):
        for qos in (0, 1):
            base = f"live/{version}/{qos}"
            with Client(broker.mqtt, version) as listener, Client(broker.mqtt, version) as client:
                reasons = listener.subscribe(f"{base}/#", qos)
                self.assertEqual([r.value for r in reasons], [qos])
                sent = [(f"{base}/{i}", str(i).encode()) for i in range(100)]
                client.publish_all(sent, 1)
                self.assertEqual(sorted(listener.wait_messages(100)), sorted(sent))
                self.assertTrue(all(m.qos == qos for m in listener.got))

    @both
    def test_order_of_one_topic_is_kept(self, version):
        topic = f"order/{version}"
        with Client(broker.mqtt, version) as listener, Client(broker.mqtt, version) as client:
            listener.subscribe(topic)
            client.publish_all([(topic, str(i).encode()) for i in range(300)])
            self.assertEqual([int(p) for _, p in listener.wait_messages(300)], list(range(300)))

    @both
    def test_wildcards_match_as_mqtt_says(self, version):
        base = f"wild{version}"
        cases = {
            f"{base}/+": {f"{base}/a", f"{base}/b"},
            f"{base}/#": {base, f"{base}/a", f"{base}/b", f"{base}/a/x", f"{base}/"},
            f"{base}/+/x": {f"{base}/a/x"},
            "+/a": {f"{base}/a"},
            f"{base}/a": {f"{base}/a"},
        }
        # `+` matches an empty level as well.
        cases[f"{base}/+"] |= {f"{base}/"}
        published = [base, f"{base}/a", f"{base}/b", f"{base}/a/x", f"{base}/"]
        for filter, expected in cases.items():
            with self.subTest(filter), Client(broker.mqtt, version) as listener, Client(broker.mqtt, version) as client:
                listener.subscribe([filter, "wild-end"])
                client.publish_all([(topic, b"x") for topic in published])
                client.publish_all([("wild-end", b"")])
                listener.wait(lambda: any(m.topic == "wild-end" for m in listener.got), what="the last message")
                got = sorted(m.topic for m in listener.got if m.topic != "wild-end")
                self.assertEqual(got, sorted(expected))

    @both
    def test_unsubscribe_ends_delivery(self, version):
        topic = f"unsub/{version}"
        with Client(broker.mqtt, version) as listener, Client(broker.mqtt, version) as client:
            listener.subscribe(topic)
            client.publish_all([(topic, b"1")])
            listener.wait_messages(1)
            listener.unsubscribe(topic)
            client.publish_all([(topic, b"2")])
            self.assertEqual(listener.quiet(), [(topic, b"1")])

    @both
    def test_a_record_from_kafka_reaches_a_subscriber_once_it_says_where(self, version):
        from confluent_kafka import Producer

        topic = f"from-kafka/{version}"
        with Client(broker.mqtt, version) as listener:
            listener.subscribe(topic)
            producer = Producer({"bootstrap.servers": broker.bootstrap})
            producer.produce("telemetry", b"hello", topic.encode())
            self.assertEqual(producer.flush(10), 0)
            self.assertEqual(listener.wait_messages(1), [(topic, b"hello")])


    def test_a_subscriber_with_a_small_window_gets_everything(self):
        # Receive Maximum 1: every message comes after the PUBACK of the one before, which is all that the broker hears.
        with mqtt(broker.mqtt, 5, properties=b"\x21\x00\x01") as listener, Client(broker.mqtt, V5) as client:
            self.assertEqual(listener.send(subscribe("window/a", 1, 5)).read(6), b"\x90\x04\x00\x01\x00\x01")
            client.publish_all([("window/a", b"%03d" % i) for i in range(200)])
            for i in range(200):
                message = listener.read(2 + 2 + len("window/a") + 2 + 1 + 3)
                self.assertEqual(message[-3:], b"%03d" % i)
                listener.send(b"\x40\x02" + message[12:14])


class Sessions(unittest.TestCase):
    @both
    def test_a_second_connection_takes_over(self, version):
        with Client(broker.mqtt, version, client_id=f"twin-{version}") as first:
            # Without this paho would connect again and the two would take turns.
            first.paho.reconnect_delay_set(60, 60)
            with Client(broker.mqtt, version, client_id=f"twin-{version}") as second:
                first.wait(lambda: first.gone is not None, what="the end of the first")
                second.publish_all([("twin/a", b"x")])

    @both
    def test_session_present_tells_of_a_kept_session(self, version):
        name = f"kept-{version}"
        flags = []
        for _ in range(2):
            with Client(broker.mqtt, version, client_id=name, clean=False, expiry=600) as client:
                flags.append(client.connack[1].session_present)
                client.publish_all([("kept/a", b"x")], 2)
        with Client(broker.mqtt, version, client_id=name, clean=True) as client:
            flags.append(client.connack[1].session_present)
        self.assertEqual([bool(f) for f in flags], [False, True, False])

    @both
    def test_many_connections_at_once(self, version):
        clients = [Client(broker.mqtt, version) for _ in range(50)]
        try:
            for n, client in enumerate(clients):
                client.mids = [client.publish(f"many/{version}/{n}", str(i).encode(), 1 + i % 2) for i in range(20)]
            for client in clients:
                client.wait(lambda c=client: all(mid in c.acked for mid in c.mids), what="acks")
        finally:
            for client in clients:
                client.close()
        got = stored(f"many/{version}/")
        self.assertEqual(len(got), 1000)
        for n in range(50):
            key = f"many/{version}/{n}".encode()
            self.assertEqual([int(r.value) for r in got if r.key == key], list(range(20)))

    def test_acked_records_are_there_after_a_kill(self):
        with Broker() as own:
            client = Client(own.mqtt, V5)
            client.publish_all([("kill/a", str(i).encode()) for i in range(100)])
            own.restart()
            client.cut()
            self.assertEqual([int(r.value) for r in read_topic(own.bootstrap, "telemetry")], list(range(100)))

    @both
    def test_qos_2_sent_again_after_a_kill_is_stored_once(self, version):
        keep = {"client_id": "exact", "clean": False, "properties": b"\x11\x00\x00\x02\x58"}
        with Broker() as own:
            for answered in (True, False):
                with self.subTest(f"PUBREC was read: {answered}"):
                    topic = f"exact/{answered}"
                    with mqtt(own.mqtt, version, **keep) as raw:
                        raw.send(publish(topic, b"x", 2, version, pkid=7))
                        if answered:
                            self.assertEqual(raw.read(4), b"\x50\x02\x00\x07")
                        else:
                            eventually(lambda: own.metric("received_qos2_total") > 0, 5, "the message")
                        own.restart()
                    with Raw(own.mqtt) as raw:
                        connack = raw.send(connect(version, **keep)).read(2)
                        self.assertEqual(raw.read(connack[1])[:2], b"\x01\x00", "the session is there, and it is no refusal")
                        resend = publish(topic, b"x", 2, version, pkid=7)
                        raw.send(bytes([resend[0] | 8]) + resend[1:])
                        self.assertEqual(raw.read(4), b"\x50\x02\x00\x07")
                        self.assertEqual(raw.send(packet(0x62, b"\x00\x07")).read(4), b"\x70\x02\x00\x07")
                        # The id is free: the next message with it is another one.
                        self.assertEqual(raw.send(publish(topic, b"y", 2, version, pkid=7)).read(4), b"\x50\x02\x00\x07")
                        self.assertEqual(raw.send(packet(0x62, b"\x00\x07")).read(4), b"\x70\x02\x00\x07")
                    got = [r.value for r in read_topic(own.bootstrap, "telemetry") if r.key == topic.encode()]
                    self.assertEqual(got, [b"x", b"y"])

    def test_why_a_connection_ends_is_told(self):
        def reason(raw):
            told = raw.until_closed(5)
            self.assertEqual(told[:1], b"\xe0", told)
            return told[2]

        with Broker() as own, mqtt(own.mqtt, 5, client_id="one") as first, mqtt(own.mqtt, 5, client_id="one") as second, mqtt(
            own.mqtt, 5, client_id="silent", keep_alive=1
        ) as silent:
            self.assertEqual(reason(first), 0x8E, "taken over")
            self.assertEqual(reason(silent), 0x8D, "keep-alive")
            self.assertEqual(second.send(b"\xc0\x00").read(2), b"\xd0\x00", "it lives on")
            code, _ = own.stop()
            self.assertEqual((code, reason(second)), (0, 0x8B), "stopping")

    @both
    def test_a_will_comes_unless_the_client_says_goodbye(self, version):
        with Client(broker.mqtt, version) as listener:
            listener.subscribe("will/#")
            for goodbye, name in ((True, "a"), (False, "b")):
                client = Client(broker.mqtt, version, will=(f"will/{version}/{name}", b"gone"))
                client.close() if goodbye else client.cut()
            self.assertEqual(listener.wait_messages(1), [(f"will/{version}/b", b"gone")])
