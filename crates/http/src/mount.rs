//! Mounts operations of the contract as routes.
//!
//! The contract says method, path, status and role; a handler says only what happens. Checks go from cheap to dear: route, token, role,
//! headers, query, then the body. The handler runs in a task of its own: a client that hangs up never cancels a half-done request, and
//! a panic becomes an answer.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_api::{Method, Nothing, Operation, Role};
use supernode_types::Entropy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::caller::authorize;
use crate::layer::{RequestId, wrap};
use crate::query::QueryReader;
use crate::request::{Arrived, Head};
use crate::{Authenticator, Failure, Request};

/// Limits of the edge.
#[derive(Debug, Clone)]
pub struct EdgeOptions {
    /// The most bytes in a request body.
    pub maximum_body_bytes: usize,
    /// How long a request body may take to arrive.
    pub body_timeout: Duration,
    /// The most requests that are handled at once; more are answered with 429.
    pub maximum_running_requests: usize,
    /// The most event streams at once; more are answered with 429.
    pub maximum_streams: usize,
    /// How often an idle event stream says that it is alive, and how soon a revoked token loses its stream.
    pub stream_keep_alive: Duration,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            maximum_body_bytes: 3 * 512 * 1024,
            body_timeout: Duration::from_secs(30),
            maximum_running_requests: 4096,
            maximum_streams: 512,
            stream_keep_alive: Duration::from_secs(15),
        }
    }
}

/// One answered request, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// The operation's name.
    pub operation: &'static str,
    /// The HTTP status of the answer.
    pub status: u16,
    /// From the request's head to the answer.
    pub duration: Duration,
}

type Observer = Arc<dyn Fn(Observation) + Send + Sync>;

/// The routes of the API server, in the making.
pub struct Edge {
    pub(crate) shared: Shared,
    pub(crate) router: Router,
    entropy: Arc<dyn Entropy>,
    mounted: BTreeSet<&'static str>,
}

/// What every route needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) options: Arc<EdgeOptions>,
    pub(crate) shutdown: CancellationToken,
    running: Arc<Semaphore>,
    observer: Option<Observer>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Edge")
            .field("options", &self.shared.options)
            .field("mounted", &self.mounted)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// An edge without routes. Event streams end when `shutdown` is cancelled; `entropy` makes request ids.
    pub fn new(
        authenticator: Arc<dyn Authenticator>,
        entropy: Arc<dyn Entropy>,
        options: EdgeOptions,
        shutdown: CancellationToken,
    ) -> Self {
        let running = Arc::new(Semaphore::new(options.maximum_running_requests));
        let shared = Shared {
            authenticator,
            options: Arc::new(options),
            shutdown,
            running,
            observer: None,
        };
        Self {
            shared,
            router: Router::new(),
            entropy,
            mounted: BTreeSet::new(),
        }
    }

    /// Calls `observer` after every answered operation that is mounted after this call.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Fn(Observation) + Send + Sync + 'static) -> Self {
        self.shared.observer = Some(Arc::new(observer));
        self
    }

    /// Mounts the operation `O`.
    #[must_use]
    pub fn operation<O, H, F>(mut self, handler: H) -> Self
    where
        O: Operation,
        O::Query: 'static,
        O::Request: 'static,
        H: Fn(Request<O>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O::Response, Failure>> + Send + 'static,
    {
        let query = QueryReader::of::<O::Query>();
        let has_body =
            <O::Request as JsonSchema>::schema_id() != <Nothing as JsonSchema>::schema_id();
        let handler = Arc::new(handler);
        let begin = move |uri: &Uri| {
            let query: O::Query = query.read(uri).map_err(Failure::invalid_request)?;
            let handler = Arc::clone(&handler);
            let run: Run = Box::new(move |arrived| {
                let request = arrived.into_request::<O>(query, has_body)?;
                Ok(Box::pin(async move { render(&handler(request).await?) }))
            });
            Ok(run)
        };
        let mounted = Mounted {
            name: O::NAME,
            role: O::ROLE,
            status: O::STATUS,
            begin: Box::new(begin),
        };
        self.mount(O::METHOD, O::PATH, mounted);
        self
    }

    fn mount(&mut self, method: Method, path: &str, mounted: Mounted) {
        self.mounted.insert(mounted.name);
        let (shared, mounted) = (self.shared.clone(), Arc::new(mounted));
        let route = on(filter(method), move |request: axum::extract::Request| {
            answer(shared.clone(), Arc::clone(&mounted), request)
        });
        self.router = std::mem::take(&mut self.router).route(path, route);
    }

    /// Adds routes of another kind (the console's files, a compatible API) under the same request ids and headers. They bring their
    /// own authentication.
    #[must_use]
    pub fn merge(mut self, routes: Router) -> Self {
        self.router = self.router.merge(routes);
        self
    }

    /// The operations of the contract that nobody mounted.
    pub fn missing(&self) -> Vec<&'static str> {
        supernode_api::all()
            .iter()
            .map(|description| description.name)
            .filter(|name| !self.mounted.contains(name))
            .collect()
    }

    /// The finished routes.
    pub fn into_router(self) -> Router {
        wrap(self.router, self.entropy)
    }
}

impl Shared {
    /// Who asks, if the role is enough for `what`.
    pub(crate) async fn authorize(
        &self,
        headers: &axum::http::HeaderMap,
        role: Role,
        what: &str,
    ) -> Result<crate::Caller, Failure> {
        authorize(self.authenticator.as_ref(), headers, role, what).await
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.running).try_acquire_owned().map_err(|_| {
            let message = format!(
                "the server already handles {} requests; try again in a moment",
                self.options.maximum_running_requests
            );
            Failure::too_many_requests(message, Duration::from_secs(1))
        })
    }
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

/// A response body, ready to be sent.
struct Rendered {
    body: Bytes,
    generation: Option<i64>,
}

/// An operation without its types, so that everything around the handlers is compiled once.
struct Mounted {
    name: &'static str,
    role: Role,
    status: u16,
    begin: Box<Begin>,
}

/// Reads the query, which is cheaper than the body, and says how to go on.
type Begin = dyn Fn(&Uri) -> Result<Run, Failure> + Send + Sync;
/// Reads the body and begins the handler.
type Run = Box<dyn FnOnce(Arrived) -> Result<Running, Failure> + Send>;
type Running = Pin<Box<dyn Future<Output = Result<Rendered, Failure>> + Send>>;

async fn answer(
    shared: Shared,
    mounted: Arc<Mounted>,
    request: axum::extract::Request,
) -> Response {
    let started = tokio::time::Instant::now();
    let id = RequestId::of(request.extensions());
    let response = match handle(&shared, &mounted, request).await {
        Ok(rendered) => success(mounted.status, rendered),
        Err(failure) => failure.respond(&id),
    };
    let duration = started.elapsed();
    tracing::debug!(request_id = %id, operation = mounted.name, status = response.status().as_u16(), ?duration, "answered");
    if let Some(observer) = &shared.observer {
        observer(Observation {
            operation: mounted.name,
            status: response.status().as_u16(),
            duration,
        });
    }
    response
}

async fn handle(
    shared: &Shared,
    mounted: &Mounted,
    request: axum::extract::Request,
) -> Result<Rendered, Failure> {
    let (parts, body) = request.into_parts();
    let caller = shared
        .authorize(&parts.headers, mounted.role, mounted.name)
        .await?;
    let permit = shared.permit()?;
    let head = Head::read(parts, caller).await?;
    let run = (mounted.begin)(head.uri())?;
    let running = run(head.with_body(body, &shared.options).await?)?;
    detached(mounted.name, async move {
        let _permit = permit;
        running.await
    })
    .await
}

/// Runs `work` to its end whatever becomes of the caller; a panic is a failure.
pub(crate) async fn detached<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Failure::internal(panic_message(what, error))))
}

fn panic_message(what: &str, error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return format!("`{what}` was stopped because the server ends");
    };
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("`{what}` panicked: {}", text.unwrap_or("no message"))
}

/// The one field of a response that the edge looks at.
#[derive(Deserialize)]
struct Generation {
    generation: Option<i64>,
}

fn render<T: Serialize>(value: &T) -> Result<Rendered, Failure> {
    let body = serde_json::to_vec(value)
        .map_err(|error| Failure::internal(format!("the response does not serialize: {error}")))?;
    let generation = serde_json::from_slice::<Generation>(&body)
        .ok()
        .and_then(|found| found.generation);
    Ok(Rendered {
        body: body.into(),
        generation,
    })
}

fn success(status: u16, rendered: Rendered) -> Response {
    let mut response = Response::new(Body::from(rendered.body));
    *response.status_mut() =
        StatusCode::from_u16(status).expect("the contract has only real status codes");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(generation) = rendered.generation {
        headers.insert(
            ETAG,
            HeaderValue::from_str(&format!("\"{generation}\""))
                .expect("digits in quotes are a valid header value"),
        );
    }
    response
}
