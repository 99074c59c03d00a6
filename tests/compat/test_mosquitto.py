"""mosquitto_pub and mosquitto_sub: what a shell script uses."""

import subprocess
import time
import unittest

from harness import Broker, run
from readback import read_topic


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def publish(topic, lines, qos, version):
    run("mosquitto_pub", "-p", broker.mqtt, "-V", version, "-q", qos, "-t", topic, "-l", input="".join(f"{line}\n" for line in lines).encode())


class Mosquitto(unittest.TestCase):
    def test_publish_at_each_qos_and_version(self):
        for version in ("mqttv311", "mqttv5"):
            for qos in (0, 1, 2):
                with self.subTest(f"{version} {qos}"):
                    topic = f"mosq/{version}/{qos}"
                    publish(topic, range(100), qos, version)
                    # QoS 0 has no ack: a moment for what is still on its way.
                    time.sleep(0.3 if qos == 0 else 0)
                    got = [r.value.decode() for r in read_topic(broker.bootstrap, "telemetry") if r.key == topic.encode()]
                    self.assertEqual(got, [str(i) for i in range(100)])

    def test_subscribe_with_wildcards(self):
        for version in ("mqttv311", "mqttv5"):
            for qos in (0, 1):
                with self.subTest(f"{version} {qos}"):
                    base = f"mosqsub/{version}/{qos}"
                    command = ["mosquitto_sub", "-p", str(broker.mqtt), "-V", version, "-q", str(qos), "-t", f"{base}/+", "-C", "50", "-W", "15", "-v", "-d"]
                    listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    while "SUBACK" not in listener.stdout.readline():
                        self.assertIsNone(listener.poll(), "mosquitto_sub ended before SUBACK")
                    publish(f"{base}/a", range(50), 1, version)
                    told, _ = listener.communicate(timeout=20)
                    got = [line for line in told.splitlines() if line.startswith(base)]
                    self.assertEqual(got, [f"{base}/a {i}" for i in range(50)])
