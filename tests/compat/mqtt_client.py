"""paho-mqtt with the waiting that tests need: publish until acked, subscribe and collect."""

import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes

V311, V5 = paho.MQTTv311, paho.MQTTv5


class Client:
    """A connected client; records what it receives and which of its own messages were acked."""

    def __init__(self, port, version=V311, client_id="", clean=True, expiry=0, will=None, **more):
        self.version = version
        session = {"clean_session": clean} if version != V5 else {}
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, **session, **more)
        self.paho.max_inflight_messages_set(100)
        self.paho.max_queued_messages_set(0)
        self.got, self.acked, self.reasons = [], {}, []
        self.changed = threading.Condition()
        self.connack = self.gone = None
        self.paho.on_connect = self._note(lambda c, u, flags, reason, p: setattr(self, "connack", (reason, flags, p)))
        self.paho.on_disconnect = self._note(lambda c, u, flags, reason, p: setattr(self, "gone", reason))
        self.paho.on_message = self._note(lambda c, u, message: self.got.append(message))
        self.paho.on_publish = self._note(lambda c, u, mid, reason, p: self.acked.__setitem__(mid, reason))
        self.paho.on_subscribe = self._note(lambda c, u, mid, reasons, p: self.reasons.append(reasons))
        self.paho.on_unsubscribe = self._note(lambda c, u, mid, reasons, p: self.reasons.append(reasons))
        if will:
            self.paho.will_set(will[0], will[1], 1)
        properties = {}
        if version == V5:
            connect = Properties(PacketTypes.CONNECT)
            connect.SessionExpiryInterval = expiry
            properties = {"clean_start": clean, "properties": connect}
        self.paho.connect("127.0.0.1", port, 30, **properties)
        self.paho.loop_start()
        self.wait(lambda: self.connack is not None, what="CONNACK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _note(self, act):
        def noted(*args):
            with self.changed:
                act(*args)
                self.changed.notify_all()

        return noted

    def wait(self, check, seconds=15, what="it"):
        with self.changed:
            assert self.changed.wait_for(check, seconds), f"{what} did not come within {seconds} s"

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        return self.paho.publish(topic, payload, qos, retain, properties).mid

    def publish_all(self, messages, qos=1):
        """Publishes (topic, payload) and waits until each is acked (QoS 0: sent)."""
        mids = [self.publish(topic, payload, qos) for topic, payload in messages]
        self.wait(lambda: all(mid in self.acked for mid in mids), 30, f"{len(mids)} acks")
        return [self.acked[mid] for mid in mids]

    def subscribe(self, topics, qos=1):
        asked = [(topic, qos) for topic in ([topics] if isinstance(topics, str) else topics)]
        before = len(self.reasons)
        self.paho.subscribe(asked)
        self.wait(lambda: len(self.reasons) > before, what="SUBACK")
        return self.reasons[-1]

    def unsubscribe(self, topic):
        before = len(self.reasons)
        self.paho.unsubscribe(topic)
        self.wait(lambda: len(self.reasons) > before, what="UNSUBACK")
        return self.reasons[-1]

    def wait_messages(self, count, seconds=15):
        self.wait(lambda: len(self.got) >= count, seconds, f"{count} messages (got {len(self.got)})")
        return [(m.topic, bytes(m.payload)) for m in self.got]

    def quiet(self, seconds=0.5):
        """Gives what came after a while in which nothing more was expected."""
        time.sleep(seconds)
        return [(m.topic, bytes(m.payload)) for m in self.got]

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def cut(self):
        """Drops the connection without DISCONNECT."""
        self.paho.loop_stop()
        sock = self.paho.socket()
        if sock:
            sock.close()
