//! Against real servers on the loopback device.

use std::net::SocketAddr;

use keelson_proto::health::{
    HealthCheckResponse,
    health_server::{Health, HealthServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::{Request, Response, Status};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

/// Answers each connection with what `answer` makes of the request's text.
async fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await.unwrap_or(0);
            let text = answer(&String::from_utf8_lossy(&bytes[..read]));
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    address
}

fn get(address: SocketAddr, path: &str) -> Target {
    Target::Http(Http {
        tls: false,
        host: address.ip().to_string(),
        port: address.port(),
        path: path.into(),
        headers: vec![
            ("X-Own".into(), "1".into()),
            ("Accept".into(), "text/plain".into()),
        ],
    })
}

#[tokio::test]
async fn http_is_good_from_200_to_399() {
    let server = serve(|request| {
        let code = request.split(['/', ' ']).nth(2).unwrap_or("500").to_owned();
        format!("HTTP/1.1 {code} X\r\nContent-Length: 5\r\n\r\nhello")
    })
    .await;
    for code in [200, 204, 304, 399] {
        assert_eq!(
            probe(&get(server, &format!("/{code}")), LIMIT).await,
            Outcome::Success(None),
            "{code}"
        );
    }
    for code in [400, 404, 503] {
        let expected = format!("HTTP probe failed with statuscode: {code}: hello");
        assert_eq!(
            probe(&get(server, &format!("/{code}")), LIMIT).await,
            Outcome::Failure(expected)
        );
    }
}

#[tokio::test]
async fn http_sends_its_headers_and_the_pods_replace_them() {
    let server = serve(|request| format!("HTTP/1.1 500 X\r\nConnection: close\r\n\r\n{request}")).await;
    let Outcome::Failure(message) = probe(&get(server, "health?deep=1"), LIMIT).await else {
        panic!("500 is a failure");
    };
    let message = message.to_ascii_lowercase();
    for part in [
        "get /health?deep=1 http/1.1",
        "user-agent: kube-probe/",
        "x-own: 1",
        "accept: text/plain",
        &format!("host: {server}"),
    ] {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
    assert!(!message.contains("*/*"), "{message}");
}

#[tokio::test]
async fn http_follows_redirects_on_the_same_host_only() {
    let server = serve(|request| {
        let location = match request.split(' ').nth(1) {
            Some("/same") => "good",
            Some("/other") => "http://elsewhere.invalid/",
            Some("/loop") => "/loop",
            Some("/good") => return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
            _ => "/bad",
        };
        if location == "/bad" {
            return "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".into();
        }
        format!("HTTP/1.1 302 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    assert_eq!(probe(&get(server, "/same"), LIMIT).await, Outcome::Success(None));
    assert!(matches!(
        probe(&get(server, "/other"), LIMIT).await,
        Outcome::Success(Some(_))
    ));
    let Outcome::Failure(message) = probe(&get(server, "/loop"), LIMIT).await else {
        panic!("a loop is a failure");
    };
    assert!(message.contains("redirects"), "{message}");
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let server = serve(|_| {
        format!(
            "HTTP/1.1 500 X\r\nContent-Length: 99999999\r\n\r\n{}",
            "x".repeat(1 << 16)
        )
    })
    .await;
    let Outcome::Failure(message) = probe(&get(server, "/"), LIMIT).await else {
        panic!("500 is a failure");
    };
    assert!(message.len() < (10 << 10) + 100, "{}", message.len());
}

#[tokio::test]
async fn silence_fails_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let target = get(address, "/");
    let Outcome::Failure(message) = probe(&target, Duration::from_millis(100)).await else {
        panic!("silence is a failure");
    };
    assert!(message.contains("no answer within 0.1 s"), "{message}");
}

#[tokio::test]
async fn tcp_is_good_when_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let target = Target::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    assert_eq!(probe(&target, LIMIT).await, Outcome::Success(None));
    drop(listener);
    let Outcome::Failure(message) = probe(&target, LIMIT).await else {
        panic!("nobody listens");
    };
    assert!(message.contains("refused"), "{message}");
}

struct Doctor;

#[tonic::async_trait]
impl Health for Doctor {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            "ill" => ServingStatus::NotServing,
            _ => return Err(Status::not_found("unknown service")),
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(HealthServer::new(Doctor))
            .serve_with_incoming(incoming),
    );
    let ask = |service: &str| Target::Grpc {
        host: "127.0.0.1".into(),
        port,
        service: service.into(),
    };
    assert_eq!(probe(&ask(""), LIMIT).await, Outcome::Success(None));
    assert_eq!(
        probe(&ask("ill"), LIMIT).await,
        Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into())
    );
    assert!(
        matches!(probe(&ask("other"), LIMIT).await, Outcome::Failure(message) if message.contains("NotFound"))
    );
}
