"""WebSockets over HTTP/2 (RFC 8441) against one server: websocket_http2.py HOST:PORT RESULT.json [--tls]

Behind it stands tests/it/real_clients/websocket.py, which gives every message back. The exit code is 1 if a case failed."""

import argparse
import json
import os
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

PATIENCE = 10
CASES = {}


def case(name):
    def keep(check):
        CASES[name] = check
        return check
    return keep


class Wrong(Exception):
    """The other side did not do what it should."""


class Tunnel:
    """One WebSocket on one stream."""

    def __init__(self, client, path="/", fields=(), protocol="websocket"):
        self.client, self.status, self.ended, self.events = client, None, False, []
        self.frames = Frames(ConnectionType.CLIENT)
        self.stream = client.http2.get_next_available_stream_id()
        client.tunnels[self.stream] = self
        client.http2.send_headers(self.stream, [
            (":method", "CONNECT"), (":protocol", protocol), (":scheme", client.scheme), (":path", path),
            (":authority", client.authority), ("sec-websocket-version", "13"), ("origin", "http://localhost"), *fields])
        self.fields = {}
        client.until("status", lambda: self.status is not None or self.ended)

    def open(self):
        if self.status != "200":
            raise Wrong(f"status {self.status}")
        return self

    def send(self, event):
        self.bytes(self.frames.send(event))

    def bytes(self, data):
        """As the windows of the stream and of the connection allow."""
        while data:
            room = min(self.client.http2.local_flow_control_window(self.stream), self.client.http2.max_outbound_frame_size)
            if room == 0:
                self.client.until("room", lambda: self.ended or self.client.http2.local_flow_control_window(self.stream))
                if self.ended:
                    raise Wrong("the stream ended while bytes were sent")
                continue
            self.client.http2.send_data(self.stream, data[:room])
            self.client.flush()
            data = data[room:]

    def event(self):
        self.client.until("message", lambda: self.events or self.ended)
        if not self.events:
            raise Wrong("the stream ended instead of a message")
        return self.events.pop(0)

    def message(self):
        whole = None
        while True:
            event = self.event()
            if not isinstance(event, (TextMessage, BytesMessage)):
                raise Wrong(f"{event} instead of a message")
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return bytes(whole) if isinstance(event, BytesMessage) else whole

    def echoes(self, message):
        self.send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))
        if (got := self.message()) != message:
            raise Wrong(f"{got!r:.100} came back instead of {message!r:.100}")


class Client:
    """One connection."""

    def __init__(self, host, port, tls):
        self.socket = socket.create_connection((host, port), PATIENCE)
        self.scheme, self.authority = ("https" if tls else "http"), f"{host}:{port}"
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http2.initiate_connection()
        self.tunnels, self.answers, self.closed = {}, {}, False
        settings = self.http2.remote_settings
        told = []
        self.told = told
        self.until("SETTINGS", lambda: told)
        if not settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL):
            raise Wrong("SETTINGS_ENABLE_CONNECT_PROTOCOL is not 1")

    def flush(self):
        self.socket.sendall(self.http2.data_to_send())

    def get(self, path="/"):
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, [(":method", "GET"), (":scheme", self.scheme), (":path", path),
                                         (":authority", self.authority)], end_stream=True)
        return stream

    def until(self, what, met):
        end = time.monotonic() + PATIENCE
        self.flush()
        while not met():
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise Wrong(f"no {what}") from None
            if not data:
                raise Wrong(f"the connection ended instead of {what}")
            for event in self.http2.receive_data(data):
                self.take(event)
            self.flush()

    def take(self, event):
        tunnel = self.tunnels.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.told.append(True)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.closed = True
        elif isinstance(event, h2.events.ResponseReceived):
            fields = dict(event.headers)
            if tunnel:
                tunnel.status, tunnel.fields = fields[":status"], fields
            else:
                self.answers[event.stream_id] = fields[":status"]
        elif isinstance(event, h2.events.DataReceived):
            self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if tunnel and tunnel.status == "200" and event.data:
                tunnel.frames.receive_data(event.data)
                tunnel.events += tunnel.frames.events()
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and tunnel:
            tunnel.ended = True
            tunnel.reset = isinstance(event, h2.events.StreamReset)


@case("a text comes back")
def _(client):
    Tunnel(client).open().echoes("grüß dich")


for size in (0, 125, 126, 65535, 65536, 1 << 20):
    @case(f"{size} bytes come back")
    def _(client, size=size):
        Tunnel(client).open().echoes(os.urandom(size))


@case("a message in three frames comes back whole")
def _(client):
    tunnel = Tunnel(client).open()
    for part, last in (("in ", False), ("three ", False), ("parts", True)):
        tunnel.send(TextMessage(part, message_finished=last))
    if (got := tunnel.message()) != "in three parts":
        raise Wrong(got)


@case("a frame in single bytes comes back")
def _(client):
    tunnel = Tunnel(client).open()
    for byte in tunnel.frames.send(TextMessage("slowly")):
        tunnel.bytes(bytes([byte]))
    if (got := tunnel.message()) != "slowly":
        raise Wrong(got)


@case("100 messages one after the other")
def _(client):
    tunnel = Tunnel(client).open()
    for turn in range(100):
        tunnel.echoes(f"message {turn}")


@case("a ping is answered amid a message in parts")
def _(client):
    tunnel = Tunnel(client).open()
    tunnel.send(TextMessage("one ", message_finished=False))
    tunnel.send(Ping(b"there?"))
    event = tunnel.event()
    if not isinstance(event, Pong) or event.payload != b"there?":
        raise Wrong(str(event))
    tunnel.send(TextMessage("two"))
    if (got := tunnel.message()) != "one two":
        raise Wrong(got)


@case("a close is answered, and the stream ends")
def _(client):
    tunnel = Tunnel(client).open()
    tunnel.echoes("before")
    tunnel.send(CloseConnection(1000, "enough"))
    event = tunnel.event()
    if not isinstance(event, CloseConnection) or event.code != 1000:
        raise Wrong(str(event))
    client.until("end of the stream", lambda: tunnel.ended)


@case("an error of the WebSocket protocol closes it with 1002")
def _(client):
    tunnel = Tunnel(client).open()
    tunnel.bytes(b"\xf1\x80\0\0\0\0")  # reserved bits
    event = tunnel.event()
    if not isinstance(event, CloseConnection) or event.code != 1002:
        raise Wrong(str(event))


@case("30 WebSockets beside 30 requests on one connection")
def _(client):
    asked = [client.get() for _ in range(30)]
    tunnels = [Tunnel(client).open() for _ in range(30)]
    for turn, tunnel in enumerate(tunnels):
        tunnel.send(TextMessage(f"number {turn}"))
    for turn, tunnel in enumerate(tunnels):
        if (got := tunnel.message()) != f"number {turn}":
            raise Wrong(got)
    client.until("answers", lambda: all(stream in client.answers for stream in asked))


@case("a WebSocket that is reset leaves the others alone")
def _(client):
    one, two = Tunnel(client).open(), Tunnel(client).open()
    client.http2.reset_stream(one.stream, 8)
    client.flush()
    two.echoes("still here")


@case("no field of HTTP/1.1 comes with the answer")
def _(client):
    tunnel = Tunnel(client).open()
    for name in ("connection", "upgrade", "sec-websocket-accept", "transfer-encoding"):
        if name in tunnel.fields:
            raise Wrong(f"{name}: {tunnel.fields[name]}")


@case("another :protocol is refused")
def _(client):
    tunnel = Tunnel(client, protocol="carrier-pigeon")
    if tunnel.status == "200":
        raise Wrong("status 200")


@case("the refusal of who does not speak WebSocket comes through")
def _(client):
    tunnel = Tunnel(client, path="/refused")
    if tunnel.status is None or not tunnel.status.startswith(("4", "5")):
        raise Wrong(f"status {tunnel.status}")


def run(options, check):
    host, _, port = options.address.rpartition(":")
    client = None
    try:
        client = Client(host, int(port), options.tls)
        check(client)
        return "passed"
    except Wrong as why:
        return f"failed: {why}"
    except Exception as why:  # a case that cannot be judged is not passed
        return f"failed: {type(why).__name__}: {why}"
    finally:
        if client:
            client.socket.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("result")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    results = {name: run(options, check) for name, check in CASES.items()}
    with open(options.result, "w") as file:
        json.dump(results, file, indent=1)
    wrong = {name: result for name, result in results.items() if result != "passed"}
    for name, result in wrong.items():
        print(f"{name}: {result}")
    print(len(results), "cases,", len(wrong), "failed")
    sys.exit(bool(wrong))


main()
