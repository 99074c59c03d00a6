"""mosquitto_pub and mosquitto_sub: what a shell script uses."""

import subprocess
import unittest

from harness import Broker, eventually, run
from readback import read_topic


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def publish(topic, lines, qos, version):
    run("mosquitto_pub", "-p", broker.mqtt, "-V", version, "-q", qos, "-t", topic, "-l", input="".join(f"{line}\n" for line in lines).encode())


def stored(topic):
    return [r.value.decode() for r in read_topic(broker.bootstrap, "telemetry") if r.key == topic.encode()]


class Mosquitto(unittest.TestCase):
    def test_publish_at_each_qos_and_version(self):
        for version in ("mqttv311", "mqttv5"):
            for qos in (0, 1, 2):
                with self.subTest(f"{version} {qos}"):
                    topic = f"mosq/{version}/{qos}"
                    publish(topic, range(100), qos, version)
                    if qos == 0:
                        # It has no ack: what is still on its way comes in a moment.
                        eventually(lambda: len(stored(topic)) == 100, 10, "100 records of QoS 0")
                    self.assertEqual(stored(topic), [str(i) for i in range(100)])

    def test_subscribe_with_wildcards(self):
        for version in ("mqttv311", "mqttv5"):
            for qos in (0, 1):
                with self.subTest(f"{version} {qos}"):
                    base = f"mosqsub/{version}/{qos}"
                    before = broker.metric("^headwater_mqtt_subscriptions$")
                    command = ["mosquitto_sub", "-p", str(broker.mqtt), "-V", version, "-q", str(qos), "-t", f"{base}/+", "-C", "50", "-W", "15", "-v"]
                    listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    # Asked of the broker: what the tool prints into a pipe comes when it ends.
                    eventually(lambda: broker.metric("^headwater_mqtt_subscriptions$") > before, 10, "the subscription")
                    publish(f"{base}/a", range(50), 1, version)
                    told, _ = listener.communicate(timeout=20)
                    self.assertEqual(told.splitlines(), [f"{base}/a {i}" for i in range(50)])
                    self.assertEqual(listener.returncode, 0)
                    eventually(lambda: broker.metric("^headwater_mqtt_subscriptions$") == before, 10, "its end")
