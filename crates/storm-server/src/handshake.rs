//! From an accepted stream (and after TLS, if there is any) to an upgraded one, or to an answer that refuses it.
//!
//! ```text
//!  request head ── plain GET ──> on_http ──> answer, end
//!       │ upgrade
//!       └──> origin ──> on_upgrade ──> 101 ──> session          any refusal: answer, end
//! ```
//!
//! From the moment the server stops there is one answer to upgrades, 503, whatever they were waiting for; plain HTTP is
//! answered as ever. Not here: the time it may take (`budget`), what a request must look like (`storm-ws-proto`).

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use storm_core::isolation::catch_unwind_of;
use storm_core::metrics::HandshakeFailure;
use storm_core::{ConfigError, EarlyItems, Error, ErrorKind, Peer, SessionKey};
use storm_transport::Stream;
use storm_transport::ws::upgrade::{UpgradeError, linger, read_request, refuse};
use storm_transport::ws::{Agreed, WsOptions};
use storm_ws_proto::handshake::{Accept, AnswerError, OriginList, Reject, Request, Upgrade, is_token};
use storm_ws_proto::http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::budget::Ended;
use crate::shared::{Endpoint, Phase, Shared, report};

/// Any HTTP answer that ends the connection; the same type as [`Reject`].
pub type HttpResponse = Reject;

/// What a hook for plain HTTP returns: a response, or the mistake in making one, which is reported and answered with 500.
pub trait IntoHttpResponse {
    /// The response.
    fn into_response(self) -> HttpResponse;
}

impl IntoHttpResponse for HttpResponse {
    fn into_response(self) -> HttpResponse {
        self
    }
}

impl IntoHttpResponse for Result<HttpResponse, AnswerError> {
    fn into_response(self) -> HttpResponse {
        self.unwrap_or_else(HttpResponse::from)
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type UpgradeHook = Box<dyn Fn(UpgradeRequest) -> Boxed<Result<Accept, Reject>> + Send + Sync>;
type HttpHook = Box<dyn Fn(HttpRequest) -> Boxed<HttpResponse> + Send + Sync>;

/// What a server makes of requests.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) origins: Option<OriginList>,
    pub(crate) protocols: Vec<String>,
    pub(crate) on_upgrade: Option<UpgradeHook>,
    pub(crate) on_http: Option<HttpHook>,
}

impl Rules {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !self.protocols.iter().all(|protocol| is_token(protocol.as_bytes())) {
            return Err(ConfigError::new("subprotocols", "a subprotocol is a token (RFC 6455 §4.1)"));
        }
        Ok(())
    }
}

/// A valid upgrade request: path, query, headers and offered subprotocols (see [`Upgrade`]), and who asks.
#[derive(Debug, Clone)]
pub struct UpgradeRequest {
    asked: Arc<Asked>,
    peer: Peer,
}

#[derive(Debug)]
struct Asked {
    upgrade: Upgrade,
    /// What a hook has found out for the session.
    items: Mutex<EarlyItems>,
}

impl UpgradeRequest {
    /// Stores a value that the session is to carry from the beginning, if there will be one: who asks, say. See
    /// [`Session::get`](storm_core::Session::get). Once the hook has returned, this does nothing any more.
    pub fn set<T: Clone + Send + Sync + 'static>(&self, key: &SessionKey<T>, value: T) {
        let replaced = self.asked.items.lock().unwrap_or_else(PoisonError::into_inner).set(key, value);
        // The user's code: not under the lock.
        drop(replaced);
    }

    /// The peer's address; `None` where the transport has none (unix sockets, in-memory streams).
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.peer.addr
    }

    /// What TLS agreed on, with the peer's certificates; `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&storm_core::TlsInfo> {
        self.peer.tls.as_deref()
    }
}

impl Deref for UpgradeRequest {
    type Target = Upgrade;

    fn deref(&self) -> &Upgrade {
        &self.asked.upgrade
    }
}

/// A plain HTTP GET or HEAD request: path, query and headers (see [`Request`]), and who asks.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    request: Request,
    peer: Peer,
}

impl HttpRequest {
    /// The peer's address; `None` where the transport has none (unix sockets, in-memory streams).
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.peer.addr
    }

    /// What TLS agreed on, with the peer's certificates; `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&storm_core::TlsInfo> {
        self.peer.tls.as_deref()
    }
}

impl Deref for HttpRequest {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

/// A final answer, and what it counts as if not as an answered HTTP request.
struct Refusal {
    answer: Reject,
    failure: Option<HandshakeFailure>,
}

impl Refusal {
    fn new(failure: HandshakeFailure, answer: impl Into<Reject>) -> Self {
        Self { answer: answer.into(), failure: Some(failure) }
    }

    fn without_body(self) -> Self {
        Self { answer: self.answer.without_body(), ..self }
    }

    fn stopping() -> Self {
        Self::new(HandshakeFailure::Stopping, Reject::new(StatusCode::SERVICE_UNAVAILABLE))
    }
}

/// How long a peer that was refused may take to end its side while the server stops.
const LAST_LINGER: Duration = Duration::from_secs(1);

/// Performs the handshake: the stream, what was agreed, and the bytes that came behind the request.
pub(crate) async fn handshake<'a, E: Endpoint>(
    mut stream: Stream,
    peer: &Peer,
    rules: &Rules,
    options: &WsOptions,
    shared: &'a Shared,
    endpoint: &E,
) -> Result<(Stream, Agreed, BytesMut), Ended<'a>> {
    let mut buffer = BytesMut::new();
    let request = tokio::select! {
        biased;
        request = read_request(&mut stream, &mut buffer, options.head_limits) => Some(request),
        () = shared.reached(Phase::Stopping) => None,
    };
    let answer = match request {
        Some(Ok(request)) => {
            let is_head = request.is_head();
            let decided = decide(request, peer, rules, options, shared, endpoint).await;
            decided.map_err(|refusal| if is_head { refusal.without_body() } else { refusal })
        }
        Some(Err(UpgradeError::Head(error))) => {
            Err(Refusal::new(HandshakeFailure::Malformed, error.reject()))
        }
        Some(Err(_)) => return Err(HandshakeFailure::Disconnected.into()),
        // What was about to be asked has its answer.
        None => Err(Refusal::stopping()),
    };
    match answer {
        Ok((response, agreed)) => {
            send(&mut stream, &response).await.map_err(|_| HandshakeFailure::Disconnected)?;
            Ok((stream, agreed, buffer))
        }
        Err(Refusal { answer, failure }) => {
            Err(Ended::with_farewell(failure, see_off(stream, answer, shared)))
        }
    }
}

/// Answers a peer that gets no session, and waits for its end.
async fn see_off(mut stream: Stream, answer: Reject, shared: &Shared) {
    if refuse(&mut stream, &answer.to_bytes()).await.is_err() {
        return;
    }
    let stopped = async {
        shared.reached(Phase::Stopping).await;
        tokio::time::sleep(LAST_LINGER).await;
    };
    tokio::select! {
        biased;
        _ = linger(&mut stream) => {}
        () = stopped => {}
    }
}

async fn send(stream: &mut Stream, response: &[u8]) -> io::Result<()> {
    stream.write_all(response).await?;
    stream.flush().await
}

/// The 101 and what it agrees on, or the final answer.
async fn decide<E: Endpoint>(
    request: Request,
    peer: &Peer,
    rules: &Rules,
    options: &WsOptions,
    shared: &Shared,
    endpoint: &E,
) -> Result<(bytes::Bytes, Agreed), Refusal> {
    if let Some(on_http) = rules.on_http.as_ref().filter(|_| !request.wants_websocket()) {
        let hook = async { on_http(HttpRequest { request, peer: peer.clone() }).await };
        let answer = Box::pin(isolated(hook, shared, endpoint)).await?;
        return Err(by_hook(answer, None, shared, endpoint).await);
    }
    let upgrade =
        request.upgrade().map_err(|error| Refusal::new(HandshakeFailure::Malformed, error.reject()))?;
    if let Some(origins) = &rules.origins {
        upgrade
            .check_origin(origins)
            .map_err(|error| Refusal::new(HandshakeFailure::Origin, error.reject()))?;
    }
    let asked = Arc::new(Asked { upgrade, items: Mutex::default() });
    let upgrade = &asked.upgrade;
    let accept = match &rules.on_upgrade {
        Some(on_upgrade) => {
            let request = UpgradeRequest { asked: asked.clone(), peer: peer.clone() };
            let decided = tokio::select! {
                biased;
                decided = Box::pin(isolated(async { on_upgrade(request).await }, shared, endpoint)) => decided?,
                () = shared.reached(Phase::Stopping) => return Err(Refusal::stopping()),
            };
            match decided {
                Ok(accept) => accept,
                Err(answer) => {
                    return Err(by_hook(answer, Some(HandshakeFailure::Rejected), shared, endpoint).await);
                }
            }
        }
        None => Accept::new(),
    };
    let accept = accept.or_protocol_of(&rules.protocols, upgrade.protocols());
    if shared.is_stopping() {
        return Err(Refusal::stopping());
    }
    #[cfg(feature = "deflate")]
    let accept = accept.or_deflate(options.deflate);
    #[cfg(not(feature = "deflate"))]
    let _ = options;
    let accepted = match upgrade.accept(&accept) {
        Ok(accepted) => accepted,
        // The hook chose what was not offered.
        Err(error) => return Err(by_hook(error.into(), None, shared, endpoint).await),
    };
    let mut agreed = Agreed::new(upgrade, &accepted);
    agreed.items = mem::take(&mut *asked.items.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((accepted.response, agreed))
}

/// What a hook has answered, which counts as `failure`; unless it is not the answer it wanted to give: that is the
/// application's mistake, not the peer's, and reported.
async fn by_hook<E: Endpoint>(
    answer: Reject,
    failure: Option<HandshakeFailure>,
    shared: &Shared,
    endpoint: &E,
) -> Refusal {
    let Some(mistake) = answer.mistake() else { return Refusal { answer, failure } };
    let error = Error::new(ErrorKind::Handshake, mistake.clone());
    Box::pin(report(endpoint, &shared.hub, &error)).await;
    Refusal::new(HandshakeFailure::HookFailed, answer)
}

/// Runs a hook; a panic in it is reported, and answered with 500.
async fn isolated<T, E: Endpoint>(
    hook: impl Future<Output = T>,
    shared: &Shared,
    endpoint: &E,
) -> Result<T, Refusal> {
    match catch_unwind_of(hook).await {
        Ok(output) => Ok(output),
        Err(panic) => {
            report(endpoint, &shared.hub, &Error::new(ErrorKind::Panic, panic)).await;
            let answer = Reject::new(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Refusal::new(HandshakeFailure::HookFailed, answer))
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("origins", &self.origins)
            .field("protocols", &self.protocols)
            .field("on_upgrade", &self.on_upgrade.is_some())
            .field("on_http", &self.on_http.is_some())
            .finish()
    }
}
