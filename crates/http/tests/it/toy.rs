//! A small contract to try the edge with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use supernode_api::{Method, Nothing, Operation, Role, Watch};
use supernode_http::{Edge, Failure, Request};
use tokio::sync::Semaphore;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) count: u32,
    #[serde(default)]
    pub(crate) note: Option<String>,
    #[serde(default)]
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    pub(crate) size: u32,
}

/// Everything that a handler was given.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Seen {
    pub(crate) caller: String,
    pub(crate) thing: String,
    pub(crate) after_generation: Option<i64>,
    pub(crate) count: u32,
    pub(crate) note: Option<String>,
    pub(crate) request_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) if_match: Option<i64>,
    pub(crate) digest: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Thing {
    pub(crate) name: String,
    pub(crate) generation: i64,
}

macro_rules! toy {
    ($($name:ident = $operation:literal $method:ident $path:literal $status:literal $role:ident ($query:ty, $request:ty) -> $response:ty;)*) => {$(
        pub(crate) struct $name;
        impl Operation for $name {
            const NAME: &'static str = $operation;
            const METHOD: Method = Method::$method;
            const PATH: &'static str = $path;
            const STATUS: u16 = $status;
            const ROLE: Role = Role::$role;
            const SUMMARY: &'static str = "";
            type Query = $query;
            type Request = $request;
            type Response = $response;
        }
    )*};
}

toy! {
    ThingOrder = "thing_order" Post "/api/v1/things/{thing}/order" 201 User (Watch, Order) -> Seen;
    ThingShow = "thing_show" Get "/api/v1/things/{thing}" 200 Viewer (Watch, Nothing) -> Thing;
    ThingDelete = "thing_delete" Delete "/api/v1/things/{thing}" 202 Operator (Nothing, Nothing) -> Nothing;
    Wait = "wait" Post "/api/v1/wait" 200 User (Nothing, Nothing) -> Nothing;
    Panic = "panic" Post "/api/v1/panic" 200 User (Nothing, Nothing) -> Nothing;
    Fail = "fail" Post "/api/v1/fail" 200 User (Nothing, Nothing) -> Nothing;
    Large = "large" Get "/api/v1/large" 200 Viewer (Nothing, Nothing) -> String;
}

/// Mounts the operations that need nothing but the request.
pub(crate) fn mount(edge: Edge) -> Edge {
    edge.operation::<ThingOrder, _, _>(order)
        .operation::<ThingShow, _, _>(async |request| {
            Ok(Thing {
                name: request.path.get("thing").to_owned(),
                generation: 7,
            })
        })
        .operation::<ThingDelete, _, _>(async |_| Ok(Nothing {}))
        .operation::<Panic, _, _>(async |_| panic!("the toy broke"))
        .operation::<Fail, _, _>(async |_| Err(Failure::internal("the secret cause")))
        .operation::<Large, _, _>(async |_| Ok("x".repeat(64 * 1024 * 1024)))
}

async fn order(request: Request<ThingOrder>) -> Result<Seen, Failure> {
    Ok(Seen {
        caller: request.caller.name.to_string(),
        thing: request.path.get("thing").to_owned(),
        after_generation: request.query.after_generation,
        count: request.body.count,
        note: request.body.note,
        request_id: request.request_id,
        idempotency_key: request.idempotency_key,
        if_match: request.if_match,
        digest: request.digest,
    })
}

/// Holds the operation `wait` until it is opened.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    passes: Arc<Semaphore>,
    started: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn mount(edge: Edge) -> (Edge, Self) {
        let gate = Self {
            passes: Arc::new(Semaphore::new(0)),
            started: Arc::default(),
            done: Arc::default(),
        };
        let inside = gate.clone();
        let edge = edge.operation::<Wait, _, _>(move |_| {
            let gate = inside.clone();
            async move {
                gate.started.fetch_add(1, Ordering::SeqCst);
                gate.passes.acquire().await.expect("never closed").forget();
                gate.done.fetch_add(1, Ordering::SeqCst);
                Ok(Nothing {})
            }
        });
        (edge, gate)
    }

    pub(crate) fn open_for_one(&self) {
        self.passes.add_permits(1);
    }

    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}
