//! The user that an HS256 bearer token names.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

static SECRET: LazyLock<Option<Vec<u8>>> =
    LazyLock::new(|| std::env::var("SSE_JWT_SECRET").ok().map(String::into_bytes));

#[derive(Deserialize)]
struct Head {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

/// The secret, if tokens are asked for.
pub fn secret() -> Option<&'static [u8]> {
    SECRET.as_deref()
}

/// The user, or None where there is no valid token.
pub fn user(secret: &[u8], headers: &HeaderMap) -> Option<u64> {
    let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, claims) = signed.split_once('.')?;
    let head: Head = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    if head.alg != "HS256" {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(signed.as_bytes());
    mac.verify_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    if claims.exp <= now { None } else { claims.sub.parse().ok() }
}
