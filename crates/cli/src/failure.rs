//! Why a command did not do what was asked, how that is said, and the exit code that goes with it.

use std::path::PathBuf;

use serde_json::Value;
use supernode_api::ErrorBody;
use supernode_client::ClientError;

use crate::context::ContextError;
use crate::output::{add, clean, say};

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const OK: Self = Self(0);
    /// The thing itself failed: an operation, a check, a bug.
    pub const FAILED: Self = Self(1);
    /// The command line, a file or a request is not valid.
    pub const USAGE: Self = Self(2);
    /// The server refused: not allowed, not found, not in this state.
    pub const REFUSED: Self = Self(3);
    /// The server could not be reached, or not be trusted.
    pub const NOT_REACHABLE: Self = Self(4);
    /// Ctrl-C.
    pub const INTERRUPTED: Self = Self(130);
}

/// The exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it failed: an operation that was waited for, a check of `doctor`, a bug
  2    the command line, a file or the request is not valid
  3    the server refused: not allowed, not found, not in this state
  4    the server could not be reached or is not trusted
  130  interrupted
  `run` and `job wait` end with the exit code of the job.";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The call gave no result.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no usable context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// What was typed cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// A local file cannot be used.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What was waited for ended badly.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C; what goes on without us was said.
    #[error("interrupted")]
    Interrupted,
    /// The reader of our output is gone.
    #[error("nobody reads the output")]
    ClosedPipe,
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
    /// Everything was said; only the exit code is left.
    #[error("exit code {}", .0.0)]
    Quiet(Exit),
}

impl Failure {
    /// The exit code that goes with it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => client_exit(error),
            Self::Context(_) | Self::Usage(_) | Self::File { .. } => Exit::USAGE,
            Self::Failed(_) | Self::Output(_) => Exit::FAILED,
            Self::Interrupted => Exit::INTERRUPTED,
            Self::ClosedPipe => Exit::OK,
            Self::Quiet(exit) => *exit,
        }
    }

    /// Says it on standard error.
    pub(crate) fn report(&self) -> Exit {
        match self {
            Self::Interrupted | Self::ClosedPipe | Self::Quiet(_) => {}
            Self::Client(ClientError::Api(body)) => say(&refusal(body)),
            other => say(&format!("error: {}", clean(&other.to_string()))),
        }
        self.exit()
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Settings(_) | ClientError::Argument(_) => Exit::USAGE,
        ClientError::NotReachable { .. }
        | ClientError::Untrusted { .. }
        | ClientError::Timeout { .. } => Exit::NOT_REACHABLE,
        ClientError::Protocol { .. } => Exit::FAILED,
        ClientError::Api(body) => match body.code.status() {
            401 | 403 | 404 | 409 | 412 | 422 | 429 => Exit::REFUSED,
            503 => Exit::NOT_REACHABLE,
            500.. => Exit::FAILED,
            _ => Exit::USAGE,
        },
    }
}

/// A refusal as people read it: one line, then what it is about.
pub(crate) fn refusal(body: &ErrorBody) -> String {
    let mut text = format!("error: {}", clean(&body.message));
    if !body.request_id.is_empty() {
        add(
            &mut text,
            format_args!(" (request {})", clean(&body.request_id)),
        );
    }
    if let Some(details) = &body.details {
        details_lines(details, "  ", &mut text);
    }
    text
}

fn details_lines(details: &Value, indent: &str, text: &mut String) {
    match details {
        Value::Object(fields) => {
            for (name, value) in fields {
                let label = clean(&name.replace('_', " "));
                if let Some(items) = value.as_array() {
                    add(text, format_args!("\n{indent}{label}:"));
                    for item in items {
                        add(text, format_args!("\n{indent}  {}", in_one_line(item)));
                    }
                } else {
                    add(
                        text,
                        format_args!("\n{indent}{label}: {}", in_one_line(value)),
                    );
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                add(text, format_args!("\n{indent}{}", in_one_line(item)));
            }
        }
        Value::Null => {}
        other => add(text, format_args!("\n{indent}{}", in_one_line(other))),
    }
}

fn in_one_line(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{}={}", clean(name), in_one_line(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => clean(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_api::ErrorCode;

    fn body(code: ErrorCode, details: Value) -> ErrorBody {
        ErrorBody {
            code,
            message: "2 jobs run on n2; use --mode wait or evict".into(),
            details: Some(details),
            request_id: "r7".into(),
        }
    }

    #[test]
    fn a_refusal_lists_what_blocks() {
        let details = json!({"jobs": ["job-1", {"id": "job-2", "node": "n2"}], "mode": "refuse"});
        assert_eq!(
            refusal(&body(ErrorCode::JobsRunning, details)),
            "error: 2 jobs run on n2; use --mode wait or evict (request r7)\n  jobs:\n    job-1\n    id=job-2 node=n2\n  mode: refuse"
        );
    }

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_raw() {
        let text = refusal(&body(
            ErrorCode::Conflict,
            json!({"a\u{1b}[2J": ["\u{1b}]0;x\u{7}", {"k": "\r"}]}),
        ));
        assert!(
            text.chars()
                .all(|letter| letter == '\n' || !letter.is_control()),
            "{text:?}"
        );
    }

    #[test]
    fn every_code_of_the_contract_has_its_exit_code() {
        for code in ErrorCode::ALL {
            let exit = Failure::Client(ClientError::Api(body(*code, Value::Null))).exit();
            let expected = match code {
                ErrorCode::InvalidRequest
                | ErrorCode::MethodNotAllowed
                | ErrorCode::TooLarge
                | ErrorCode::UnsupportedMediaType => Exit::USAGE,
                ErrorCode::Internal => Exit::FAILED,
                ErrorCode::Unavailable | ErrorCode::UnknownOutcome => Exit::NOT_REACHABLE,
                _ => Exit::REFUSED,
            };
            assert_eq!(exit, expected, "{code}");
        }
    }
}
