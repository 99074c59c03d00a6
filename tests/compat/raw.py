"""Bytes by hand: sockets that say what a library would never say, and the few packets and frames they need."""

import gzip
import socket
import struct
import time

from harness import eventually

_CRC = []
for _n in range(256):
    _c = _n
    for _ in range(8):
        _c = (_c >> 1) ^ (0x82F63B78 if _c & 1 else 0)
    _CRC.append(_c)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Raw:
    """A plain TCP connection."""

    def __init__(self, port, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends; a broker that has closed already is no failure of the test."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            pass
        return self

    def half_close(self):
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return self

    def read(self, count, seconds=5):
        """Exactly `count` bytes, or what came before the end."""
        got, until = b"", time.monotonic() + seconds
        while len(got) < count:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                piece = self.socket.recv(min(65536, count - len(got)))
            except TimeoutError:
                raise AssertionError(f"{len(got)} of {count} bytes within {seconds} s: {got[:64]!r}") from None
            except ConnectionError:
                return got
            if not piece:
                return got
            got += piece
        return got

    def until_closed(self, seconds=5):
        """Everything up to the end of the connection; fails when it stays open."""
        got, until = b"", time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                piece = self.socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"the connection was not closed within {seconds} s (got {got[:64]!r})") from None
            except ConnectionError:
                return got
            if not piece:
                return got
            got += piece

    def kafka(self, frame, seconds=5):
        """Sends a request with its length and gives the answer without it."""
        self.send(struct.pack(">i", len(frame)) + frame)
        (length,) = struct.unpack(">i", self.read(4, seconds))
        return self.read(length, seconds)


# MQTT


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 0x7F
        out += bytes([low | (0x80 if n else 0)])
        if not n:
            return out


def text(s):
    data = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    return bytes([first]) + varint(len(body)) + body


def connect(level=4, client_id="", keep_alive=60, clean=True, properties=b""):
    properties = varint(len(properties)) + properties if level == 5 else b""
    return packet(0x10, text("MQTT") + bytes([level, 2 if clean else 0]) + struct.pack(">H", keep_alive) + properties + text(client_id))


def publish(topic, payload=b"x", qos=0, level=4, pkid=1):
    properties = b"\x00" if level == 5 else b""
    return packet(0x30 | qos << 1, text(topic) + (struct.pack(">H", pkid) if qos else b"") + properties + payload)


def subscribe(topic, qos=0, level=4):
    properties = b"\x00" if level == 5 else b""
    return packet(0x82, b"\x00\x01" + properties + text(topic) + bytes([qos]))


def mqtt(port, level=4, **more):
    """A connection whose CONNECT was accepted."""
    raw = Raw(port, more.pop("receive_buffer", None))
    raw.send(connect(level, **more))
    head = raw.read(2)
    assert head[:1] == b"\x20", head
    assert raw.read(head[1])[1] == 0, "CONNECT was refused"
    return raw


# Kafka


def request(key, version, body, correlation=7):
    """A request with a non-flexible header."""
    return struct.pack(">hhi", key, version, correlation) + struct.pack(">h", 1) + b"t" + body


def batch(records=b"", count=1, attributes=0, crc=None, magic=2, producer=(-1, -1, -1)):
    """One record batch v2 around a records section, of now: retention takes what is old."""
    now = int(time.time() * 1000)
    tail = struct.pack(">hiqqqhii", attributes, count - 1, now, now, *producer, count) + records
    sealed = crc32c(tail) if crc is None else crc
    return struct.pack(">qiibI", 0, 4 + 1 + 4 + len(tail), -1, magic, sealed) + tail


def zigzag(n):
    return varint((n << 1) ^ (n >> 63))


def record(value, key=None, delta=0):
    body = b"\x00" + zigzag(0) + zigzag(delta)
    body += zigzag(-1) if key is None else zigzag(len(key)) + key
    body += zigzag(len(value)) + value + zigzag(0)
    return zigzag(len(body)) + body


def produce(topic, batches, acks=-1):
    body = struct.pack(">hhi", -1, acks, 5000) + struct.pack(">i", 1) + text(topic)
    return request(0, 3, body + struct.pack(">ii", 1, 0) + struct.pack(">i", len(batches)) + batches)


def produce_error(answer):
    """The error code of the one partition in a Produce v3 answer."""
    at = 4 + 4
    (length,) = struct.unpack(">h", answer[at : at + 2])
    at += 2 + length + 4 + 4
    return struct.unpack(">h", answer[at : at + 2])[0]


def bomb(size):
    """A records section of zeros that gzip makes a thousandth of."""
    return gzip.compress(bytes(size), 9)


def random_bytes(rng, most):
    return rng.randbytes(rng.randrange(1, most))


def still_open(raw):
    """Whether the peer has not closed: nothing to read yet."""
    raw.socket.setblocking(False)
    try:
        return raw.socket.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def settle(broker, bytes_max, seconds=15):
    """Waits until the broker's resident memory is under a bound again."""
    eventually(lambda: broker.resident_bytes() <= bytes_max, seconds, f"resident memory under {bytes_max >> 20} MiB")

