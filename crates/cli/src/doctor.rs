//! `supernode doctor`: everything between here and the nodes, each with a verdict and what to do about it.

mod examine;

use std::os::unix::fs::PermissionsExt;

use serde::Serialize;
use supernode_api::system::{SystemInfo, SystemShow};
use supernode_api::{ErrorCode, Nothing};
use supernode_client::{Client, ClientError};

use crate::context::{self, Resolved};
use crate::failure::{Exit, Failure};
use crate::output::{Look, Table, cell, state};
use crate::session::Session;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    subject: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    what_to_do: String,
}

fn ok(subject: &'static str, found: impl Into<String>) -> Check {
    Check {
        subject,
        verdict: Verdict::Ok,
        found: found.into(),
        what_to_do: String::new(),
    }
}

fn warn(subject: &'static str, found: impl Into<String>, what_to_do: impl Into<String>) -> Check {
    Check {
        subject,
        verdict: Verdict::Warn,
        found: found.into(),
        what_to_do: what_to_do.into(),
    }
}

fn fail(subject: &'static str, found: impl Into<String>, what_to_do: impl Into<String>) -> Check {
    Check {
        subject,
        verdict: Verdict::Fail,
        found: found.into(),
        what_to_do: what_to_do.into(),
    }
}

pub(crate) async fn run(session: &Session<'_>) -> Result<(), Failure> {
    let checks = checks(session).await;
    session.print(&checks, |look| render(&checks, look))?;
    if checks.iter().any(|check| check.verdict == Verdict::Fail) {
        return Err(Failure::Quiet(Exit::FAILED));
    }
    Ok(())
}

async fn checks(session: &Session<'_>) -> Vec<Check> {
    let resolved = match session.context() {
        Ok(resolved) => resolved,
        Err(error) => {
            return vec![fail(
                "context",
                error.to_string(),
                "see `supernode context list`",
            )];
        }
    };
    let mut checks = vec![context_check(&resolved)];
    let client = match Client::new(&resolved.context) {
        Ok(client) => client,
        Err(error) => {
            checks.push(fail(
                "context",
                error.to_string(),
                "correct the context, or make a new one with `supernode dev`",
            ));
            return checks;
        }
    };
    match client.get::<SystemShow>(&[], &Nothing {}).await {
        Ok(system) => {
            checks.extend(system_checks(&client, &system));
            match examine::facts(&client).await {
                Ok(facts) => checks.extend(examine::examine(&facts, session.look().now)),
                Err(error) => {
                    checks.push(fail("state", error.to_string(), "look at the server's log"));
                }
            }
        }
        Err(error) => checks.extend(connection_checks(&client, &error)),
    }
    checks
}

fn context_check(resolved: &Resolved) -> Check {
    let readable_by_others = resolved
        .name
        .is_some()
        .then(|| context::path(&context::process_variable).ok())
        .flatten()
        .filter(|path| {
            std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
        });
    match readable_by_others {
        Some(path) => warn(
            "context",
            format!(
                "{}; other users may read it, and it holds tokens",
                resolved.origin
            ),
            format!("chmod 600 {}", path.display()),
        ),
        None => ok("context", resolved.origin.clone()),
    }
}

/// What a first call that failed says about each step up to it.
fn connection_checks(client: &Client, error: &ClientError) -> Vec<Check> {
    let server = client.server();
    let reached = || ok("server", format!("{server} answers"));
    match error {
        ClientError::Untrusted { .. } => {
            let what = "use the context that belongs to this server; if the server was set up anew, its context has to be made anew";
            vec![reached(), fail("tls", error.to_string(), what)]
        }
        ClientError::Api(body)
            if matches!(body.code, ErrorCode::Unauthenticated | ErrorCode::Forbidden) =>
        {
            let what = "ask an admin for a new token (`supernode token create`), or choose another context";
            vec![
                reached(),
                ok("tls", "trusted"),
                fail("token", error.to_string(), what),
            ]
        }
        ClientError::Api(_) => vec![
            reached(),
            ok("tls", "trusted"),
            fail("server", error.to_string(), "look at the server's log"),
        ],
        _ => vec![fail(
            "server",
            error.to_string(),
            "check that the server runs and that the address is right; `supernode context show`",
        )],
    }
}

fn system_checks(client: &Client, system: &SystemInfo) -> Vec<Check> {
    let ours = env!("CARGO_PKG_VERSION");
    let version = match versions_apart(ours, &system.version) {
        Some(0) => ok("version", format!("{ours} here and there")),
        Some(1) => ok(
            "version",
            format!("{ours} here, {} there; they work together", system.version),
        ),
        _ => warn(
            "version",
            format!("{ours} here, {} there", system.version),
            "use versions that are at most one minor version apart",
        ),
    };
    vec![
        ok(
            "server",
            format!(
                "{} answers; {} database, provisioner {}",
                client.server(),
                system.database,
                system.provisioner
            ),
        ),
        ok("tls", "trusted"),
        ok(
            "token",
            format!("{} with role {}", system.actor, system.role.word()),
        ),
        version,
    ]
}

/// How many minor versions apart, if they are of one major version.
fn versions_apart(ours: &str, theirs: &str) -> Option<u64> {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let ((major, minor), (other_major, other_minor)) = (parse(ours)?, parse(theirs)?);
    (major == other_major).then(|| minor.abs_diff(other_minor))
}

fn render(checks: &[Check], look: &Look) -> String {
    let mut table = Table::new(&["", "CHECK", "FOUND"]);
    for check in checks {
        table.row([
            state(check.verdict.word()),
            cell(check.subject),
            cell(&check.found),
        ]);
        if !check.what_to_do.is_empty() {
            table.row([cell(""), cell(""), cell(format!("-> {}", check.what_to_do))]);
        }
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_api::ErrorBody;

    #[test]
    fn the_step_that_failed_is_told_from_those_before_it() {
        let context = supernode_client::Context {
            server: "https://127.0.0.1:1".into(),
            ca: test_ca(),
            token: "t".into(),
        };
        let client = Client::new(&context).expect("usable");
        let verdicts = |error: &ClientError| {
            connection_checks(&client, error)
                .iter()
                .map(|check| (check.subject, check.verdict))
                .collect::<Vec<_>>()
        };
        let server = || client.server().to_owned();
        let away = ClientError::NotReachable {
            server: server(),
            why: "refused".into(),
            idempotency_key: None,
        };
        assert_eq!(verdicts(&away), [("server", Verdict::Fail)]);
        let foreign = ClientError::Untrusted {
            server: server(),
            why: "x".into(),
        };
        assert_eq!(
            verdicts(&foreign),
            [("server", Verdict::Ok), ("tls", Verdict::Fail)]
        );
        let body = ErrorBody {
            code: ErrorCode::Unauthenticated,
            message: "no".into(),
            details: None,
            request_id: "r".into(),
        };
        assert_eq!(
            verdicts(&ClientError::Api(body)),
            [
                ("server", Verdict::Ok),
                ("tls", Verdict::Ok),
                ("token", Verdict::Fail)
            ]
        );
    }

    #[test]
    fn versions_are_compared_by_minor() {
        assert_eq!(versions_apart("0.1.0", "0.1.9"), Some(0));
        assert_eq!(versions_apart("0.1.0", "0.3.0-rc1"), Some(2));
        assert_eq!(versions_apart("0.1.0", "1.1.0"), None);
        assert_eq!(versions_apart("0.1.0", "dev"), None);
    }

    fn test_ca() -> String {
        let key = rcgen::KeyPair::generate().expect("keys can be made");
        rcgen::CertificateParams::new(Vec::new())
            .expect("no names")
            .self_signed(&key)
            .expect("signs")
            .pem()
    }
}
