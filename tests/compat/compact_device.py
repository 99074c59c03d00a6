"""A device on the compact protocol in a page of Python: enough to send readings with their times, to be acknowledged, and to
go on after a crash on either side. Written from the specification, not from the crate."""

import socket
import struct
import time
import zlib

HELLO, HELLO_ACK, PUBLISH, PUBLISH_BATCH, ACK, NACK, BYE = 0, 2, 3, 4, 6, 7, 14
FRAME_MAX = 4000


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def signed(n):
    return varint((n << 1) if n >= 0 else ((-n << 1) - 1))


def text(s):
    data = s.encode() if isinstance(s, str) else s
    return varint(len(data)) + data


def stuff(data):
    """COBS, with the 0x00 that ends a frame."""
    out = b""
    for run in data.split(b"\x00"):
        while len(run) >= 254:
            out, run = out + b"\xff" + run[:254], run[254:]
        out += bytes([len(run) + 1]) + run
    return out + b"\x00"


def unstuff(data):
    out, at = b"", 0
    while at < len(data):
        code = data[at]
        out += data[at + 1 : at + code]
        at += code
        if code < 0xFF and at < len(data):
            out += b"\x00"
    return out


def frame(message):
    return stuff(message + struct.pack("<I", zlib.crc32(message)))


class Reader:
    """Fields of a message, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def varint(self):
        n = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n

    def signed(self):
        n = self.varint()
        return (n >> 1) ^ -(n & 1)

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]


class Ended(Exception):
    """The broker ended the session with a code."""


class Device:
    """Sends what `queue` holds, in order; `acked` is the last sequence that the broker has stored. The queue outlives
    connections, as a device's flash does."""

    def __init__(self, port, name, epoch=1):
        self.port, self.name, self.epoch = port, name, epoch
        self.queue = []
        self.acked = 0
        self.socket = None
        self.nacks = []

    def put(self, channel, payload, time_ms=None):
        """Queues one reading; gives its sequence."""
        self.queue.append((channel, payload, time_ms))
        return len(self.queue)

    def connect(self):
        self.close()
        self.socket = socket.create_connection(("127.0.0.1", self.port), 5)
        self.pending = b""
        # Version, device, epoch, next sequence, the largest frame that this side takes, no proof.
        hello = bytes([HELLO, 1]) + text(self.name) + varint(self.epoch) + varint(self.acked + 1) + varint(FRAME_MAX) + b"\x00"
        self.socket.sendall(frame(hello))
        fields = self.receive(HELLO_ACK)
        self.base, last, self.window, self.frame_max = fields.signed(), fields.varint(), fields.varint(), fields.varint()
        self.acked = max(self.acked, last)
        self.sent = self.acked

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def receive(self, wanted, seconds=10):
        """The next message of that number; acks and nacks on the way are taken in."""
        until = time.monotonic() + seconds
        while True:
            while b"\x00" not in self.pending:
                self.socket.settimeout(max(0.01, until - time.monotonic()))
                piece = self.socket.recv(65536)
                if not piece:
                    raise ConnectionError("the broker closed the connection")
                self.pending += piece
            data, self.pending = self.pending.split(b"\x00", 1)
            if not data:
                continue
            decoded = unstuff(data)
            message, (crc,) = decoded[:-4], struct.unpack("<I", decoded[-4:])
            assert zlib.crc32(message) == crc, "a frame of the broker has a wrong CRC"
            fields = Reader(message)
            number = fields.varint()
            if number == ACK:
                self.acked = max(self.acked, fields.varint())
            elif number == NACK:
                sequence, code, retry_after = fields.varint(), fields.byte(), fields.varint()
                self.nacks.append((sequence, code))
                if code < 32:
                    time.sleep(retry_after / 1000)
                    self.sent = sequence - 1
            elif number == BYE:
                raise Ended(fields.byte())
            if number == wanted:
                return fields

    def entry(self, index, last_channel=None):
        channel, payload, at = self.queue[index]
        when = b"\x00" if at is None else b"\x01" + signed(at - self.base)
        return when + text("" if channel == last_channel else channel) + text(payload)

    def send_some(self):
        """One frame with as many readings as the window and the frame allow."""
        first, limit = self.sent, min(len(self.queue), self.acked + self.window)
        if first >= limit:
            return False
        body, channel = b"", None
        most = min(self.frame_max, FRAME_MAX) - 16
        while self.sent < limit:
            piece = self.entry(self.sent, channel)
            if body and len(body) + len(piece) > most:
                break
            body += piece
            channel = self.queue[self.sent][0]
            self.sent += 1
        self.socket.sendall(frame(bytes([PUBLISH_BATCH]) + varint(first + 1) + body))
        return True

    def flush(self, seconds=30):
        """Sends until everything queued is acknowledged, over as many connections as it takes."""
        until = time.monotonic() + seconds
        while self.acked < len(self.queue):
            assert time.monotonic() < until, f"{self.acked} of {len(self.queue)} acknowledged within {seconds} s"
            try:
                if not self.socket:
                    self.connect()
                while self.send_some():
                    pass
                if self.acked < len(self.queue):
                    self.receive(ACK, 5)
            except (OSError, ConnectionError):
                self.close()
                time.sleep(0.05)
