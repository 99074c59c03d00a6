"""The command line as a person or a script uses it: results on standard output, everything else on standard error, exit codes
as the manual has them."""

import json
import signal
import subprocess
import threading
import time
import unittest

from confluent_kafka import Producer

from harness import BIN, Broker, cli, eventually
from mqtt_client import V5, Client
from readback import read_topic


def setUpModule():
    global broker
    broker = unittest.enterModuleContext(Broker())


def at(*args, **more):
    return cli(*args, "--broker", broker.bootstrap, **more)


class Topics(unittest.TestCase):
    def test_create_list_describe_delete(self):
        at("topic", "create", "cli-a", "--partitions", "3")
        self.assertIn("cli-a", at("topic", "list").stdout.decode())
        told = at("topic", "describe", "cli-a").stdout.decode()
        self.assertIn("3", told)
        at("topic", "delete", "cli-a")
        self.assertNotIn("cli-a", at("topic", "list").stdout.decode())

    def test_json_is_one_object_a_line(self):
        at("topic", "create", "cli-json", "--partitions", "2")
        lines = at("topic", "list", "--json").stdout.decode().splitlines()
        self.assertTrue(lines and all(isinstance(json.loads(line), dict) for line in lines))

    def test_an_unknown_topic_is_exit_code_3(self):
        done = at("topic", "describe", "cli-nothing", check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(b"cli-nothing", done.stderr)

    def test_no_broker_is_exit_code_3_with_a_hint(self):
        done = cli("topic", "list", "--broker", "127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(b"Try:", done.stderr)


class Records(unittest.TestCase):
    def test_produce_then_tail(self):
        at("topic", "create", "cli-records", "--partitions", "1")
        at("produce", "cli-records", input=b"".join(b"line %d\n" % i for i in range(50)))
        self.assertEqual([r.value for r in read_topic(broker.bootstrap, "cli-records")], [b"line %d" % i for i in range(50)])
        told = self.tail("cli-records", 50)
        for i in range(50):
            self.assertIn(f"line {i}", told[i])

    def tail(self, topic, count):
        process = subprocess.Popen([str(BIN), "tail", topic, "--from", "earliest", "--broker", broker.bootstrap], stdout=subprocess.PIPE, text=True)
        watch = threading.Timer(20, process.kill)
        watch.start()
        lines = [process.stdout.readline() for _ in range(count)]
        watch.cancel()
        process.kill()
        process.communicate()
        return lines

    def test_send_is_a_device(self):
        cli("send", "--device", "cli-device", "--broker", f"127.0.0.1:{broker.compact}", input=b"".join(b"%d\n" % i for i in range(30)))
        got = [r for r in read_topic(broker.bootstrap, "telemetry") if r.key and r.key.startswith(b"device/cli-device")]
        self.assertEqual([r.value for r in got], [b"%d" % i for i in range(30)])


class Config(unittest.TestCase):
    def test_default_checks_and_shows(self):
        default = cli("config", "default").stdout
        self.assertIn(b"[listen]", default)
        path = broker.directory / "default.toml"
        path.write_bytes(default)
        cli("config", "check", "--config", path)
        self.assertIn(b"retention_time", cli("config", "show", "--config", path).stdout)
        path.unlink()

    def test_an_error_says_file_line_cause_and_what_to_try(self):
        path = broker.directory / "wrong.toml"
        path.write_text('[topic_defaults]\n\nretension_time = "7d"\n')
        done = cli("config", "check", "--config", path, check=False)
        path.unlink()
        self.assertEqual(done.returncode, 2)
        told = done.stderr.decode()
        self.assertIn("wrong.toml:3", told)
        self.assertIn("retension_time", told)
        self.assertRegex(told, 'Try:.*retention_time')

    def test_an_open_address_without_a_word_about_it_is_refused(self):
        done = cli("config", "check", "--set", "listen.mqtt=0.0.0.0:1883", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("allow_anonymous", done.stderr.decode())

    def test_wrong_use_is_exit_code_2(self):
        self.assertEqual(cli("serve", "--nonsense", check=False).returncode, 2)


class Process(unittest.TestCase):
    def test_sigterm_ends_within_5_s_with_0_and_nothing_half_acked(self):
        with Broker() as own:
            client = Client(own.mqtt, V5)
            acked = []
            kafka = Producer({"bootstrap.servers": own.bootstrap, "linger.ms": 0, "log_level": 0})
            done = threading.Event()

            def load():
                n = 0
                while not done.is_set():
                    kafka.produce("telemetry", str(n), "sigterm/kafka", on_delivery=lambda error, m: error or acked.append(m.value()))
                    kafka.poll(0.001)
                    client.publish("sigterm/mqtt", str(n))
                    n += 1
                    time.sleep(0.001)

            thread = threading.Thread(target=load)
            thread.start()
            eventually(lambda: len(client.acked) > 200 and len(acked) > 50, 15)
            code, seconds = own.stop()
            done.set()
            thread.join()
            self.assertEqual(code, 0, own.log_text()[-1000:])
            self.assertLess(seconds, 5)
            mqtt_acked = len(client.acked)
            client.cut()
            cli("check", own.data)
            own.start()
            kept = read_topic(own.bootstrap, "telemetry")
            mqtt = [int(r.value) for r in kept if r.key == b"sigterm/mqtt"]
            self.assertEqual(mqtt, list(range(len(mqtt))))
            self.assertGreaterEqual(len(mqtt), mqtt_acked)
            self.assertEqual(set(acked) - {r.value for r in kept if r.key == b"sigterm/kafka"}, set())

    def test_sigint_ends_like_sigterm(self):
        with Broker() as own:
            own.process.send_signal(signal.SIGINT)
            self.assertEqual(own.process.wait(6), 0)

    def test_a_second_serve_on_the_same_directory_is_refused_and_says_who_holds_it(self):
        with Broker() as own:
            second = Broker(directory=own.directory)
            second.data = own.data
            second.start(wait=False)
            self.assertNotEqual(second.process.wait(10), 0)
            self.assertIn(str(own.process.pid), own.log_text())
            self.assertEqual(own.http_status("/readyz"), 200)

    def test_health_readiness_and_metrics(self):
        self.assertEqual(broker.http_status("/healthz"), 200)
        self.assertEqual(broker.http_status("/readyz"), 200)
        self.assertIn("ready", broker.log_text())
        text = broker.http_get("/metrics")
        self.assertTrue(all(line.startswith(("#", "headwater_")) for line in text.splitlines() if line), "a name without headwater_")
        self.assertTrue(text.rstrip().endswith("# EOF"))

    def test_check_of_a_damaged_directory_is_exit_code_4_and_changes_nothing(self):
        with Broker() as own:
            with Client(own.mqtt, V5) as client:
                client.publish_all([("check/a", bytes([i]) * 500) for i in range(100)])
            own.kill()
            cli("check", own.data)
            files = {p: p.read_bytes() for p in own.data.rglob("*") if p.is_file()}
            path, data = max(files.items(), key=lambda item: len(item[1]))
            at = data.index(bytes([50]) * 500) + 100
            path.write_bytes(data[:at] + b"!" + data[at + 1 :])
            damaged = path.read_bytes()
            self.assertEqual(cli("check", own.data, check=False).returncode, 4)
            self.assertEqual(path.read_bytes(), damaged)

    def test_a_command_without_a_broker_tells_how_to_start_one(self):
        done = cli("tail", "telemetry", "--broker", "127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"headwater serve", done.stderr)
