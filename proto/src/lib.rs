//! Wire formats: the part of CRI v1 that the agent speaks, and the keelson.v1 control API between the agent and its
//! command line. The texts are in `proto/`; everything here is generated from them.
#![expect(missing_docs, reason = "generated: the documentation is in the .proto texts")]

/// Container runtime interface, version 1: `runtime_service_client`, `image_service_client` and their messages.
pub mod cri {
    #![allow(clippy::all, reason = "generated code")]
    tonic::include_proto!("runtime.v1");
}

/// Health checking of gRPC servers.
pub mod health {
    #![allow(clippy::all, reason = "generated code")]
    tonic::include_proto!("grpc.health.v1");
}

/// Control API of the agent: client, server and messages.
pub mod keelson {
    #![allow(clippy::all, reason = "generated code")]
    tonic::include_proto!("keelson.v1");
}
