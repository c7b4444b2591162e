//! The context file: which servers there are, and which one is meant.
//!
//! It holds tokens, so it is written with mode 0600, whole or not at all. `--context` decides; else `SUPERNODE_SERVER` with its token
//! and CA (all three, so that a token is never sent to a server it was not made for); else `SUPERNODE_CONTEXT`; else `current`.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};
use supernode_client::Context;

/// Why there is no usable context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// No context at all.
    #[error("no server is known: {path} has no current context; start `supernode dev`, choose one with `supernode context use`, or set SUPERNODE_SERVER, SUPERNODE_TOKEN and SUPERNODE_CA_FILE", path = .path.display())]
    None {
        /// The context file.
        path: PathBuf,
    },
    /// A name that the file does not have.
    #[error("there is no context `{name}` in {path}; it has: {known}", path = .path.display())]
    NotFound {
        /// The name.
        name: String,
        /// The context file.
        path: PathBuf,
        /// The names that it has.
        known: String,
    },
    /// `SUPERNODE_SERVER` without its companions.
    #[error(
        "SUPERNODE_SERVER is set, but {missing} is not; set all of SUPERNODE_SERVER, SUPERNODE_TOKEN and SUPERNODE_CA_FILE"
    )]
    Incomplete {
        /// The variable.
        missing: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not a context file.
    #[error("{path} is not a context file: {why}; repair it or move it away", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No home directory to put the file in.
    #[error(
        "the home directory is not known; set SUPERNODE_CONFIG to the path of the context file"
    )]
    NoHome,
}

/// The context file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextFile {
    /// The one that is meant when nothing else says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Entry>,
}

/// One server in the context file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `https://host:port`.
    pub server: String,
    /// The API token's secret.
    pub token: String,
    /// The authority that signed the server's certificate, PEM.
    pub ca: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Entry")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A context, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The server and the right to use it.
    pub context: Context,
    /// Its name in the file; absent when the environment names the server.
    pub name: Option<String>,
    /// For people.
    pub origin: String,
}

/// A variable of this process, if it is set and not empty.
pub fn process_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the context file is: `$SUPERNODE_CONFIG`, or `supernode/config.toml` in the user's configuration directory.
pub fn path(variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, ContextError> {
    if let Some(path) = variable("SUPERNODE_CONFIG") {
        return Ok(PathBuf::from(path));
    }
    let strategy = etcetera::choose_base_strategy().map_err(|_| ContextError::NoHome)?;
    Ok(strategy.config_dir().join("supernode").join("config.toml"))
}

/// Reads the context file; an absent one is empty.
pub fn load(path: &Path) -> Result<ContextFile, ContextError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            // The message only: the text around it could show a token.
            ContextError::Invalid {
                path: path.to_owned(),
                why: error.message().to_owned(),
            }
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(ContextFile::default()),
        Err(source) => Err(ContextError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes the context file with mode 0600, whole or not at all.
pub fn store(path: &Path, file: &ContextFile) -> Result<(), ContextError> {
    let failed = |source| ContextError::File {
        path: path.to_owned(),
        source,
    };
    let text = toml::to_string_pretty(file).expect("strings and tables are TOML");
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = directory.join(name);
    let write = || {
        // A left-over of a killed process with the same id would keep its own mode.
        let _ = std::fs::remove_file(&new);
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error)
    })
}

/// Adds or replaces a context of the user's file, and makes it the current one if asked or if there is none. Answers the file's path.
pub fn save(name: &str, context: &Context, make_current: bool) -> Result<PathBuf, ContextError> {
    let path = path(&process_variable)?;
    save_at(&path, name, context, make_current)?;
    Ok(path)
}

/// [`save`] into the file at `path`.
pub fn save_at(
    path: &Path,
    name: &str,
    context: &Context,
    make_current: bool,
) -> Result<(), ContextError> {
    let mut file = load(path)?;
    let Context { server, ca, token } = context.clone();
    file.contexts
        .insert(name.to_owned(), Entry { server, token, ca });
    if make_current
        || file
            .current
            .as_ref()
            .is_none_or(|current| !file.contexts.contains_key(current))
    {
        file.current = Some(name.to_owned());
    }
    store(path, &file)
}

/// The context that is meant. `flag` is what `--context` says.
pub fn resolve(
    flag: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Resolved, ContextError> {
    if flag.is_none()
        && let Some(server) = variable("SUPERNODE_SERVER")
    {
        return from_environment(server, variable);
    }
    let path = path(variable)?;
    let file = load(&path)?;
    let wanted = flag
        .map(ToOwned::to_owned)
        .or_else(|| variable("SUPERNODE_CONTEXT"))
        .or_else(|| file.current.clone());
    let Some(name) = wanted else {
        return Err(ContextError::None { path });
    };
    let Some(entry) = file.contexts.get(&name) else {
        let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(ContextError::NotFound { name, path, known });
    };
    let Entry { server, token, ca } = entry.clone();
    Ok(Resolved {
        context: Context { server, ca, token },
        origin: format!("context {name} of {}", path.display()),
        name: Some(name),
    })
}

fn from_environment(
    server: String,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Resolved, ContextError> {
    let token = variable("SUPERNODE_TOKEN").ok_or(ContextError::Incomplete {
        missing: "SUPERNODE_TOKEN",
    })?;
    let ca_file = variable("SUPERNODE_CA_FILE").ok_or(ContextError::Incomplete {
        missing: "SUPERNODE_CA_FILE",
    })?;
    let ca = std::fs::read_to_string(&ca_file).map_err(|source| ContextError::File {
        path: ca_file.into(),
        source,
    })?;
    Ok(Resolved {
        context: Context { server, ca, token },
        name: None,
        origin: "the environment (SUPERNODE_SERVER, SUPERNODE_TOKEN, SUPERNODE_CA_FILE)".into(),
    })
}
