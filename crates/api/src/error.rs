//! What a failed request answers: `{code, message, details, request_id}`. Every code has a page under `docs/errors/`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal $status:literal,)*) => {
        /// Machine-readable reason of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it is written on the wire and in the file name under `docs/errors/`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

error_codes! {
    /// The request is malformed: wrong type, unknown field, value out of range.
    InvalidRequest = "invalid_request" 400,
    /// No token, or one that is not valid.
    Unauthenticated = "unauthenticated" 401,
    /// The token's role is not enough.
    Forbidden = "forbidden" 403,
    /// There is no such object, or no such path.
    NotFound = "not_found" 404,
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed" 405,
    /// The object is in a state that does not allow the change.
    Conflict = "conflict" 409,
    /// The name is taken.
    AlreadyExists = "already_exists" 409,
    /// Jobs run on a node that would be removed.
    JobsRunning = "jobs_running" 409,
    /// A super node keeps at least one node.
    LastNode = "last_node" 409,
    /// Not enough suitable nodes, and no provisioner that could make them.
    NotEnoughNodes = "not_enough_nodes" 409,
    /// More nodes than the spec allows in one super node.
    OverMaximum = "over_maximum" 409,
    /// The size is not larger than the present one, or above the maximum of the node's spec.
    DiskSize = "disk_size" 409,
    /// The layout of a node's system disk cannot be grown, or a tool for it is missing.
    DiskLayout = "disk_layout" 409,
    /// The job insists on re-execution, and its operators would not be repeated.
    RetryPrevented = "retry_prevented" 409,
    /// The node does not have the super node's spec or hyperplane.
    SpecMismatch = "spec_mismatch" 409,
    /// `If-Match` names another generation than the object has.
    PreconditionFailed = "precondition_failed" 412,
    /// The body is larger than allowed.
    TooLarge = "too_large" 413,
    /// The body is not JSON.
    UnsupportedMediaType = "unsupported_media_type" 415,
    /// The idempotency key was used for a different request.
    IdempotencyKeyReused = "idempotency_key_reused" 422,
    /// Too many requests of this kind; wait.
    TooManyRequests = "too_many_requests" 429,
    /// A bug; the server's log has more under the request id.
    Internal = "internal" 500,
    /// The database cannot take the request now; nothing was changed.
    Unavailable = "unavailable" 503,
    /// The connection to the database broke during the commit; ask again with the same idempotency key.
    UnknownOutcome = "unknown_outcome" 503,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong, with which object, and what to do.
    pub message: String,
    /// More for programs, for example the blocking jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// Finds the request in the server's log and in the audit log.
    pub request_id: String,
}
