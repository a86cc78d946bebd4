//! Clients and servers that others wrote, through the proxy: what we believe of a protocol, they believe by themselves.

mod conformance;
mod curl;
mod grpc;
mod h2load;
mod node;
mod websocket;
