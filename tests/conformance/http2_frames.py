"""What a server does with frames: RFC 9113, sections 3 to 7. Each case is one connection."""

from http2_wire import *

CASES = []
LARGEST = 16384


def case(section, name):
    def keep(check):
        CASES.append((section, name, check))
        return check
    return keep


def table(section, rows):
    """Cases that differ only in what they send, and in the error that is due."""
    for name, payload, wanted in rows:
        def check(c, payload=payload, wanted=wanted):
            c.begin()
            c.send(payload)
            c.refuses(*wanted)
        CASES.append((section, name, check))


# Section 3.4: the preface.

@case("3.4", "the first frame is SETTINGS")
def _(c):
    c.send(PREFACE + frame(SETTINGS, 0, 0))
    first = c.wait("frame", lambda *_: True)
    if first[0] != SETTINGS or first[1] & ACK:
        raise Wrong(c.name(*first))


@case("3.4", "a preface in single bytes")
def _(c):
    for at in range(len(PREFACE)):
        c.send(PREFACE[at:at + 1])
        time.sleep(0.001)
    c.frame(SETTINGS, 0, 0)
    c.lives()


@case("3.4", "an invalid preface")
def _(c):
    c.send(b"INVALID CONNECTION PREFACE\r\n\r\n" + frame(SETTINGS, 0, 0))
    c.refuses()


@case("3.4", "a preface that is spoilt at its end")
def _(c):
    c.send(PREFACE[:-4] + b"X\r\n\r\n" + frame(SETTINGS, 0, 0))
    c.refuses()


@case("3.4", "another frame than SETTINGS first")
def _(c):
    c.send(PREFACE + frame(PING, 0, 0, b"notfirst"))
    c.refuses()


# Section 4: frames and header blocks.

@case("4.1", "an unknown kind of frame is ignored")
def _(c):
    c.begin()
    c.frame(0x16, 0xFF, 0, b"whatever")
    c.lives()


@case("4.1", "unknown flags are ignored")
def _(c):
    c.begin()
    c.frame(PING, 0x16, 0, b"flagsflg")
    c.wait("answer to PING", lambda kind, flags, on, payload: kind == PING and payload == b"flagsflg")


@case("4.1", "the reserved bit is ignored")
def _(c):
    c.begin()
    c.frame(PING, 0, 1 << 31, b"reserved")
    c.wait("answer to PING", lambda kind, flags, on, payload: kind == PING and payload == b"reserved")


@case("4.2", "DATA of the largest size")
def _(c):
    c.begin()
    c.request(method="POST", end=False)
    c.frame(DATA, END_STREAM, 1, b"x" * LARGEST)
    c.answers()


@case("4.2", "DATA larger than allowed")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(DATA, END_STREAM, 1, b"x" * (c.peer.get(MAX_FRAME_SIZE, LARGEST) + 1))
    c.refuses(FRAME_SIZE_ERROR, stream=1)


@case("4.2", "HEADERS larger than allowed")
def _(c):
    c.begin()
    padding = [("x-padding", "x" * (c.peer.get(MAX_FRAME_SIZE, LARGEST) + 1))]
    c.request(extra=padding)
    c.refuses(FRAME_SIZE_ERROR)


@case("4.3", "a header block that cannot be decoded")
def _(c):
    c.begin()
    c.frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
    c.refuses(COMPRESSION_ERROR)


def amid_a_block(name, kind, stream, payload):
    @case("4.3", f"{name} amid a header block")
    def _(c):
        c.begin()
        c.frame(HEADERS, END_STREAM, 1, block(c.fields()))
        c.frame(kind, 0, stream, payload)
        c.refuses()


amid_a_block("PRIORITY", PRIORITY, 1, b"\0\0\0\0\x10")
amid_a_block("HEADERS of another stream", HEADERS, 3, b"")
amid_a_block("CONTINUATION of another stream", CONTINUATION, 3, b"")
amid_a_block("an unknown kind of frame", 0x16, 1, b"")
amid_a_block("DATA", DATA, 1, b"")
amid_a_block("PING", PING, 0, b"notfirst")

# Section 5.1: states of streams.

table("5.1", [
    ("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), [STREAM_CLOSED]),
    ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, b"\0\0\0\x08"), []),
    ("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x64"), []),
    ("CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, b""), []),
])


def more(c, kind, stream=1):
    if kind == DATA:
        c.frame(DATA, END_STREAM, stream, b"more")
    elif kind == HEADERS:
        c.request(stream)
    else:
        c.frame(CONTINUATION, END_HEADERS, stream, block([("x-more", "1")]))
    c.refuses(STREAM_CLOSED, stream=stream)


for kind, kind_name in ((DATA, "DATA"), (HEADERS, "HEADERS"), (CONTINUATION, "CONTINUATION")):
    @case("5.1", f"{kind_name} after END_STREAM")
    def _(c, kind=kind):
        c.begin()
        c.request(path="/silent")
        more(c, kind)

    @case("5.1", f"{kind_name} after RST_STREAM")
    def _(c, kind=kind):
        c.begin()
        c.request(method="POST", path="/silent", end=False)
        c.frame(RST_STREAM, 0, 1, b"\0\0\0\x08")
        more(c, kind)

    @case("5.1", f"{kind_name} after the answer's end")
    def _(c, kind=kind):
        c.begin()
        c.request()
        c.answers()
        more(c, kind)


@case("5.1", "WINDOW_UPDATE, PRIORITY and RST_STREAM on a closed stream are ignored")
def _(c):
    c.begin()
    c.request()
    c.answers()
    c.frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x64")
    c.frame(PRIORITY, 0, 1, b"\0\0\0\0\x10")
    c.frame(RST_STREAM, 0, 1, b"\0\0\0\x08")
    c.lives()


@case("5.1.1", "a stream with an even number")
def _(c):
    c.begin()
    c.request(2)
    c.refuses()


@case("5.1.1", "a stream with a lower number than the last")
def _(c):
    c.begin()
    c.request(5)
    c.answers(5)
    c.request(3)
    c.refuses(STREAM_CLOSED)


@case("5.1.2", "more streams at once than allowed")
def _(c):
    c.begin()
    most = c.peer.get(MAX_CONCURRENT_STREAMS, 1 << 31)
    if most > 1000:
        raise Skip("it allows more than 1000")
    for turn in range(most + 1):
        c.request(2 * turn + 1, path="/silent")
    c.refuses(REFUSED_STREAM, stream=2 * most + 1)


@case("5.4.1", "a connection ends after its error")
def _(c):
    c.begin()
    c.frame(PING, 0, 1, b"onstream")
    c.refuses()
    try:
        c.wait("end", lambda *_: False)
    except Wrong as wrong:
        if not str(wrong).endswith("the end"):
            raise


# Section 6: the kinds of frame.

table("6.1", [("DATA on stream 0", frame(DATA, END_STREAM, 0, b"x"), [])])


@case("6.1", "DATA with padding")
def _(c):
    c.begin()
    c.request(method="POST", path="/echo", end=False)
    c.frame(DATA, END_STREAM | PADDED, 1, b"\x06hello" + b"\0" * 6)
    if c.answers()[1] != b"hello":
        raise Wrong("other bytes came back")


@case("6.1", "DATA with more padding than there is")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(DATA, END_STREAM | PADDED, 1, b"\x06hello")
    c.refuses(stream=1)


@case("6.2", "HEADERS on stream 0")
def _(c):
    c.begin()
    c.request(0)
    c.refuses()


@case("6.2", "HEADERS with more padding than there is")
def _(c):
    c.begin()
    fields = block(c.fields())
    c.frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, bytes([255]) + fields[:100])
    c.refuses()


@case("6.2", "HEADERS with padding and priority")
def _(c):
    c.begin()
    payload = b"\x04" + b"\0\0\0\0\x10" + block(c.fields()) + b"\0" * 4
    c.frame(HEADERS, END_STREAM | END_HEADERS | PADDED | PRIORITIZED, 1, payload)
    c.answers()


table("6.3", [("PRIORITY on stream 0", frame(PRIORITY, 0, 0, b"\0\0\0\0\x10"), [])])


@case("6.3", "PRIORITY of another length")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(PRIORITY, 0, 1, b"\0\0\0\0")
    c.refuses(FRAME_SIZE_ERROR, stream=1)


@case("6.3", "PRIORITY on an idle stream is ignored")
def _(c):
    c.begin()
    c.frame(PRIORITY, 0, 7, b"\0\0\0\0\x10")
    c.lives()


table("6.4", [("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, b"\0\0\0\x08"), [])])


@case("6.4", "RST_STREAM of another length")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(RST_STREAM, 0, 1, b"\0\0\0")
    c.refuses(FRAME_SIZE_ERROR)


@case("6.4", "RST_STREAM with an unknown code")
def _(c):
    c.begin()
    c.request(path="/silent")
    c.frame(RST_STREAM, 0, 1, b"\0\0\0\xff")
    c.lives()


table("6.5", [
    ("an acknowledgement with a payload", frame(SETTINGS, ACK, 0, settings((1, 1))), [FRAME_SIZE_ERROR]),
    ("SETTINGS on a stream", frame(SETTINGS, 0, 1, settings((3, 100))), []),
    ("SETTINGS of a length that is no multiple of 6", frame(SETTINGS, 0, 0, b"\0\3\0"), [FRAME_SIZE_ERROR]),
    ("ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, settings((ENABLE_PUSH, 2))), []),
    ("INITIAL_WINDOW_SIZE above 2^31-1", frame(SETTINGS, 0, 0, settings((INITIAL_WINDOW_SIZE, 1 << 31))),
     [FLOW_CONTROL_ERROR]),
    ("MAX_FRAME_SIZE below 16384", frame(SETTINGS, 0, 0, settings((MAX_FRAME_SIZE, 16383))), []),
    ("MAX_FRAME_SIZE above 2^24-1", frame(SETTINGS, 0, 0, settings((MAX_FRAME_SIZE, 1 << 24))), []),
])


@case("6.5", "SETTINGS are acknowledged, unknown ones too")
def _(c):
    c.begin()
    c.frame(SETTINGS, 0, 0, settings((0xFF, 1), (HEADER_TABLE_SIZE, 100)))
    for _ in range(2):  # those of the preface, and these
        c.wait("acknowledgement", lambda kind, flags, *_: kind == SETTINGS and flags & ACK)
    c.request()
    c.answers()


table("6.6", [("PUSH_PROMISE from a client", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), [])])


@case("6.7", "PING is answered with the same bytes")
def _(c):
    c.begin()
    c.lives(bytes(range(200, 208)))


@case("6.7", "an answer to PING is not answered")
def _(c):
    c.begin()
    c.frame(PING, ACK, 0, b"unasked!")
    c.frame(PING, 0, 0, b"question")
    got = c.wait("answer to PING", lambda kind, *_: kind == PING)
    if got[3] != b"question":
        raise Wrong(f"{got[3]!r} came back")


table("6.7", [
    ("PING on a stream", frame(PING, 0, 1, b"onstream"), []),
    ("PING of another length", frame(PING, 0, 0, b"short"), [FRAME_SIZE_ERROR]),
])
table("6.8", [("GOAWAY on a stream", frame(GOAWAY, 0, 1, b"\0" * 8), [])])


@case("6.8", "a running stream is finished after the client's GOAWAY")
def _(c):
    c.begin()
    c.request(path="/hints")
    c.frame(GOAWAY, 0, 0, b"\0" * 8)
    c.answers()


table("6.9", [
    ("WINDOW_UPDATE of 0 for the connection", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), []),
    ("WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), [FRAME_SIZE_ERROR]),
])


@case("6.9", "WINDOW_UPDATE of 0 for a stream")
def _(c):
    c.begin()
    c.request(path="/silent")
    c.frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\0")
    c.refuses(stream=1)


def data(c, patience=PATIENCE):
    return c.wait("DATA", lambda kind, flags, on, payload: kind == DATA and payload != b"", patience)


@case("6.9.1", "no more than the window allows is sent")
def _(c):
    c.begin((INITIAL_WINDOW_SIZE, 1))
    c.request()
    if len(data(c)[3]) != 1:
        raise Wrong("more than one byte")
    try:
        data(c, 0.3)
    except Wrong:
        c.frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
        if len(data(c)[3]) == 1:
            return
    raise Wrong("more than the window allows")


@case("6.9.1", "a window of the connection above 2^31-1")
def _(c):
    c.begin()
    c.frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")
    c.frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")
    c.refuses(FLOW_CONTROL_ERROR)


@case("6.9.1", "a window of a stream above 2^31-1")
def _(c):
    c.begin()
    c.request(path="/silent")
    c.frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")
    c.frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")
    c.refuses(FLOW_CONTROL_ERROR, stream=1)


@case("6.9.2", "a changed INITIAL_WINDOW_SIZE is for running streams, too")
def _(c):
    c.begin((INITIAL_WINDOW_SIZE, 0))
    c.request()
    c.wait("HEADERS", lambda kind, *_: kind == HEADERS)
    c.frame(SETTINGS, 0, 0, settings((INITIAL_WINDOW_SIZE, 1)))
    if len(data(c)[3]) != 1:
        raise Wrong("more than one byte")


@case("6.9.2", "a window below 0")
def _(c):
    c.begin((INITIAL_WINDOW_SIZE, 2))
    c.request()
    data(c)
    c.frame(SETTINGS, 0, 0, settings((INITIAL_WINDOW_SIZE, 0)))
    c.frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\2")
    try:
        data(c, 0.3)
    except Wrong:
        c.frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
        if len(data(c)[3]) == 1:
            return
    raise Wrong("more than the window allows")


@case("6.9.2", "an INITIAL_WINDOW_SIZE that lifts a running stream's window above 2^31-1")
def _(c):
    c.begin()
    c.request(path="/silent")
    c.frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\0\0")
    c.frame(SETTINGS, 0, 0, settings((INITIAL_WINDOW_SIZE, 0x7FFFFFFF)))
    c.refuses(FLOW_CONTROL_ERROR)


@case("6.10", "a header block in pieces")
def _(c):
    c.begin()
    fields = block(c.fields())
    c.frame(HEADERS, END_STREAM, 1, fields[:1])
    c.frame(CONTINUATION, 0, 1, fields[1:20])
    c.frame(CONTINUATION, 0, 1)
    c.frame(CONTINUATION, END_HEADERS, 1, fields[20:])
    c.answers()


@case("6.10", "CONTINUATION after END_HEADERS")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(CONTINUATION, END_HEADERS, 1, block([("x-more", "1")]))
    c.refuses()


@case("6.10", "CONTINUATION after DATA")
def _(c):
    c.begin()
    c.request(method="POST", path="/silent", end=False)
    c.frame(DATA, 0, 1, b"x")
    c.frame(CONTINUATION, END_HEADERS, 1, block([("x-more", "1")]))
    c.refuses()


@case("6.10", "CONTINUATION on stream 0")
def _(c):
    c.begin()
    c.frame(HEADERS, END_STREAM, 1, block(c.fields()))
    c.frame(CONTINUATION, END_HEADERS, 0, b"")
    c.refuses()


# Section 10.5: denial of service. What is asked is only that it ends, and does not fall silent.

@case("10.5", "a header block without an end")
def _(c):
    c.begin()
    c.frame(HEADERS, END_STREAM, 1, block(c.fields()))
    for _ in range(200):
        c.send(frame(CONTINUATION, 0, 1, literal("x-more", "x" * 1000)) * 50)
    c.refuses(ENHANCE_YOUR_CALM, COMPRESSION_ERROR, INTERNAL_ERROR, stream=1, answer=True)


@case("10.5", "empty CONTINUATION without an end")
def _(c):
    c.begin()
    c.frame(HEADERS, END_STREAM, 1, block(c.fields()))
    for _ in range(100):
        c.send(frame(CONTINUATION, 0, 1) * 1000)
    c.refuses(ENHANCE_YOUR_CALM, COMPRESSION_ERROR, INTERNAL_ERROR, stream=1, answer=True)


@case("10.5", "5000 streams that are reset at once")
def _(c):
    c.begin()
    for first in range(0, 5000, 100):
        c.send(b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * turn + 1, block(c.fields(path="/silent"))) +
                        frame(RST_STREAM, 0, 2 * turn + 1, b"\0\0\0\x08") for turn in range(first, first + 100)))
    c.lives_or_ends()


@case("10.5", "20000 SETTINGS")
def _(c):
    c.begin()
    for _ in range(20):
        c.send(frame(SETTINGS, 0, 0, settings((3, 100))) * 1000)
        try:
            while True:
                c.next(time.monotonic() + 0.001)
        except TimeoutError:
            continue
        except Closed:
            return
    c.lives_or_ends()
