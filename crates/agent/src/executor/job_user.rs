//! The user that jobs run as.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, getgrouplist};

use super::shown;
use crate::options::AgentOptions;
use crate::ranks::User;

/// Who runs jobs where the agent is root and nothing else was said.
const UNPRIVILEGED: &str = "nobody";

/// Why no job can be run as the wanted user.
#[derive(Debug, thiserror::Error)]
pub enum JobUserError {
    /// There is no such user.
    #[error(
        "jobs should run as {name}, and this host has no such user; create it or name another with --job-user"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// Only root can become somebody else.
    #[error(
        "jobs should run as {name}, but this agent runs as {own} and cannot become another user; run it as root or leave out --job-user"
    )]
    NotRoot {
        /// The name.
        name: String,
        /// The agent's own.
        own: String,
    },
    /// Everything would run as root.
    #[error(
        "jobs must not run as root by default; name another user with --job-user (admins may let single jobs run as root, see --allow-root-jobs)"
    )]
    Root,
}

/// A user and what its programs are told of it.
#[derive(Debug, Clone)]
pub(super) struct JobUser {
    /// To become; `None` keeps the agent's own user.
    pub(super) user: Option<User>,
    pub(super) name: String,
    /// Its home directory, if it is there.
    pub(super) home: Option<String>,
}

impl JobUser {
    pub(super) fn of(options: &AgentOptions) -> Result<Self, JobUserError> {
        let own = Self::own();
        if !Uid::effective().is_root() {
            return match &options.job_user {
                Some(name) if *name != own.name => Err(JobUserError::NotRoot {
                    name: name.clone(),
                    own: own.name,
                }),
                _ => Ok(own),
            };
        }
        let name = options.job_user.as_deref().unwrap_or(UNPRIVILEGED);
        let unknown = || JobUserError::Unknown {
            name: name.to_owned(),
        };
        let user = nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(unknown)?;
        if user.uid.is_root() {
            return Err(JobUserError::Root);
        }
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let groups = getgrouplist(&c_name, user.gid).unwrap_or_default();
        let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
        Ok(Self {
            user: Some(User {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                groups,
            }),
            home: home(&user),
            name: user.name,
        })
    }

    /// The agent's own user.
    pub(super) fn own() -> Self {
        let uid = Uid::effective();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        Self {
            user: None,
            home: user.as_ref().and_then(home),
            name: user.map_or_else(|| uid.to_string(), |user| user.name),
        }
    }

    /// Jobs without a working directory of their own run in one below the data directory, which their user has to reach.
    pub(super) fn warn_if_shut_out(&self, data_directory: &Path) {
        let Some(user) = &self.user else { return };
        let closed = data_directory
            .ancestors()
            .find(|path| std::fs::metadata(path).is_ok_and(|status| !may_pass(&status, user)));
        if let Some(closed) = closed {
            let (directory, closed) = (shown(data_directory), shown(closed));
            tracing::warn!(
                directory,
                closed,
                user = self.name,
                "jobs cannot reach their scratch directories; choose another data directory or another job user"
            );
        }
    }
}

fn home(user: &nix::unistd::User) -> Option<String> {
    user.dir.is_dir().then(|| shown(&user.dir))
}

fn may_pass(status: &std::fs::Metadata, user: &User) -> bool {
    let bit = if status.uid() == user.uid {
        0o100
    } else if status.gid() == user.gid || user.groups.contains(&status.gid()) {
        0o010
    } else {
        0o001
    };
    status.mode() & bit != 0
}
