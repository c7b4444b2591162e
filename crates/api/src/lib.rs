//! The contract: every operation of the native API and of the agent protocol as a type.
//!
//! One list, several readers: the server mounts it, client, command line and agent call it, `OpenAPI` is generated from it. An
//! operation is a unit type that implements [`Operation`]; its status code, role, request and response stand nowhere else.

pub mod agent;
pub mod audit;
pub mod channel;
pub mod disk;
pub mod environment;
pub mod error;
pub mod event;
pub mod job;
pub mod join_token;
pub mod node;
pub mod openapi;
pub mod operation;
pub mod page;
pub mod retry_policy;
pub mod spec;
pub mod stress;
pub mod stress_plan;
pub mod super_node;
pub mod system;
pub mod token;

pub use error::{ErrorBody, ErrorCode};
pub use page::{Nothing, Page, Watch};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize as SerializeDerive};

/// HTTP methods that the contract uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates or starts.
    Post,
    /// Replaces.
    Put,
    /// Changes some fields.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// The method as HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What a token may do; each role includes the ones before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, SerializeDerive, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Submits jobs and cancels its own.
    User,
    /// Changes nodes, super nodes and anybody's jobs.
    Operator,
    /// Changes tokens, specs and what runs as root.
    Admin,
}

impl Role {
    /// The word for this role.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// One operation of the contract.
pub trait Operation: Send + Sync + 'static {
    /// Unique name, `resource_verb`.
    const NAME: &'static str;
    /// HTTP method.
    const METHOD: Method;
    /// Path with `{parameters}`.
    const PATH: &'static str;
    /// Status code of success.
    const STATUS: u16;
    /// The least role that may call it.
    const ROLE: Role;
    /// One sentence for people.
    const SUMMARY: &'static str;
    /// Query parameters.
    type Query: DeserializeOwned + Serialize + JsonSchema + Send + Default;
    /// Request body; [`Nothing`] where there is none.
    type Request: DeserializeOwned + Serialize + JsonSchema + Send;
    /// Response body.
    type Response: DeserializeOwned + Serialize + JsonSchema + Send;
}

/// Declares operations, one per line: `Type = "name" Method "path" status Role (Query, Request) -> Response "summary";`
macro_rules! operations {
    ($($name:ident = $operation_name:literal $method:ident $path:literal $status:literal $role:ident ($query:ty, $request:ty) -> $response:ty, $summary:literal;)*) => {
        $(
            #[doc = $summary]
            #[derive(Debug, Clone, Copy)]
            pub struct $name;
            impl $crate::Operation for $name {
                const NAME: &'static str = $operation_name;
                const METHOD: $crate::Method = $crate::Method::$method;
                const PATH: &'static str = $path;
                const STATUS: u16 = $status;
                const ROLE: $crate::Role = $crate::Role::$role;
                const SUMMARY: &'static str = $summary;
                type Query = $query;
                type Request = $request;
                type Response = $response;
            }
        )*
        /// Shows every operation of this module to `visitor`.
        pub(crate) fn visit(visitor: &mut dyn $crate::openapi::Visitor) {
            $( visitor.operation($crate::openapi::describe::<$name>); )*
        }
    };
}
pub(crate) use operations;

/// Every operation of the native API, described for the generators and the tests that walk the list.
pub fn all() -> Vec<openapi::Description> {
    openapi::describe_all()
}
