"""Decodes the golden vectors of the compact protocol. Written from src/manual/compact.md alone; shares nothing with the crates.

    decode.py FILE      says how many vectors agree, or which does not"""

import hashlib
import hmac
import json
import struct
import sys
import zlib


class Damage(Exception):
    """The line did it: the frame is passed over."""


class Protocol(Exception):
    """The peer did it: the session ends."""


class Version(Exception):
    """Another version of the protocol."""


def need(true, what):
    if not true:
        raise Protocol(what)


def unstuff(data):
    out, at = b"", 0
    while at < len(data):
        code = data[at]
        if code == 0 or at + code > len(data):
            raise Damage("COBS")
        out += data[at + 1 : at + code]
        at += code
        if code < 255 and at < len(data):
            out += b"\0"
    return out


def open_frame(stuffed):
    decoded = unstuff(stuffed)
    if len(decoded) < 5:
        raise Damage("short")
    message, crc = decoded[:-4], int.from_bytes(decoded[-4:], "little")
    if zlib.crc32(message) != crc:
        raise Damage("CRC")
    return message


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(self.at + count <= len(self.data), "the end")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def uint(self, bits):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                need(value < 1 << bits, "a number too large")
                return value
            need(shift < bits, "a number too long")

    def i64(self):
        value = self.uint(64)
        return (value >> 1) ^ -(value & 1)

    def bytes(self):
        return self.take(self.uint(32))

    def text(self, least, most):
        data = self.bytes()
        need(least <= len(data) <= most, "a length")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Protocol("no UTF-8") from None

    def option(self, read):
        some = self.u8()
        need(some < 2, "an option")
        return read() if some else None

    def sequence(self):
        value = self.uint(64)
        need(1 <= value < 1 << 63, "a sequence")
        return value

    def hello(self):
        if (version := self.u8()) != 1:
            raise Version(version)
        device = self.text(1, 64)
        need(not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in device), "a control character")
        names = "version device epoch next frame_bytes_max proof".split()
        values = (version, device, self.uint(32), self.sequence(), self.uint(32), self.option(lambda: self.take(32).hex()))
        return dict(zip(names, values))

    def record(self, channel=None):
        """Time, channel and payload; an entry of a batch may leave the channel of the one before away."""
        time, own = self.option(self.i64), self.text(0, 255)
        need(own or channel, "no channel")
        return {"time": time, "channel": own or channel, "payload": self.bytes().hex()}

    def batch(self):
        sequence, entries, channel = self.sequence(), [], None
        while self.at < len(self.data):
            entries.append(self.record(channel))
            channel = entries[-1]["channel"]
        need(entries, "no entries")
        return {"sequence": sequence, "entries": entries}


MESSAGES = [
    ("Hello", Fields.hello),
    ("Challenge", lambda f: f.take(16).hex()),
    ("HelloAck", lambda f: {"time_ms": f.i64(), "last": f.uint(64), "window": f.uint(32), "frame_bytes_max": f.uint(32), "idle_ms": f.uint(32)}),
    ("Publish", lambda f: {"sequence": f.sequence(), **f.record()}),
    ("PublishBatch", Fields.batch),
    ("Skip", Fields.sequence),
    ("Ack", lambda f: f.uint(64)),
    ("Nack", lambda f: {"sequence": f.uint(64), "code": f.u8(), "retry_after_ms": f.uint(32)}),
    ("Ping", lambda f: f.uint(32)),
    ("Pong", lambda f: f.uint(32)),
    ("TimeRequest", lambda f: f.uint(32)),
    ("Time", lambda f: {"token": f.uint(32), "time_ms": f.i64()}),
    ("Command", lambda f: {"id": f.uint(64), "name": f.text(0, 255), "payload": f.bytes().hex()}),
    ("CommandAck", lambda f: f.uint(64)),
    ("Bye", Fields.u8),
]


def decode(frame):
    """The message of one whole frame, its 0x00 at the end."""
    assert frame.endswith(b"\0") and 0 not in frame[:-1], "not one frame"
    fields = Fields(open_frame(frame[:-1]))
    number = fields.uint(32)
    need(number < len(MESSAGES), "an unknown number")
    name, read = MESSAGES[number]
    message = {name: read(fields)}
    need(fields.at == len(fields.data), "bytes left over")
    return message


def proof(of):
    device = of["device"].encode()
    said = b"headwater-compact-1" + bytes.fromhex(of["nonce"]) + bytes([len(device)]) + device + struct.pack("<IQ", of["epoch"], of["next"])
    return hmac.new(bytes.fromhex(of["key"]), said, hashlib.sha256).hexdigest()


def check(kind, data, rest):
    if kind == "frame":
        found = decode(bytes.fromhex(data))
        assert found == json.loads(rest), found
    elif kind == "bad":
        try:
            raise AssertionError(f"it decodes: {decode(bytes.fromhex(data))}")
        except (Damage, Protocol, Version) as error:
            assert type(error).__name__.lower() == rest, repr(error)
    elif kind == "proof":
        assert proof(json.loads(rest)) == data
    elif kind == "say":
        assert data in "<>", data
        frames = bytes.fromhex(rest).split(b"\0")
        assert frames.pop() == b"", "no end"
        for frame in filter(None, frames):
            decode(frame + b"\0")
    elif kind == "row":
        row = json.loads(rest)
        version, *found = struct.unpack("<BIQQQq", bytes.fromhex(data))
        assert [version, *found] == [1] + [row[name] for name in ("epoch", "last", "lost", "refused", "seen_ms")], found
    else:
        raise AssertionError(f"what is {kind!r}?")


def main(path):
    count = 0
    for line in open(path, encoding="utf-8"):
        if line.strip() and not line.startswith("#"):
            kind, name, data, rest = line.rstrip("\n").split(" ", 3)
            try:
                check(kind, data, rest)
            except (AssertionError, Damage, Protocol, Version, ValueError, KeyError) as error:
                sys.exit(f"{path}: {name}: {error!r}")
            count += 1
    print(f"{count} vectors agree")


if __name__ == "__main__":
    main(sys.argv[1])
