"""A real Apache Kafka, through scripts/kafka."""

import os
import pathlib
import shutil
import subprocess
import tempfile

from harness import TOP

SCRIPT = TOP / "scripts" / "kafka"


class RealKafka:
    """One broker on free ports; `stop` and `start` again keep its data and ports. `advertise_link` is the port of a proxy
    in front of its second listener, whose own address `link` then is."""

    def __init__(self, auto_create=False, advertise_link=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="headwater-kafka-"))
        self.environment = dict(os.environ, HEADWATER_KAFKA_AUTO_CREATE="true" if auto_create else "false")
        if advertise_link:
            self.environment["HEADWATER_KAFKA_LINK"] = str(advertise_link)
        self.bootstrap = self.link = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop("KILL")
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def port(self):
        return int(self.bootstrap.rsplit(":", 1)[1])

    def start(self):
        self.bootstrap = self._script("start", self.directory).strip()
        self.link = self._script("link", self.directory).strip()

    def stop(self, signal="TERM"):
        self._script("stop", self.directory, signal)

    def _script(self, *args):
        done = subprocess.run([str(SCRIPT), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=180, env=self.environment)
        if done.returncode != 0:
            raise AssertionError(f"scripts/kafka {args[0]}: {done.stderr.decode()}")
        return done.stdout.decode()


def tool(name, *args, input=None, timeout=60):
    """Runs one of Kafka's own tools by class name; gives its standard output."""
    name = name if "." in name and name[0].islower() else f"org.apache.kafka.tools.{name}"
    done = subprocess.run([str(SCRIPT), "tool", name, *map(str, args)], input=input, capture_output=True, timeout=timeout)
    if done.returncode != 0:
        raise AssertionError(f"{name} ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}\n{done.stderr.decode()[-2000:]}")
    return done.stdout.decode()
