//! Which database: `sqlite:PATH`, `sqlite::memory:` or `postgres://…`.
//!
//! Refuses what could be misunderstood (a second `@`, options of `SQLite`) and what promises no security
//! (`sslmode=prefer`). Shows itself without the password, in `Debug` too.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use postgres::config::Host;

use super::tls::Tls;

/// A database that can be opened. `Display` and `Debug` never show the password.
#[derive(Clone)]
pub struct DatabaseUrl {
    target: Target,
    shown: String,
}

#[derive(Clone)]
pub(crate) enum Target {
    SqliteMemory,
    SqliteFile(PathBuf),
    Postgres(Box<PostgresTarget>),
}

/// How to reach a `PostgreSQL` database.
#[derive(Clone)]
pub(crate) struct PostgresTarget {
    pub(crate) config: postgres::Config,
    pub(crate) tls: Tls,
}

/// Why a text is not the address of a database. Never contains the text itself, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Not one of the three forms.
    #[error("a database is written sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME")]
    Form,
    /// One of the forms, with a part that is not right.
    #[error("the {scheme} address is not right: {reason}")]
    Part {
        /// `sqlite` or `postgres`.
        scheme: &'static str,
        /// Which part, and what to write instead.
        reason: String,
    },
}

impl DatabaseUrl {
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether this is the in-memory database, which nothing outlives.
    pub fn is_memory(&self) -> bool {
        matches!(self.target, Target::SqliteMemory)
    }

    /// Whether the connection is encrypted and its other end verified; one without the other does not exist.
    pub fn is_verified(&self) -> bool {
        matches!(&self.target, Target::Postgres(target) if matches!(target.tls, Tls::Verified { .. }))
    }

    /// The database in the file `path`.
    pub fn sqlite_file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            shown: format!("sqlite:{}", path.display()),
            target: Target::SqliteFile(path),
        }
    }

    /// A database in the memory of this process.
    pub fn sqlite_memory() -> Self {
        Self {
            shown: "sqlite::memory:".to_owned(),
            target: Target::SqliteMemory,
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            return sqlite(rest);
        }
        match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => postgres(rest),
            _ => Err(DatabaseUrlError::Form),
        }
    }
}

fn sqlite(rest: &str) -> Result<DatabaseUrl, DatabaseUrlError> {
    let wrong = |reason: &str| {
        Err(DatabaseUrlError::Part {
            scheme: "sqlite",
            reason: reason.to_owned(),
        })
    };
    if rest == ":memory:" {
        return Ok(DatabaseUrl::sqlite_memory());
    }
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => {
            return wrong(
                "after `//` an absolute path is expected; write sqlite:PATH for a relative one",
            );
        }
        None => rest,
    };
    if path.is_empty() {
        return wrong("the path is empty");
    }
    if path.starts_with(':') {
        return wrong("a path does not start with `:`; the in-memory database is sqlite::memory:");
    }
    if path.contains('?') {
        return wrong("there are no options; remove everything from the `?` on");
    }
    Ok(DatabaseUrl::sqlite_file(path))
}

fn postgres(rest: &str) -> Result<DatabaseUrl, DatabaseUrlError> {
    let wrong = |reason: String| DatabaseUrlError::Part {
        scheme: "postgres",
        reason,
    };
    if rest.matches('@').count() > 1 {
        return Err(wrong(
            "there is more than one `@`; write %40 for an `@` inside a password or option"
                .to_owned(),
        ));
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains('@') || query.contains('?') {
        return Err(wrong(
            "write %40 for an `@` and %3F for a `?` inside a password or option".to_owned(),
        ));
    }
    let mut mode = None;
    let mut root_certificates = None;
    let mut others = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => {
                root_certificates = Some(PathBuf::from(percent_decoded(value)?));
            }
            Some(_) => others.push(option),
            None => return Err(wrong("an option has no `=`".to_owned())),
        }
    }
    let plain = format!("postgres://{address}?{}", others.join("&"));
    let mut config: postgres::Config =
        plain
            .trim_end_matches('?')
            .parse()
            .map_err(|error: postgres::Error| {
                let reason = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string);
                wrong(reason)
            })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host_path("/var/run/postgresql");
    }
    let tls = match mode {
        Some("disable") => Tls::Off,
        None if is_on_this_host(&config) && root_certificates.is_none() => Tls::Off,
        Some("require" | "verify-full") | None => Tls::Verified { root_certificates },
        Some(_) => {
            return Err(wrong(
                "sslmode is one of disable, require, verify-full (the last two are the same: the certificate is \
                 always verified)"
                    .to_owned(),
            ));
        }
    };
    complete(&mut config, &tls);
    let shown = shown(&config);
    Ok(DatabaseUrl {
        target: Target::Postgres(Box::new(PostgresTarget { config, tls })),
        shown,
    })
}

/// What an address usually leaves out: a connection that died is noticed within seconds, not hours.
fn complete(config: &mut postgres::Config, tls: &Tls) {
    config.ssl_mode(match tls {
        Tls::Off => postgres::config::SslMode::Disable,
        Tls::Verified { .. } => postgres::config::SslMode::Require,
    });
    if config.get_application_name().is_none() {
        config.application_name("supernode");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(5));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(15));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
    }
    config.notice_callback(
        |notice| tracing::debug!(notice = %notice.message(), "notice of the database"),
    );
}

fn is_on_this_host(config: &postgres::Config) -> bool {
    let hosts_are = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    });
    hosts_are && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

fn shown(config: &postgres::Config) -> String {
    let user = config
        .get_user()
        .map(|user| format!("{user}@"))
        .unwrap_or_default();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = config
                .get_ports()
                .get(index)
                .or(config.get_ports().first())
                .copied()
                .unwrap_or(5432);
            match host {
                Host::Unix(path) => path.display().to_string(),
                Host::Tcp(name) if port == 5432 => name.clone(),
                Host::Tcp(name) => format!("{name}:{port}"),
            }
        })
        .collect();
    format!(
        "postgres://{user}{}/{}",
        hosts.join(","),
        config.get_dbname().unwrap_or_default()
    )
}

fn percent_decoded(text: &str) -> Result<String, DatabaseUrlError> {
    let wrong = || DatabaseUrlError::Part {
        scheme: "postgres",
        reason: "a `%` is not followed by a code".to_owned(),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = if first == b'%' {
            let code = tail
                .get(..2)
                .and_then(|code| std::str::from_utf8(code).ok())
                .ok_or_else(wrong)?;
            bytes.push(u8::from_str_radix(code, 16).map_err(|_| wrong())?);
            &tail[2..]
        } else {
            bytes.push(first);
            tail
        };
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
