//! Every kind of load against a real server on loopback.

use std::{net::SocketAddr, thread, time::Duration};

use keelson_bench::{
    client::{self, Kind, Load},
    server::Server,
};

fn serve() -> SocketAddr {
    let server = Server::bind(([127, 0, 0, 1], 0).into()).expect("bind");
    let address = server.address().expect("address");
    thread::spawn(move || server.serve());
    address
}

#[test]
fn every_kind_of_load_ends_with_exchanges_and_no_error() {
    let target = serve();
    for kind in [Kind::Rr, Kind::Crr, Kind::Stream, Kind::Udp] {
        let load = Load {
            kind,
            target,
            duration: Duration::from_millis(60),
            connections: 2,
            size: 64,
        };
        let outcome = client::run(load).expect("run");
        assert!(outcome.exchanges > 0, "{outcome:?}");
        assert_eq!(outcome.errors, 0, "{outcome:?}");
        assert!(outcome.rate > 0.0, "{outcome:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_counted_as_errors_within_the_time() {
    // A port that was bound and given back: nothing listens on it.
    let target = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        socket.local_addr().expect("address")
    };
    let load = Load {
        kind: Kind::Crr,
        target,
        duration: Duration::from_millis(30),
        connections: 1,
        size: 64,
    };
    let outcome = client::run(load).expect("run");
    assert_eq!(outcome.exchanges, 0);
    assert!(outcome.errors > 0);
    assert!(outcome.last_error.is_some());
}
