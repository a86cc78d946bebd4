"""gRPC calls through a proxy, each case one function. grpc_client.py [--ca FILE] ADDRESS CASE..."""

import collections
import json
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Code = grpc.StatusCode
LIMIT = 15  # seconds: no call may take longer


class Calls:
    """The methods of grpc_server.py on one channel, which is one connection."""

    def __init__(self, address, ca=None):
        options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
        options += [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 64 << 20)]
        if ca:
            self.channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(open(ca, "rb").read()), options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        self.unary = self.channel.unary_unary("/test.Echo/Unary")
        self.download = self.channel.unary_stream("/test.Echo/Download")
        self.upload = self.channel.stream_unary("/test.Echo/Upload")
        self.chat = self.channel.stream_stream("/test.Echo/Chat")
        self.fail = self.channel.unary_unary("/test.Echo/Fail")
        self.fail_late = self.channel.unary_stream("/test.Echo/FailLate")
        self.sleep = self.channel.unary_stream("/test.Echo/Sleep")
        self.missing = self.channel.unary_unary("/test.Echo/Missing")
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def seen(self):
        return json.loads(self.channel.unary_unary("/test.Echo/Seen")(b"", timeout=LIMIT))


def error(call):
    """The error that a call ends with."""
    try:
        result = call()
        result = result if isinstance(result, bytes) else list(result)
    except grpc.RpcError as wrong:
        return wrong
    raise AssertionError(f"no error, but {result!r}")


def equal(got, wanted):
    assert got == wanted, f"{got!r:.300} instead of {wanted!r:.300}"


def trailers(call):
    return {key: value for key, value in call.trailing_metadata() if key.startswith("x-")}


def kinds(calls):
    """All four kinds of call; a chat is in both directions at once."""
    equal(calls.unary(b"hello", timeout=LIMIT), b"hello")
    equal(calls.unary(b"", timeout=LIMIT), b"")
    large = bytes(range(256)) * (12 << 10)
    equal(calls.unary(large, timeout=LIMIT), large)
    got = list(calls.download(b"200 1000", timeout=LIMIT))
    equal(got, [bytes([number]) * 1000 for number in range(200)])
    equal(len(list(calls.download(b"40 300000", timeout=LIMIT))), 40)
    equal(calls.upload((b"x" * 10_000 for _ in range(300)), timeout=LIMIT), b"300 3000000")
    equal(calls.upload(iter(()), timeout=LIMIT), b"0 0")
    answered = threading.Semaphore(0)

    def turns():
        for turn in range(50):
            yield b"%d" % turn
            assert answered.acquire(timeout=LIMIT), "the answer does not come before the next question"

    heard = []
    for answer in calls.chat(turns(), timeout=LIMIT):
        heard.append(answer)
        answered.release()
    equal(heard, [b"you said %d" % turn for turn in range(50)])
    equal(list(calls.chat(iter(()), timeout=LIMIT)), [])


def metadata(calls):
    """30 KB of it there, and back as trailers; binary values, too."""
    sent = {"x-echo-long": "v" * 20_000, "x-echo-bin": bytes(range(256))}
    sent |= {f"x-echo-{number}": str(number) * 100 for number in range(50)}
    _, call = calls.unary.with_call(b"", metadata=tuple(sent.items()), timeout=LIMIT)
    equal(trailers(call), sent)
    assert dict(call.initial_metadata())["x-instance"]


def errors(calls):
    """Codes, messages and metadata of errors, with and without messages before."""
    wrong = error(lambda: calls.fail("nicht möglich: 100 %\n".encode(), timeout=LIMIT))
    equal((wrong.code(), wrong.details()), (Code.FAILED_PRECONDITION, "nicht möglich: 100 %\n"))
    equal(trailers(wrong), {"x-why": "because", "x-why-bin": b"\x00\xff"})
    stream, got = calls.fail_late(b"too late", timeout=LIMIT, metadata=(("x-echo", "still here"),)), []
    wrong = error(lambda: got.extend(stream))
    equal((got, wrong.code(), wrong.details()), ([b"one", b"two"], Code.DATA_LOSS, "too late"))
    equal(trailers(wrong), {"x-echo": "still here"})
    equal(error(lambda: calls.missing(b"", timeout=LIMIT)).code(), Code.UNIMPLEMENTED)


def cancelled(calls, before):
    end = time.monotonic() + 5
    while calls.seen()["cancelled"] == before:
        assert time.monotonic() < end, "the server goes on"
        time.sleep(0.02)


def deadlines(calls):
    """The server learns the deadline, and that it has passed."""
    before, began = calls.seen()["cancelled"], time.monotonic()
    equal(error(lambda: calls.sleep(b"", timeout=1)).code(), Code.DEADLINE_EXCEEDED)
    took = time.monotonic() - began
    assert 0.8 < took < 3, took
    cancelled(calls, before)
    remaining = calls.seen()["remaining"]
    assert 0 < remaining < 1.1, remaining  # its clock is coarse


def cancellation(calls):
    """A call that is given up ends at the server; others on the connection go on."""
    before = calls.seen()["cancelled"]
    sleeping = [calls.sleep(b"") for _ in range(3)]
    equal([next(one) for one in sleeping], [b"asleep"] * 3)
    sleeping[1].cancel()
    cancelled(calls, before)
    equal(calls.seen()["cancelled"], before + 1)
    equal(error(lambda: sleeping[1]).code(), Code.CANCELLED)
    assert sleeping[0].is_active() and sleeping[2].is_active()
    sleeping[0].cancel()
    sleeping[2].cancel()


def spread(calls, count=300):
    """Calls at once on one channel: each instance answers its part."""
    began = [calls.unary.future(b"%d" % number, timeout=LIMIT) for number in range(count)]
    equal([one.result() for one in began], [b"%d" % number for number in range(count)])
    share = collections.Counter(dict(one.initial_metadata())["x-instance"] for one in began)
    print("spread", dict(share))
    for instance in ("one", "two", "three"):
        assert abs(share[instance] - count / 3) <= count / 30, share


def works(calls):
    """Sixty calls, one after the other, and none fails."""
    share = collections.Counter()
    for number in range(60):
        answer, call = calls.unary.with_call(b"%d" % number, timeout=LIMIT)
        equal(answer, b"%d" % number)
        share[dict(call.initial_metadata())["x-instance"]] += 1
    print("works", dict(share))
    assert len(share) >= 2, share


def serves(calls):
    """None of twenty calls fails."""
    for number in range(20):
        equal(calls.unary(b"%d" % number, timeout=LIMIT), b"%d" % number)


def steady(calls, threads=8, seconds=3):
    """Calls for three seconds; at most those fail that were at an instance when it was killed."""
    lock, results, wrong = threading.Lock(), collections.Counter(), []
    end = time.monotonic() + seconds

    def call():
        while time.monotonic() < end:
            try:
                calls.unary(b"x", timeout=LIMIT)
                outcome = "OK"
            except grpc.RpcError as why:
                outcome = why.code().name
                wrong.append(str(why))
            with lock:
                results[outcome] += 1

    running = [threading.Thread(target=call) for _ in range(threads)]
    [one.start() for one in running]
    [one.join() for one in running]
    print("steady", dict(results))
    failed = sum(results.values()) - results["OK"]
    assert results["OK"] > 100 and failed <= threads and set(results) <= {"OK", "UNAVAILABLE"}, (results, wrong[:3])


def health(calls):
    """The health service itself through the proxy: one question, a watch, an unknown name."""
    ask = health_pb2.HealthCheckRequest
    serving = health_pb2.HealthCheckResponse.SERVING
    equal(calls.health.Check(ask(service="test.Echo"), timeout=LIMIT).status, serving)
    watch = calls.health.Watch(ask(service=""), timeout=LIMIT)
    equal(next(watch).status, serving)
    watch.cancel()
    equal(error(lambda: [calls.health.Check(ask(service="no"), timeout=LIMIT)]).code(), Code.NOT_FOUND)


def unavailable(calls):
    """Nobody can answer: the proxy's own answer is gRPC, too."""
    wrong = error(lambda: calls.unary(b"", timeout=LIMIT))
    equal(wrong.code(), Code.UNAVAILABLE)
    print("unavailable", wrong.details())
    assert wrong.details(), "a reason"


def main():
    arguments, ca = sys.argv[1:], None
    if arguments[0] == "--ca":
        ca, arguments = arguments[1], arguments[2:]
    cases = [kinds, metadata, errors, deadlines, cancellation, spread, works, serves, steady, health, unavailable]
    cases = {case.__name__: case for case in cases}
    calls = Calls(arguments[0], ca)
    grpc.channel_ready_future(calls.channel).result(timeout=LIMIT)
    for name in arguments[1:]:
        cases[name](calls)
        print("ok", name, flush=True)
    calls.channel.close()


main()
