"""One HTTP/2 connection by hand: frames go out as a case says, and what comes back is judged (RFC 9113)."""

import socket
import ssl
import struct
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
 REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
CODES = ("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
         "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM").split()
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
PATIENCE = 3.0  # seconds without what a case waits for


class Wrong(Exception):
    """The other side did not do what the standard says."""


class Skip(Exception):
    """The other side gives no occasion for this case."""


class Closed(Exception):
    """The connection has ended."""


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs):
    return b"".join(struct.pack(">HI", key, value) for key, value in pairs)


def number(value, prefix, pattern=0):
    """An integer of HPACK (RFC 7541, section 5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([pattern | value])
    out, value = [pattern | most], value - most
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out + [value])


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return number(len(value), 7) + value


def literal(name, value):
    """A field that is never looked up and never stored, without Huffman coding."""
    return b"\x00" + text(name) + text(value)


def block(fields):
    return b"".join(literal(name, value) for name, value in fields)


def code(value):
    return CODES[value] if value < len(CODES) else str(value)


class Connection:
    def __init__(self, target):
        raw = socket.create_connection((target.host, target.port), PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            raw = context.wrap_socket(raw, server_hostname="localhost")
            if raw.selected_alpn_protocol() != "h2":
                raise Wrong(f"ALPN gave {raw.selected_alpn_protocol()}")
        self.socket, self.target, self.unread = raw, target, b""
        self.decoder, self.peer, self.fragments = hpack.Decoder(), {}, b""

    def begin(self, *pairs):
        """The preface and the settings of both sides."""
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings(*pairs)))
        self.wait("SETTINGS", lambda kind, flags, *_: kind == SETTINGS and not flags & ACK)
        return self

    def send(self, data):
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Wrong("it does not read any more") from None
        except OSError:
            pass  # what it said before it closed is still to be read

    def frame(self, kind, flags, stream, payload=b""):
        self.send(frame(kind, flags, stream, payload))

    def fields(self, method="GET", path="/", extra=(), without=()):
        basic = [(":method", method), (":scheme", "https" if self.target.tls else "http"), (":path", path),
                 (":authority", f"{self.target.host}:{self.target.port}")]
        return [pair for pair in basic if pair[0] not in without] + list(extra)

    def request(self, stream=1, end=True, **what):
        """HEADERS of a request that is as it should be, but for what a case adds or leaves out."""
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.frame(HEADERS, flags, stream, block(self.fields(**what)))

    # What comes back.

    def next(self, until):
        """The next frame: its kind, flags, stream and payload."""
        while len(self.unread) < 9 or len(self.unread) < 9 + int.from_bytes(self.unread[:3], "big"):
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            try:
                some = self.socket.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                raise TimeoutError from None
            except OSError:
                raise Closed from None
            if not some:
                raise Closed
            self.unread += some
            if self.unread[:5] == b"HTTP/":
                raise Closed  # an answer of HTTP/1.1: the end, as far as HTTP/2 goes
        size = int.from_bytes(self.unread[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.unread[3:9])
        payload, self.unread = self.unread[9:9 + size], self.unread[9 + size:]
        if kind == SETTINGS and not flags & ACK:
            self.peer |= dict(struct.iter_unpack(">HI", payload))
            self.frame(SETTINGS, ACK, 0)
        elif kind in (HEADERS, CONTINUATION):
            # Every block has to be decoded, or the tables of both sides differ.
            skipped = payload[5:] if kind == HEADERS and flags & PRIORITIZED else payload
            self.fragments = skipped if kind == HEADERS else self.fragments + skipped
            if flags & END_HEADERS:
                payload = dict(self.decoder.decode(self.fragments, raw=True))
        return kind, flags, stream & 0x7FFFFFFF, payload

    def wait(self, what, wanted, patience=PATIENCE):
        """The first frame that `wanted` likes; a frame of which it raises ends the case."""
        until, seen = time.monotonic() + patience, []
        while True:
            try:
                got = self.next(until)
            except TimeoutError:
                raise Wrong(f"no {what}, but {', '.join(seen[-4:]) or 'nothing'}") from None
            except Closed:
                raise Wrong(f"no {what}, but {', '.join(seen[-4:] + ['the end'])}") from None
            if wanted(*got):
                return got
            seen.append(self.name(*got))

    @staticmethod
    def name(kind, flags, stream, payload):
        names = "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION".split()
        name = names[kind] if kind < len(names) else f"frame {kind}"
        if kind == HEADERS and isinstance(payload, dict):
            return f"{name} {payload.get(b':status', b'?').decode()}"
        if kind == RST_STREAM:
            return f"{name} {code(int.from_bytes(payload[:4], 'big'))}"
        if kind == GOAWAY:
            return f"{name} {code(int.from_bytes(payload[4:8], 'big'))}"
        return name

    def refuses(self, *codes, stream=None, answer=False):
        """An error: of the connection (GOAWAY, or its end), or of the stream (RST_STREAM; a 4xx if `answer`).

        PROTOCOL_ERROR is always right, since it is the general one (section 7).
        """
        codes = {PROTOCOL_ERROR, *codes}
        wanted = " or ".join(code(one) for one in sorted(codes))

        def judge(kind, flags, on, payload):
            if kind == GOAWAY:
                found = int.from_bytes(payload[4:8], "big")
            elif kind == RST_STREAM and on == stream:
                found = int.from_bytes(payload[:4], "big")
            elif answer and kind == HEADERS and on == stream and isinstance(payload, dict):
                if payload[b":status"].startswith((b"4", b"501")):
                    return True
                raise Wrong(f"answered with {payload[b':status'].decode()}")
            else:
                return False
            if found not in codes:
                raise Wrong(f"{code(found)} instead of {wanted}")
            return True

        try:
            self.wait(wanted, judge)
        except Wrong as wrong:
            if not str(wrong).endswith("the end"):
                raise

    def malformed(self, stream=1):
        """RFC 9113, section 8.1.1: a stream error, before which the server may answer with a status of its own."""
        self.refuses(stream=stream, answer=True)

    def answers(self, stream=1, status=b"200"):
        """A whole answer: its fields and its body."""
        body, fields = b"", {}

        def end(kind, flags, on, payload):
            nonlocal body, fields
            error = kind == GOAWAY and int.from_bytes(payload[4:8], "big") != NO_ERROR
            if error or (kind == RST_STREAM and on == stream):
                raise Wrong(self.name(kind, flags, on, payload))
            if on != stream:
                return False
            if kind == DATA:
                body += payload
            if kind == HEADERS and isinstance(payload, dict):
                fields = payload if b":status" in payload else fields
            return kind in (DATA, HEADERS) and flags & END_STREAM
        self.wait(f"answer on stream {stream}", end)
        if fields.get(b":status") != status:
            raise Wrong(f"status {fields.get(b':status')}")
        return fields, body

    def lives(self, data=b"outrigge"):
        """It answers a PING: the connection goes on."""
        def back(kind, flags, on, payload):
            if kind == GOAWAY:
                raise Wrong(self.name(kind, flags, on, payload))
            return kind == PING and flags & ACK and payload == data
        self.frame(PING, 0, 0, data)
        self.wait("answer to PING", back)

    def lives_or_ends(self):
        """Bounded: it goes on, or it says that this is too much."""
        try:
            self.frame(PING, 0, 0, b"stillon?")
            self.wait("end", lambda kind, flags, on, payload: kind == GOAWAY or (kind == PING and flags & ACK), 10)
        except Wrong as wrong:
            if not str(wrong).endswith("the end"):
                raise

    def close(self):
        self.socket.close()
