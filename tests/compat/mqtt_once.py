"""A publisher at QoS 2 in a page of Python, over as many connections as it takes. It keeps what the specification has a sender
keep (MQTT 5 and 3.1.1, 4.3.3 and 4.4): what had no PUBREC goes again, with DUP and its id; what had one never goes again, only
its PUBREL does.

paho 2.2.0 does not when an attempt to connect fails. `reconnect()` calls `_messages_reconnect_reset_out` before it connects, every
time: the first turns `wait_for_pubcomp` into `resend_pubrel`, the second (the broker was not there yet) knows only
`wait_for_pubcomp` and `wait_for_pubrec` and makes everything else `publish`, without DUP. So a message whose PUBREC came, and
whose PUBREL may have freed its id, is published as a new one, and no broker can know it again."""

import select
import socket
import struct
import time

from raw import connect, packet, text

PUBREC, PUBREL, PUBCOMP = 0x50, 0x62, 0x70
ID_NOT_FOUND = 0x92


class ExactlyOnce:
    def __init__(self, port, level, client_id, topic):
        self.port, self.level, self.client_id, self.topic = port, level, client_id, topic
        self.id = 0
        # By id, in the order of sending: number and payload without PUBREC, number with PUBREC and without PUBCOMP.
        self.published, self.released = {}, {}
        self.recorded = set()  # numbers whose PUBREC came: they are stored
        self.resent = 0
        self.socket = None

    def in_flight(self):
        return len(self.published) + len(self.released)

    def publish(self, number, payload):
        while self.id == 0 or self.id in self.published or self.id in self.released:
            self.id = (self.id + 1) % 65536
        self.published[self.id] = (number, payload)
        if self.socket:
            self._try(lambda: self._send_publish(self.id, dup=False))

    def exchange(self, seconds=0.05):
        """Connects if need be and takes in what comes within a while; a broken connection waits for the next call."""
        self._try(lambda: self._exchange(seconds))

    def flush(self, seconds):
        """Until everything is released and completed."""
        until = time.monotonic() + seconds
        while self.in_flight():
            assert time.monotonic() < until, f"{self.client_id}: {self.in_flight()} messages are not completed within {seconds} s"
            self.exchange()

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def _try(self, act):
        try:
            act()
        except OSError:
            self.close()
            time.sleep(0.05)

    def _exchange(self, seconds):
        if not self.socket:
            self._connect()
        if select.select([self.socket], [], [], seconds)[0]:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("the broker closed the connection")
            self.received += piece
            while self._take():
                pass

    def _connect(self):
        self.received = b""
        self.socket = socket.create_connection(("127.0.0.1", self.port), 5)
        expiry = b"\x11" + struct.pack(">I", 3600) if self.level == 5 else b""
        self.socket.sendall(connect(self.level, self.client_id, clean=False, properties=expiry))
        head = self._read(2)
        assert head[:1] == b"\x20", head
        present, refused = self._read(head[1])[:2]
        assert not refused, f"CONNECT was refused with {refused}"
        # The session is stored before the first message of it.
        assert present or not self.recorded, "the broker lost the session"
        for id in self.released:
            self._release(id)
        for id in self.published:
            self._send_publish(id, dup=True)
            self.resent += 1

    def _read(self, count):
        got = b""
        while len(got) < count:
            piece = self.socket.recv(count - len(got))
            if not piece:
                raise ConnectionError("the broker closed the connection")
            got += piece
        return got

    def _send_publish(self, id, dup):
        body = text(self.topic) + struct.pack(">H", id) + (b"\x00" if self.level == 5 else b"") + self.published[id][1]
        self.socket.sendall(packet(0x34 | (8 if dup else 0), body))

    def _release(self, id):
        self.socket.sendall(packet(PUBREL, struct.pack(">H", id)))

    def _take(self):
        """One packet, if it is whole. What comes here is short: one byte is enough for its length."""
        if len(self.received) < 2 or len(self.received) < 2 + self.received[1]:
            return False
        kind, body = self.received[0], self.received[2 : 2 + self.received[1]]
        self.received = self.received[2 + len(body) :]
        (id,) = struct.unpack(">H", body[:2])
        reason = body[2] if len(body) > 2 else 0
        if kind == PUBREC:
            assert reason < 0x80, f"{self.client_id}: refused with {reason:#x}"
            if id in self.published:
                self.released[id] = self.published.pop(id)[0]
                self.recorded.add(self.released[id])
            self._release(id)
        elif kind == PUBCOMP:
            # PUBREL may come again for an id that went before a crash: MQTT 5, 3.7.2.1, "not an error during recovery".
            assert reason in (0, ID_NOT_FOUND), f"{self.client_id}: PUBCOMP with {reason:#x}"
            self.released.pop(id, None)
        else:
            raise AssertionError(f"{self.client_id}: packet {kind:#x} of the broker")
        return True
