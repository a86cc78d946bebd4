"""A gRPC server without generated code: messages are bytes. grpc_server.py PORT NAME [--unavailable]"""

import json
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

PORT, NAME, UNAVAILABLE = sys.argv[1], sys.argv[2], "--unavailable" in sys.argv
LARGE = 64 << 20
counts = {"calls": 0, "cancelled": 0, "remaining": None}
lock = threading.Lock()


def count(what):
    with lock:
        counts[what] += 1


def begin(context):
    """Says who answers, and gives the caller's own metadata back as trailers."""
    count("calls")
    context.send_initial_metadata((("x-instance", NAME),))
    echo = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("x-echo"))
    context.set_trailing_metadata(echo)


def unary(request, context):
    if UNAVAILABLE:
        count("calls")
        context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")
    begin(context)
    return request


def download(request, context):
    begin(context)
    messages, size = map(int, request.split())
    for number in range(messages):
        yield bytes([number % 256]) * size


def upload(requests, context):
    begin(context)
    sizes = [len(request) for request in requests]
    return b"%d %d" % (len(sizes), sum(sizes))


def chat(requests, context):
    begin(context)
    for request in requests:
        yield b"you said " + request


def fail(request, context):
    """Trailers only: no initial metadata, no message."""
    count("calls")
    context.set_trailing_metadata((("x-why", "because"), ("x-why-bin", b"\x00\xff")))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())


def fail_late(request, context):
    begin(context)
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, request.decode())


def sleep(request, context):
    """Ends when the caller gives up, and keeps that in mind."""
    count("calls")
    counts["remaining"] = context.time_remaining()
    over = threading.Event()
    if context.add_callback(over.set):
        context.send_initial_metadata((("x-instance", NAME),))
        yield b"asleep"
        over.wait(30)
    count("cancelled")


def seen(request, context):
    with lock:
        return json.dumps(counts).encode()


class Handlers(grpc.GenericRpcHandler):
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Sleep": grpc.unary_stream_rpc_method_handler(sleep),
        "Seen": grpc.unary_unary_rpc_method_handler(seen),
    }

    def service(self, details):
        service, _, method = details.method.lstrip("/").partition("/")
        return self.kinds.get(method) if service == "test.Echo" else None


options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
options += [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", LARGE)]
server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[Handlers()], options=options)
answers = health.HealthServicer()
state = health_pb2.HealthCheckResponse.NOT_SERVING if UNAVAILABLE else health_pb2.HealthCheckResponse.SERVING
answers.set("", state)
answers.set("test.Echo", state)
health_pb2_grpc.add_HealthServicer_to_server(answers, server)
if server.add_insecure_port(f"127.0.0.1:{PORT}") == 0:
    sys.exit(f"port {PORT} is taken")
server.start()
server.wait_for_termination()
