//! One call: address, headers, the answer, and repeating.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use schemars::JsonSchema;
use supernode_api::{Method, Nothing, Operation};
use supernode_types::entropy::SystemEntropy;
use supernode_types::time::SystemClock;
use supernode_types::{Clock, Entropy, Generation};

use crate::{ClientError, Context, Limits, http};

/// What a caller may add to a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// The same key with the same request has one effect; a random one when absent.
    pub idempotency_key: Option<String>,
    /// The generation that the object must have.
    pub if_match: Option<Generation>,
}

/// Calls one server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    transport: reqwest::Client,
    base: Url,
    server: String,
    token: HeaderValue,
    limits: Limits,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Client {
    /// A client with the usual limits and the machine's clock and random source.
    pub fn new(context: &Context) -> Result<Self, ClientError> {
        Self::with(
            context,
            Limits::default(),
            Arc::new(SystemClock),
            Arc::new(SystemEntropy),
        )
    }

    /// A client with everything given. Nothing is sent yet.
    pub fn with(
        context: &Context,
        limits: Limits,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ClientError> {
        let (transport, base, token) = http::open(context, &limits)?;
        let server = context.server.trim_end_matches('/').to_owned();
        Ok(Self {
            transport,
            base,
            server,
            token,
            limits,
            clock,
            entropy,
        })
    }

    /// The same client that goes on trying for `retry_for` when the server is away.
    #[must_use]
    pub fn with_patience(mut self, retry_for: Duration) -> Self {
        self.limits.retry_for = retry_for;
        self
    }

    /// The address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A new idempotency key.
    pub fn new_key(&self) -> String {
        format!(
            "{:016x}{:016x}",
            self.entropy.next_u64(),
            self.entropy.next_u64()
        )
    }

    /// Calls an operation of the contract; `path` has one entry for each `{place}` of its path.
    pub async fn call<O: Operation>(
        &self,
        path: &[&str],
        query: &O::Query,
        body: &O::Request,
        options: &CallOptions,
    ) -> Result<O::Response, ClientError> {
        let request = Request::of::<O>(self, path, query, body, options)?;
        let answer = self.exchange(&request).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| self.protocol(format!("{}: {error}", request.name)))
    }

    /// The answer's body. Knows nothing of types, so that it is compiled once and not for each operation.
    async fn exchange(&self, request: &Request) -> Result<Vec<u8>, ClientError> {
        self.repeat(|| self.send(request)).await
    }

    fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol {
            server: self.server.clone(),
            what,
        }
    }

    /// [`Client::call`] for reads.
    pub async fn get<O: Operation<Request = Nothing>>(
        &self,
        path: &[&str],
        query: &O::Query,
    ) -> Result<O::Response, ClientError> {
        self.call::<O>(path, query, &Nothing {}, &CallOptions::default())
            .await
    }

    /// Repeats `attempt` with growing pauses while it fails for a reason that may pass, within the limit.
    pub(crate) async fn repeat<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, ClientError> {
        let mut first_failure = None;
        let mut tries = 0;
        let mut sent = None;
        loop {
            let mut error = match attempt().await {
                Err(error) if error.transient() => error,
                result => return result,
            };
            // One try that broke after it was sent makes the whole call uncertain.
            if let ClientError::NotReachable {
                idempotency_key, ..
            } = &mut error
            {
                sent = idempotency_key.take().or(sent);
                idempotency_key.clone_from(&sent);
            }
            let now = self.clock.monotonic();
            let since = *first_failure.get_or_insert(now);
            let pause = self.pause(tries);
            if now.saturating_sub(since) + pause > self.limits.retry_for {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// 50 ms, doubled with each try up to 1 s, a quarter of it by chance so that many clients do not come back at once.
    pub(crate) fn pause(&self, tries: u32) -> Duration {
        let full = 50_u64.saturating_mul(1 << tries.min(10)).min(1000);
        Duration::from_millis(full - self.entropy.next_u64() % (full / 4))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn address(&self, path: &str, parameters: &[&str]) -> Result<Url, ClientError> {
        http::address(&self.base, path, parameters)
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let method = method
            .as_str()
            .parse()
            .expect("the contract uses methods that HTTP has");
        self.transport
            .request(method, url)
            .header(reqwest::header::AUTHORIZATION, self.token.clone())
    }

    async fn send(&self, request: &Request) -> Result<Vec<u8>, ClientError> {
        let key = request.key.as_deref();
        let mut builder = self
            .request(request.method, request.url.clone())
            .timeout(request.total);
        if let Some(key) = key {
            builder = builder.header("idempotency-key", key);
        }
        if let Some(generation) = request.if_match {
            builder = builder.header(reqwest::header::IF_MATCH, format!("\"{generation}\""));
        }
        if let Some(payload) = &request.payload {
            builder = builder
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(payload.clone());
        }
        let mut response = builder.send().await.map_err(|error| {
            ClientError::transport(&self.server, &error, request.total.as_secs(), key)
        })?;
        let status = response.status().as_u16();
        let body = http::read(&self.server, &mut response, &self.limits, key).await?;
        match status {
            _ if status == request.status => Ok(body),
            200..400 => Err(self.protocol(format!(
                "{} answered with status {status} instead of {}",
                request.name, request.status
            ))),
            _ => Err(http::refusal(&self.server, status, &body)),
        }
    }
}

/// A call that is ready to be sent, any number of times.
struct Request {
    name: &'static str,
    method: Method,
    /// The status of success.
    status: u16,
    url: Url,
    payload: Option<Vec<u8>>,
    key: Option<String>,
    if_match: Option<Generation>,
    total: Duration,
}

impl Request {
    fn of<O: Operation>(
        client: &Client,
        path: &[&str],
        query: &O::Query,
        body: &O::Request,
        options: &CallOptions,
    ) -> Result<Self, ClientError> {
        let has_body =
            <O::Request as JsonSchema>::schema_id() != <Nothing as JsonSchema>::schema_id();
        let change = O::METHOD != Method::Get;
        let key = change.then(|| {
            options
                .idempotency_key
                .clone()
                .unwrap_or_else(|| client.new_key())
        });
        if let Some(key) = &key
            && !(1..=128).contains(&key.len()) | !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(ClientError::Settings(
                "an idempotency key has 1 to 128 visible ASCII characters".into(),
            ));
        }
        let plain = serde_json::to_value(query).expect("a query is plain data");
        let wait = plain["wait_milliseconds"]
            .as_u64()
            .map_or(Duration::ZERO, Duration::from_millis);
        Ok(Self {
            name: O::NAME,
            method: O::METHOD,
            status: O::STATUS,
            url: with_query(client.address(O::PATH, path)?, &plain),
            payload: has_body.then(|| serde_json::to_vec(body).expect("a request is plain data")),
            key,
            if_match: options.if_match,
            total: client.limits.total + wait,
        })
    }
}

/// The address with the fields of `query` that are there.
fn with_query(mut url: Url, query: &serde_json::Value) -> Url {
    for (name, value) in query.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => {
                url.query_pairs_mut().append_pair(name, text);
            }
            number => {
                url.query_pairs_mut().append_pair(name, &number.to_string());
            }
        }
    }
    url
}
