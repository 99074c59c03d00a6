"""The command line as a person or a script uses it: results on standard output, everything else on standard error, exit codes
as the manual has them."""

import json
import signal
import subprocess
import threading
import time
import unittest

from confluent_kafka import Producer

from harness import BIN, Broker, cli, eventually, free_ports
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

    def test_what_cannot_be_a_topic_is_exit_code_2_and_a_second_one_is_1(self):
        for more in (["bad name"], ["cli-b", "--partitions", "0"], ["cli-b", "--setting", "retention.ms=soon"], ["cli-b", "--setting", "retention.ms"]):
            with self.subTest(more):
                done = at("topic", "create", *more, check=False)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(b"Try:", done.stderr)
        at("topic", "create", "cli-twice")
        self.assertEqual(at("topic", "create", "cli-twice", check=False).returncode, 1)
        at("topic", "delete", "cli-twice")
        self.assertEqual(at("topic", "delete", "cli-twice", check=False).returncode, 3)

    def test_describe_tells_bounds_and_settings(self):
        at("topic", "create", "cli-told", "--partitions", "1", "--setting", "retention.ms=86400000")
        at("produce", "cli-told", input=b"a\nb\n")
        told = json.loads(at("topic", "describe", "cli-told", "--json").stdout)
        self.assertEqual(told["partitions"], [{"partition": 0, "log_start": 0, "high_watermark": 2}])
        self.assertEqual(told["settings"]["retention.ms"], "86400000")

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

    def test_tail_begins_where_it_is_told(self):
        at("topic", "create", "cli-from", "--partitions", "1")
        at("produce", "cli-from", input=b"a\nb\n")
        between = time.time() + 0.05
        time.sleep(0.1)
        at("produce", "cli-from", input=b"c\nd\n")
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + f".{int(between % 1 * 1000):03}Z"
        for start, values in {
            "earliest": ["a", "b", "c", "d"],
            "1": ["b", "c", "d"],
            "3": ["d"],
            "99": [],
            "-1h": ["a", "b", "c", "d"],
            "2020-01-31T08:00Z": ["a", "b", "c", "d"],
            "2099-01-31T08:00:00+01:00": [],
            moment: ["c", "d"],
            "latest": [],
        }.items():
            with self.subTest(start):
                done = at("tail", "cli-from", "--from", start, "--no-follow", "--values")
                self.assertEqual(done.stdout.decode().split(), values)
        self.assertEqual(at("tail", "cli-from", "--from", "earliest", "--count", "2", "--values").stdout, b"a\nb\n")
        self.assertEqual(at("tail", "cli-from", "--from", "yesterday", check=False).returncode, 2)

    def test_tail_gives_everything_of_a_record(self):
        at("topic", "create", "cli-whole", "--partitions", "1")
        at("produce", "cli-whole", "--key-separator", "=", "--header", "site=north", input=b"press-1=\xff\x00\n")
        (line,) = at("tail", "cli-whole", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
        told = json.loads(line)
        self.assertAlmostEqual(told.pop("timestamp_ms") / 1000, time.time(), delta=60)
        self.assertEqual(told, {"topic": "cli-whole", "partition": 0, "offset": 0, "key": "press-1", "value": {"hex": "ff00"}, "headers": [{"name": "site", "value": "north"}]})
        self.assertEqual(at("tail", "cli-whole", "--from", "earliest", "--no-follow", "--values").stdout, b"\xff\x00\n")
        text = at("tail", "cli-whole", "--from", "earliest", "--no-follow").stdout.decode().rstrip("\n").split("\t")
        self.assertEqual(text[1:], ["0:0", "press-1", "\\xff\\u{0}"])

    def test_what_is_wrong_with_the_input_is_said(self):
        at("topic", "create", "cli-wrong", "--partitions", "1")
        for code, more in ((2, ["--key-separator", "="]), (2, ["--header", "north"]), (3, ["--partition", "7"]), (2, ["--acks", "2"])):
            with self.subTest(more):
                done = at("produce", "cli-wrong", *more, input=b"no key\n", check=False)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertNotIn(b"Some(", done.stderr)
        done = at("tail", "cli-wrong", "--partition", "7", check=False)
        self.assertEqual((done.returncode, b"Some(" in done.stderr, b"Try:" in done.stderr), (3, False, True), done.stderr)
        self.assertEqual(at("tail", "cli-nothing", check=False).returncode, 3)

    def test_a_reader_that_has_seen_enough_is_no_failure(self):
        at("topic", "create", "cli-head", "--partitions", "1")
        at("produce", "cli-head", input=b"x" * 1000 + b"\n" + b"y\n" * 100_000)
        tail = subprocess.Popen([str(BIN), "tail", "cli-head", "--from", "earliest", "--broker", broker.bootstrap], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        tail.stdout.readline()
        tail.stdout.close()
        self.assertEqual(tail.wait(20), 0)
        self.assertEqual(tail.stderr.read(), b"")
        tail.stderr.close()

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

    def test_what_a_room_knows_better_is_checked_too(self):
        path = broker.directory / "routes.toml"
        self.addCleanup(path.unlink)
        for route, line in (('match = "a/#/b"\ntopic = "x"', 2), ('match = "a/+x"\ntopic = "p-{y}"', 2)):
            with self.subTest(route):
                path.write_text(f"\n[[route]]\n{route}\n")
                for command in (["config", "check"], ["serve", "--data-dir", broker.directory / "never"]):
                    done = cli(*command, "--config", path, check=False)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertRegex(done.stderr.decode(), rf"routes\.toml:{line}: .*Try: ")
        path.write_text('[[listener]]\nprotocol = "compact"\naddress = "127.0.0.1:7421"\npsk_file = "/nowhere/keys"\n')
        done = cli("config", "check", "--config", path, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"/nowhere/keys", done.stderr)
        self.assertFalse((broker.directory / "never").exists(), "a wrong configuration touches no directory")

    def test_set_wins_and_says_what_is_wrong_with_it(self):
        self.assertIn(b"127.0.0.1:99", cli("config", "show", "--set", "listen.mqtt=127.0.0.1:99").stdout)
        for wrong, told in (("listen.mqqt=127.0.0.1:1", 'Try: "mqtt"'), ("lisen.mqtt=127.0.0.1:1", 'Try: "listen"'), ("listen.mqtt", "Try: "),
                            ("storage.linger=5", 'Try: .*"5ms"'), ("=3", "Try: ")):
            with self.subTest(wrong):
                done = cli("config", "check", "--set", wrong, check=False)
                self.assertEqual(done.returncode, 2)
                self.assertRegex(done.stderr.decode(), f"--set .*{told}")

    def test_a_file_that_is_not_there_is_exit_code_2(self):
        done = cli("config", "check", "--config", "/nowhere/headwater.toml", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"/nowhere/headwater.toml", done.stderr)
        self.assertIn(b"Try:", done.stderr)

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

    def test_doctor_says_what_is_wrong_and_what_to_try(self):
        told = cli("doctor", "--http", f"http://127.0.0.1:{broker.http}", "--json").stdout.splitlines()
        states = {finding["part"]: finding["state"] for finding in map(json.loads, told)}
        self.assertEqual([states[part] for part in ("broker", "quota", "disk", "store")], ["good"] * 4)
        self.assertTrue({"wear", "clock", "losses"} <= states.keys())
        with Broker(f"[[upstream]]\nname = 'central'\nbootstrap = ['127.0.0.1:{free_ports(1)[0]}']\n[storage]\nquota = '64MiB'\n[topic_defaults]\npartitions = 1\n[[topic]]\nname = 'keep'\nshed = 'refuse'\n") as own:
            http = ("--http", f"http://127.0.0.1:{own.http}")
            producer = Producer({"bootstrap.servers": own.bootstrap, "retries": 0, "log_level": 0})
            refused = []
            while not refused:
                producer.produce("keep", bytes(900_000), on_delivery=lambda error, _: refused.extend([error] if error else []))
                producer.flush(10)
            done = cli("doctor", *http, check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            lines = done.stdout.decode().splitlines()
            self.assertTrue(any(line.startswith("wrong  quota ") and "Try:" in line for line in lines), lines)
            self.assertTrue(any(line.startswith("note   central ") for line in lines), lines)
            self.assertIn(b"found wrong", done.stderr)
        self.assertEqual(cli("doctor", *http, check=False).returncode, 3)

    def test_check_of_a_damaged_directory_is_exit_code_4_and_changes_nothing(self):
        with Broker() as own:
            with Client(own.mqtt, V5) as client:
                client.publish_all([("check/a", bytes([i]) * 500) for i in range(100)])
                # A commit of its own: damage in the newest one cannot be told from a write that a power cut tore.
                client.publish_all([("check/a", b"the newest")])
            own.kill()
            cli("check", own.data)
            files = {p: p.read_bytes() for p in own.data.rglob("*") if p.is_file()}
            path, data = max(files.items(), key=lambda item: len(item[1]))
            at = data.index(bytes([50]) * 500) + 100
            path.write_bytes(data[:at] + b"!" + data[at + 1 :])
            damaged = path.read_bytes()
            self.assertEqual(cli("check", own.data, check=False).returncode, 4)
            self.assertEqual(path.read_bytes(), damaged)

    def test_check_after_a_kill_counts_and_leaves_every_file_as_it_was(self):
        with Broker() as own:
            with Client(own.mqtt, V5) as client:
                client.publish_all([("check/a", str(i).encode()) for i in range(60)])
            running = cli("check", own.data, check=False)
            self.assertEqual(running.returncode, 1)
            self.assertIn(str(own.process.pid).encode(), running.stderr)
            own.kill()
            state = lambda: {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in [own.data, *own.data.rglob("*")]}
            before = state()
            lines = [json.loads(line) for line in cli("check", own.data, "--json").stdout.splitlines()]
            self.assertEqual(state(), before)
            self.assertEqual((lines[-1]["sound"], lines[-1]["records"]), (True, 60))
            self.assertEqual(sum(line["partition"]["records"] for line in lines if "partition" in line), 60)

    def test_check_of_nothing_is_exit_code_3(self):
        done = cli("check", "/nowhere/data", check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"Try:", done.stderr)

    def test_upstream_status(self):
        http = f"http://127.0.0.1:{broker.http}"
        done = cli("upstream", "status", "--http", http)
        self.assertEqual((done.stdout, b"Try:" in done.stderr), (b"", True))
        for code, more in ((3, ["nowhere", "--http", http]), (3, ["--http", "http://127.0.0.1:1"]), (2, ["--http", "127.0.0.1"])):
            with self.subTest(more):
                self.assertEqual(cli("upstream", "status", *more, check=False).returncode, code)

    def test_a_command_without_a_broker_tells_how_to_start_one(self):
        done = cli("tail", "telemetry", "--broker", "127.0.0.1:1", check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"headwater serve", done.stderr)
