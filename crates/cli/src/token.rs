//! `supernode token …`: API tokens of people and programs.

use std::time::Duration;

use supernode_api::token::{TokenCreate, TokenCreateRequest, TokenList, TokenRevoke, TokenView};
use supernode_api::{Nothing, Role};
use supernode_types::Name;

use crate::change::{KeyOption, whole_seconds};
use crate::failure::Failure;
use crate::output::{Look, Table, cell, or_dash, say, state};
use crate::session::Session;

/// API tokens of people and programs.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// List tokens, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Create a token; its secret is printed once, alone on standard output
    Create {
        /// Its owner's name, shown in the audit log
        name: Name,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// How long it is valid [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
        lifetime: Option<Duration>,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Revoke a token at once
    Revoke {
        /// Its id
        token: String,
        #[command(flatten)]
        key: KeyOption,
    },
}

/// What a token may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleName {
    /// Reads
    Viewer,
    /// Submits jobs and cancels its own
    User,
    /// Changes nodes, super nodes and anybody's jobs
    Operator,
    /// Changes tokens, specs and what runs as root
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Self::Viewer,
            RoleName::User => Self::User,
            RoleName::Operator => Self::Operator,
            RoleName::Admin => Self::Admin,
        }
    }
}

pub(crate) async fn run(session: &Session<'_>, command: TokenCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        TokenCommand::List => {
            let items = client.list::<TokenList, _>(&[], &Nothing {}).await?;
            session.print_list(&items, "no tokens", list)
        }
        TokenCommand::Create {
            name,
            role,
            lifetime,
            key,
        } => {
            let request = TokenCreateRequest {
                name,
                role: role.into(),
                lifetime_seconds: lifetime.map(whole_seconds),
            };
            let created = client
                .call::<TokenCreate>(&[], &Nothing {}, &request, &key.call())
                .await?;
            if !session.json() {
                say(&format!(
                    "{} for {} ({}); the secret is shown only now:",
                    created.token.id,
                    created.token.name,
                    created.token.role.word()
                ));
            }
            session.print(&created, |_| format!("{}\n", created.secret))
        }
        TokenCommand::Revoke { token, key } => {
            let view = client
                .call::<TokenRevoke>(&[&token], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&view, |_| {
                format!("{} of {} is revoked\n", view.id, view.name)
            })
        }
    }
}

fn list(items: &[TokenView], look: &Look) -> String {
    let mut table = Table::new(&["ID", "NAME", "ROLE", "STATE", "EXPIRES", "AGE"]);
    for token in items {
        let word = match (token.revoked_at, token.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= look.now => "expired",
            (None, _) => "active",
        };
        table.row([
            cell(&token.id),
            cell(&token.name),
            cell(token.role.word()),
            state(word),
            cell(or_dash(token.expires_at.map(|moment| look.moment(moment)))),
            cell(look.age(token.created_at)),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    #[test]
    fn the_list_tells_active_from_ended() {
        let token = |expires: Option<&str>, revoked: Option<&str>| -> TokenView {
            crate::sample::answer(&json!({
                "id": "token-01kb000000000000000000000a", "name": "ada", "role": "admin", "created_at": "2025-11-23T12:13:10Z",
                "expires_at": expires, "revoked_at": revoked
            }))
        };
        let tokens = [
            token(None, None),
            token(Some("2025-11-23T12:13:19Z"), None),
            token(None, Some("2025-11-23T12:13:19Z")),
        ];
        let text = list(
            &tokens,
            &Look {
                now: Timestamp(1_763_900_000_000_000),
                color: false,
            },
        );
        let states: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        assert_eq!(states, ["active", "expired", "revoked"], "{text}");
    }
}
