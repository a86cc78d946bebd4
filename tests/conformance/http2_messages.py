"""What a server does with requests: RFC 9113, section 8, and header compression: RFC 7541. Each case is one connection."""

from http2_frames import CASES, case
from http2_wire import *


def malformed(name, section="8.2.1", **what):
    @case(section, name)
    def _(c):
        c.begin()
        c.request(**what)
        c.malformed()


# Section 8.1: messages.

for method, path, body in (("GET", "/", b"one"), ("HEAD", "/length", b""), ("POST", "/", b"one")):
    @case("8.1", f"{method} is answered")
    def _(c, method=method, path=path, body=body):
        c.begin()
        c.request(method=method, path=path)
        fields, got = c.answers()
        if got != body or b"connection" in fields or b"transfer-encoding" in fields:
            raise Wrong(f"{got!r} and {fields}")


@case("8.1", "100 requests on one connection")
def _(c):
    c.begin()
    for turn in range(100):
        c.request(2 * turn + 1)
        c.answers(2 * turn + 1)


@case("8.1", "a request with trailers")
def _(c):
    c.begin()
    c.request(method="POST", path="/echo", end=False)
    c.frame(DATA, 0, 1, b"hello")
    c.frame(HEADERS, END_STREAM | END_HEADERS, 1, block([("x-sent", "a trailer")]))
    if c.answers()[1] != b"hello":
        raise Wrong("other bytes came back")


@case("8.1", "trailers without END_STREAM")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(DATA, 0, 1, b"hello")
    c.frame(HEADERS, END_HEADERS, 1, block([("x-sent", "a trailer")]))
    c.malformed()


@case("8.1", "a pseudo-field in trailers")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(DATA, 0, 1, b"hello")
    c.frame(HEADERS, END_STREAM | END_HEADERS, 1, block([(":method", "GET")]))
    c.malformed()


def length(name, value, *parts, declared=1):
    @case("8.1.1", name)
    def _(c):
        c.begin()
        c.request(method="POST", path="/echo", end=not parts, extra=[("content-length", value)] * declared)
        for turn, part in enumerate(parts, 1):
            c.frame(DATA, END_STREAM if turn == len(parts) else 0, 1, part)
        c.malformed()


length("content-length above the bytes of one DATA", "10", b"hello")
length("content-length below the bytes of one DATA", "3", b"hello")
length("content-length above the bytes of two DATA", "20", b"hello", b"hello")
length("content-length below the bytes of two DATA", "7", b"hello", b"hello")
length("content-length without a body", "5")
length("content-length that is no number", "5a", b"hello")
length("content-length with a sign", "+5", b"hello")

# Section 8.2: fields.

malformed("an upper-case name", extra=[("X-Upper", "1")])
malformed("an empty name", extra=[("", "1")])
malformed("a space in a name", extra=[("x y", "1")])
malformed("a colon in a name", extra=[("x:y", "1")])
malformed("a control character in a name", extra=[("x\x01", "1")])
malformed("a line end in a name", extra=[("x\r\ny", "1")])
for name, character in (("CR", "\r"), ("LF", "\n"), ("NUL", "\0")):
    malformed(f"{name} in a value", extra=[("x-value", f"a{character}b")])
malformed("a second request in a value", extra=[("x-value", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")])
malformed("a space before a value", extra=[("x-value", " a")])
malformed("a space after a value", extra=[("x-value", "a ")])
for name, value in (("connection", "close"), ("keep-alive", "timeout=5"), ("proxy-connection", "close"),
                    ("transfer-encoding", "chunked"), ("upgrade", "websocket"), ("te", "gzip"),
                    ("te", "trailers, deflate")):
    malformed(f"the field {name}: {value}", "8.2.2", extra=[(name, value)])


@case("8.2.2", "the field te: trailers is allowed")
def _(c):
    c.begin()
    c.request(extra=[("te", "trailers")])
    c.answers()


@case("8.2.3", "cookies in several lines are one at the instance")
def _(c):
    c.begin()
    c.request(path="/fields", extra=[("cookie", "a=1"), ("cookie", "b=2")])
    body = c.answers()[1]
    if b'"cookie":"a=1; b=2"' not in body:
        raise Wrong(repr(body))


# Section 8.3: pseudo-fields.

malformed("a pseudo-field after a field", "8.3", extra=[("x-value", "a"), (":path", "/")], without=[":path"])
malformed("an unknown pseudo-field", "8.3", extra=[(":unknown", "a")])
malformed("a pseudo-field of answers", "8.3", extra=[(":status", "200")])
for name, value in ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")):
    malformed(f"{name} twice", "8.3.1", extra=[(name, value)])
for name in (":method", ":scheme", ":path"):
    malformed(f"no {name}", "8.3.1", without=[name])
malformed("an empty :path", "8.3.1", path="")
malformed(":path without a slash", "8.3.1", path="silent")
malformed(":path with a space", "8.3.1", path="/ HTTP/1.1")
malformed(":path with a line end", "8.3.1", path="/ HTTP/1.1\r\nx: y\r\n\r\n")
malformed(":method with a space", "8.3.1", method="GET /silent")
malformed(":method with a line end", "8.3.1", method="GET / HTTP/1.1\r\nx: y\r\n\r\nGET")
malformed(":scheme with a line end", "8.3.1", without=[":scheme"], extra=[(":scheme", "http\r\nx: y")])
malformed(":authority with userinfo", "8.3.1", without=[":authority"], extra=[(":authority", "me:secret@localhost")])
malformed(":authority with a line end", "8.3.1", without=[":authority"], extra=[(":authority", "a\r\nx: y")])
malformed(":authority and another host", "8.3.1", extra=[("host", "elsewhere")])


@case("8.3.1", "host instead of :authority")
def _(c):
    c.begin()
    c.request(path="/fields", without=[":authority"], extra=[("host", "orders.internal")])
    body = c.answers()[1]
    if b"orders.internal" not in body:
        raise Wrong(repr(body))


@case("8.3.1", "OPTIONS *")
def _(c):
    c.begin()
    c.request(method="OPTIONS", path="*")
    c.wait("answer", lambda kind, flags, on, payload: kind == HEADERS)


@case("8.5", "CONNECT with :scheme and :path, but no :protocol")
def _(c):
    c.begin()
    c.request(method="CONNECT")
    c.malformed()


@case("8.5", "CONNECT is refused")
def _(c):
    c.begin()
    c.request(method="CONNECT", without=[":scheme", ":path"], end=False)
    c.refuses(CONNECT_ERROR, REFUSED_STREAM, CANCEL, stream=1, answer=True)


# RFC 7541: header compression.

def undecodable(section, name, bad, at_the_end=True):
    @case(f"HPACK {section}", name)
    def _(c):
        c.begin()
        fields = block(c.fields())
        c.frame(HEADERS, END_STREAM | END_HEADERS, 1, fields + bad if at_the_end else bad + fields)
        c.refuses(COMPRESSION_ERROR)


@case("HPACK 2.3", "static, dynamic and Huffman-coded fields")
def _(c):
    c.begin()
    encoder = hpack.Encoder()
    for stream in (1, 3, 5):  # the second and the third time from the dynamic table
        fields = c.fields(path="/fields", extra=[("x-dynamic", "the value")])
        c.frame(HEADERS, END_STREAM | END_HEADERS, stream, encoder.encode(fields))
        body = c.answers(stream)[1]
        if b'"x-dynamic":"the value"' not in body:
            raise Wrong(repr(body))


@case("HPACK 4.2", "a smaller table that the client asked for")
def _(c):
    c.begin()
    c.frame(HEADERS, END_STREAM | END_HEADERS, 1, number(0, 5, 0x20) + block(c.fields()))
    c.answers()


undecodable("2.3.3", "an index beyond the tables", number(90, 7, 0x80))
undecodable("2.3.3", "a name's index beyond the tables", number(90, 4) + text("a"))
undecodable("4.2", "a change of the table's size amid a block", number(0, 5, 0x20))
undecodable("6.3", "a table larger than allowed", number(1 << 20, 5, 0x20), at_the_end=False)
undecodable("5.1", "a number without an end", b"\xff" + b"\x80" * 12 + b"\x01")
undecodable("5.2", "Huffman padding of more than 7 bits", b"\x00\x01x\x82\x1f\xff")
undecodable("5.2", "Huffman padding of zeros", b"\x00\x01x\x81\x18")
undecodable("5.2", "Huffman-coded EOS", b"\x00\x01x\x84\xff\xff\xff\xff")
undecodable("6.1", "index 0", b"\x80")
undecodable("5.2", "a string longer than the block", b"\x00\x01x\x7e" + b"a")
