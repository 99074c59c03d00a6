"""`headwater demo --upstream` against a real Apache Kafka: an outage, a kill, and what arrived, looked at again from outside."""

import re
import unittest

from harness import cli, free_ports
from kafka_server import RealKafka
from readback import read_topic
from test_demo import summary


class DemoUpstream(unittest.TestCase):
    def test_after_an_outage_and_a_kill_everything_is_there_in_order(self):
        (port,) = free_ports(1)
        with RealKafka(auto_create=True, advertise_link=port) as kafka:
            told = cli("demo", "--seconds", "6", "--upstream", kafka.link, "--link-port", port, timeout=90).stdout.decode()
            here, arrived, missing, disordered = summary(told)["Apache Kafka"]
            self.assertGreater(here, 100)
            self.assertEqual((arrived, missing, disordered), (here, 0, 0))
            self.assertNotIn("past the link", told)
            behind = int(re.search(r"Apache Kafka is (\d+) records behind", told)[1])
            self.assertGreater(behind, 0, "the cut was none")
            topic = re.search(r"topic (headwater-demo-\S+)", told)[1]
            there = read_topic(kafka.bootstrap, topic)
            # Every reading has its own value. What QoS 1 sent again because the kill cut off its acknowledgement is here, and so there, twice.
            sent, _, stored, lost, _ = summary(told)["together"]
            again = re.search(r"at least once: (\d+) were stored again", told)
            self.assertEqual((stored, lost, stored + int(again[1] if again else 0)), (sent, 0, here))
            self.assertEqual(len({r.value for r in there}), stored)
