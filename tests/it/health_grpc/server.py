"""A gRPC server with the health service, or without it; each line of its input sets a status: NAME STATUS."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> None:
    arguments = sys.argv[1:]
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    if "--without" not in arguments:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    if "--tls" in arguments:
        at = arguments.index("--tls")
        cert, key = (open(name, "rb").read() for name in arguments[at + 1 : at + 3])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        name, status = line.rstrip("\n").rsplit(" ", 1)
        servicer.set(name, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        print("done", flush=True)
    server.stop(None)


main()
