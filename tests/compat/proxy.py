"""A link that can fail: a TCP proxy in user space, in front of one address. Its modes:

    pass     bytes go through
    reset    they go through, and every connection is reset before it has carried 16 KiB, in the middle of whatever it carries
    stall    nothing moves and nothing is lost: both ends stay open
    black    connections are taken and bytes swallowed; nothing is answered, nothing is closed
    refuse   connections are closed at once
"""

import contextlib
import random
import selectors
import socket
import struct
import threading
import time

from harness import SEED

PIECE = 65536


class Pair:
    """A connection: the side that came here, and the one that leads there. `held` keeps a side that leads nowhere open."""

    def __init__(self, near, far, held=None, bytes_left=None):
        self.near, self.far, self.held, self.bytes_left = near, far, held, bytes_left
        for s in (near, far):
            s.settimeout(5)

    def close(self, reset=False):
        for s in (self.near, self.far, self.held):
            if s is None:
                continue
            if reset:
                with contextlib.suppress(OSError):
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()


class Link:
    """Listens on `port` and leads to `host:port` of `to`, which may be set later."""

    def __init__(self, port, to=None, seed=SEED):
        self.to = to
        self.mode = "pass"
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.pairs = []
        self.carried = self.resets = 0
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

    def set(self, mode):
        assert mode in ("pass", "reset", "stall", "black", "refuse"), mode
        self.mode = mode

    def cut(self):
        """Resets every connection there is."""
        with self.lock:
            for pair in self.pairs:
                pair.close(reset=True)
            self.resets += len(self.pairs)
            self.pairs = []

    def misbehave(self, seconds):
        """Lets the link fail in seeded ways for a while, each of them at least once; it passes again afterwards. What was opened
        meanwhile is left as it is: whoever hangs on it has to notice."""
        until = time.monotonic() + seconds
        modes = ["stall", "black", "reset", "refuse"]
        told = []
        while (left := until - time.monotonic()) > 0:
            if len(told) % len(modes) == 0:
                self.rng.shuffle(modes)
            told.append(modes[len(told) % len(modes)])
            self.set(told[-1])
            time.sleep(min(left, self.rng.uniform(0.5, 1) * seconds / 5))
        self.set("pass")
        return told

    def _run(self):
        while not self.ended:
            with self.lock:
                pairs = list(self.pairs)
            with selectors.DefaultSelector() as ready:
                ready.register(self.listener, selectors.EVENT_READ)
                if self.mode != "stall":
                    for pair in pairs:
                        for source, sink in ((pair.near, pair.far), (pair.far, pair.near)):
                            # One that was cut meanwhile is closed.
                            with contextlib.suppress(ValueError, OSError):
                                ready.register(source, selectors.EVENT_READ, (sink, pair))
                for key, _ in ready.select(0.02):
                    if key.fileobj is self.listener:
                        self._accept()
                        continue
                    try:
                        self._carry(key.fileobj, *key.data)
                    except (OSError, ValueError):
                        self._drop(key.data[1])

    def _accept(self):
        near, _ = self.listener.accept()
        if self.mode == "refuse" or self.to is None:
            near.close()
            return
        if self.mode in ("black", "stall"):
            pair = Pair(near, *socket.socketpair())
        else:
            host, port = self.to.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)), 2)
            except OSError:
                near.close()
                return
            pair = Pair(near, far, bytes_left=self.rng.randrange(100, 1 << 14))
        with self.lock:
            self.pairs.append(pair)

    def _carry(self, source, sink, pair):
        piece = source.recv(PIECE)
        if not piece:
            return self._drop(pair)
        if self.mode == "black" or pair.held is not None:
            return None
        if self.mode == "reset":
            piece, pair.bytes_left = piece[: pair.bytes_left], pair.bytes_left - len(piece)
        sink.sendall(piece)
        self.carried += len(piece)
        if pair.bytes_left <= 0 and self.mode == "reset":
            self.resets += 1
            self._drop(pair, reset=True)
        return None

    def _drop(self, pair, reset=False):
        with self.lock:
            if pair in self.pairs:
                self.pairs.remove(pair)
        pair.close(reset)
