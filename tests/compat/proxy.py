"""A link that can fail: a TCP proxy in user space, in front of one address. It passes bytes until it is told to stall (holds
what comes, both ends stay open), to go black (swallows connections and bytes, answers nothing), to refuse, or to reset."""

import random
import selectors
import socket
import struct
import threading
import time

from harness import SEED

PIECE = 65536


class Link:
    """Listens on `port` and leads to `host:port` of `to`, which may be set later."""

    def __init__(self, port, to=None):
        self.to = to
        self.mode = "pass"
        self.lock = threading.Lock()
        self.pairs = []
        self.carried = 0
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(64)
        self.ended = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True
        self.thread.join(5)
        self.cut()
        self.listener.close()

    def cut(self):
        """Resets every connection there is."""
        with self.lock:
            for pair in self.pairs:
                for s in pair:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
            self.pairs = []

    def misbehave(self, seconds, seed=SEED):
        """Lets the link fail in seeded ways for a while; it passes again afterwards."""
        rng = random.Random(seed)
        until = time.monotonic() + seconds
        told = []
        while (left := until - time.monotonic()) > 0:
            mode = rng.choice(["stall", "black", "reset", "refuse"])
            told.append(mode)
            self.set(mode)
            time.sleep(min(left, rng.uniform(0.3, seconds / 3)))
        self.set("reset")
        self.set("pass")
        return told

    def set(self, mode):
        if mode == "reset":
            self.cut()
            self.mode = "pass" if self.mode == "pass" else "refuse"
        else:
            self.mode = mode

    def _run(self):
        while not self.ended:
            with self.lock:
                pairs = list(self.pairs)
            with selectors.DefaultSelector() as ready:
                ready.register(self.listener, selectors.EVENT_READ)
                if self.mode in ("pass", "black"):
                    for a, b in pairs:
                        for source, sink in ((a, b), (b, a)):
                            try:
                                ready.register(source, selectors.EVENT_READ, (sink, (a, b)))
                            except (ValueError, OSError):
                                pass
                for key, _ in ready.select(0.02):
                    try:
                        self._accept() if key.fileobj is self.listener else self._carry(key.fileobj, *key.data)
                    except (OSError, ValueError):
                        if key.fileobj is not self.listener:
                            self._drop(key.data[1])

    def _accept(self):
        near, _ = self.listener.accept()
        if self.mode == "refuse" or self.to is None:
            near.close()
            return
        if self.mode in ("black", "stall"):
            far = socket.socketpair()[0]
        else:
            host, port = self.to.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)), 2)
            except OSError:
                near.close()
                return
        for s in (near, far):
            s.settimeout(5)
        with self.lock:
            self.pairs.append((near, far))

    def _carry(self, source, sink, pair):
        piece = source.recv(PIECE)
        if not piece:
            return self._drop(pair)
        if self.mode == "black":
            return None
        sink.sendall(piece)
        self.carried += len(piece)
        return None

    def _drop(self, pair):
        with self.lock:
            if pair in self.pairs:
                self.pairs.remove(pair)
        for s in pair:
            s.close()
