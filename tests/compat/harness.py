"""What every compat test uses: the broker as a process on free ports with a fresh directory, its metrics, waiting with a
bound. Nothing here knows a protocol."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
BIN = pathlib.Path(os.environ.get("HEADWATER_BIN", TARGET / "debug" / "headwater"))
DATA = TARGET / "tools" / "data"
SEED = int(os.environ.get("HEADWATER_SEED", "20260131"))


def free_ports(n):
    """N ports that were free a moment ago; held together so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def eventually(check, seconds=10.0, what="it"):
    """Waits until `check()` is true and gives its value; fails with what it waited for."""
    until = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come within {seconds} s (last: {value!r})")
        time.sleep(0.02)


class Broker:
    """One headwater process. `restart` keeps directory and ports."""

    def __init__(self, config="", sets=(), directory=None):
        self.own = directory is None
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="headwater-test-"))
        self.data = self.directory / "data"
        self.mqtt, self.kafka, self.compact, self.http = free_ports(4)
        self.config = config
        self.sets = list(sets)
        self.environment = {}
        self.user = None
        self.process = None
        self.starts = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        if self.own:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.kafka}"

    @property
    def log_path(self):
        return self.directory / "headwater.log"

    def start(self, wait=True):
        command = [str(BIN), "serve", "--data-dir", str(self.data)]
        if self.config:
            path = self.directory / "headwater.toml"
            path.write_text(self.config)
            command += ["--config", str(path)]
        for name in ("mqtt", "kafka", "compact", "http"):
            command += ["--set", f"listen.{name}=127.0.0.1:{getattr(self, name)}"]
        for item in self.sets:
            command += ["--set", item]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self.environment}, user=self.user)
        self.starts += 1
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=15):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"headwater ended with {self.process.returncode}:\n{self.log_text()[-2000:]}")
            return self.http_status("/readyz") == 200

        eventually(ready, seconds, "/readyz")

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def kill(self):
        """kill -9, if it still runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self, seconds=5.0):
        """SIGTERM; gives the exit code and how long it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=seconds + 5)
        return code, time.monotonic() - began

    def restart(self):
        self.kill()
        self.start()

    def http_get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
            return answer.read().decode()

    def http_status(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self):
        """Every sample by its name with labels, as /metrics has it."""
        samples = {}
        for line in self.http_get("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, pattern):
        """The sum of all samples whose name (labels included) matches the pattern."""
        return sum(value for name, value in self.metrics().items() if re.search(pattern, name))

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS: is it running?")


def cli(*args, input=None, timeout=30, check=True):
    """Runs a headwater command; bytes in, bytes out."""
    done = subprocess.run([str(BIN), *map(str, args)], input=input, capture_output=True, timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"headwater {' '.join(map(str, args))} ended with {done.returncode}:\n{done.stderr.decode()}")
    return done


def run(*args, input=None, timeout=60):
    """Runs another tool and gives its standard output; fails with its standard error."""
    done = subprocess.run([str(a) for a in args], input=input, capture_output=True, timeout=timeout)
    if done.returncode != 0:
        raise AssertionError(f"{args[0]} ended with {done.returncode}:\n{done.stdout.decode()[-1500:]}\n{done.stderr.decode()[-1500:]}")
    return done.stdout
