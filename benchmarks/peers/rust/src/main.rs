//! A Rust service with the same contract: axum on one thread of tokio, a channel of 10 per client, messages
//! dropped and counted when the channel is full.
//!
//! Environment: SSE_PORT, REDIS_PORT, SSE_HEARTBEAT_SECONDS, SSE_JWT_SECRET. GET /sse?user_id=N (with a secret:
//! of the user that the bearer token names), /healthz, /stats.

mod clients;
mod token;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Router, serve};
use clients::{Clients, deliver};
use futures_util::StreamExt;
use serde::Deserialize;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

static SUBSCRIBED: AtomicBool = AtomicBool::new(false);

#[derive(Deserialize)]
struct Wanted {
    user_id: Option<u64>,
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn stream(Query(wanted): Query<Wanted>, headers: HeaderMap) -> Response {
    let user = match token::secret() {
        Some(secret) => token::user(secret, &headers),
        None => wanted.user_id,
    };
    let Some(user) = user else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (head, Body::from_stream(Clients::join(user, heartbeat_period()))).into_response()
}

fn heartbeat_period() -> Duration {
    let seconds = setting("SSE_HEARTBEAT_SECONDS").and_then(|s| s.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(30.0))
}

async fn subscribe() -> redis::RedisResult<()> {
    let port = setting("REDIS_PORT").unwrap_or_default();
    let mut pubsub = redis::Client::open(format!("redis://127.0.0.1:{port}"))?.get_async_pubsub().await?;
    pubsub.subscribe("notifications").await?;
    SUBSCRIBED.store(true, Ordering::Relaxed);
    let mut messages = pubsub.into_on_message();
    while let Some(message) = messages.next().await {
        // Many messages come in one read. Where a channel is full, its writer gets a turn.
        if deliver(message.get_payload_bytes()) {
            let mut waited = false;
            poll_fn(|context| {
                if std::mem::replace(&mut waited, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref(); // to the end of the queue, behind all writers
                Poll::Pending
            })
            .await;
        }
    }
    Ok(())
}

async fn healthz() -> StatusCode {
    if SUBSCRIBED.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn stats() -> String {
    format!("{{\"dropped\": {}}}\n", clients::dropped())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    tokio::spawn(async {
        eprintln!("redis: {:?}", subscribe().await);
        std::process::exit(1);
    });
    let routes = Router::new()
        .route("/sse", get(stream))
        .route("/healthz", get(healthz))
        .route("/stats", get(stats));
    let socket = tokio::net::TcpSocket::new_v4()?;
    let port = setting("SSE_PORT").and_then(|s| s.parse().ok()).unwrap_or(8085);
    socket.bind(([127, 0, 0, 1], port).into())?;
    let listener = socket.listen(4096)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    serve(listener, routes).await
}
