//! `supernode join-token …`: what lets new nodes enrol.

use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::join_token::{
    JoinTokenCreate, JoinTokenCreateRequest, JoinTokenList, JoinTokenRevoke, JoinTokenView,
};
use supernode_types::node::Position;

use crate::change::{KeyOption, pair, whole_seconds};
use crate::failure::Failure;
use crate::node::PositionOptions;
use crate::output::{Look, Table, cell, pairs, say, state};
use crate::session::Session;

/// Tokens that let new nodes enrol.
#[derive(Debug, clap::Subcommand)]
pub enum JoinTokenCommand {
    /// List join tokens, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Create a join token and print the command to run on the new node
    Create {
        /// How many nodes may enrol with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it is valid [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = supernode_types::time::parse_duration)]
        lifetime: Option<Duration>,
        /// A label that its nodes get; may be given several times
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        label: Vec<(String, String)>,
        #[command(flatten)]
        position: PositionOptions,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Revoke a join token at once
    Revoke {
        /// Its id
        join_token: String,
        #[command(flatten)]
        key: KeyOption,
    },
}

pub(crate) async fn run(session: &Session<'_>, command: JoinTokenCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        JoinTokenCommand::List => {
            let items = client.list::<JoinTokenList, _>(&[], &Nothing {}).await?;
            session.print_list(&items, "no join tokens", list)
        }
        JoinTokenCommand::Create {
            uses,
            lifetime,
            label,
            position,
            key,
        } => {
            let request = JoinTokenCreateRequest {
                uses: Some(uses),
                lifetime_seconds: lifetime.map(whole_seconds),
                labels: label.into_iter().collect(),
                position: position.onto(&Position::default()),
            };
            let created = client
                .call::<JoinTokenCreate>(&[], &Nothing {}, &request, &key.call())
                .await?;
            if !session.json() {
                say(&format!(
                    "{}; the secret is shown only now. Run on the new node:",
                    created.join_token.id
                ));
            }
            session.print(&created, |_| format!("{}\n", created.command))
        }
        JoinTokenCommand::Revoke { join_token, key } => {
            let view = client
                .call::<JoinTokenRevoke>(&[&join_token], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&view, |_| format!("{} is revoked\n", view.id))
        }
    }
}

fn list(items: &[JoinTokenView], look: &Look) -> String {
    let mut table = Table::new(&["ID", "STATE", "USES LEFT", "EXPIRES", "LABELS"]);
    for token in items {
        let word = match token.revoked_at {
            Some(_) => "revoked",
            None if token.expires_at <= look.now => "expired",
            None if token.uses_left == 0 => "used",
            None => "active",
        };
        table.row([
            cell(&token.id),
            state(word),
            cell(token.uses_left),
            cell(look.moment(token.expires_at)),
            cell(pairs(&token.labels)),
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
    fn the_list_tells_usable_tokens_from_others() {
        let token = |uses: u32, expires: &str| -> JoinTokenView {
            crate::sample::answer(&json!({
                "id": "join-01kb000000000000000000000a", "uses_left": uses, "expires_at": expires, "revoked_at": null,
                "labels": {"rack": "r1"}, "position": {}, "created_at": "2025-11-23T12:13:10Z"
            }))
        };
        let tokens = [
            token(1, "2025-11-23T13:13:20Z"),
            token(0, "2025-11-23T13:13:20Z"),
            token(1, "2025-11-23T12:13:10Z"),
        ];
        assert_eq!(
            list(
                &tokens,
                &Look {
                    now: Timestamp(1_763_900_000_000_000),
                    color: false
                }
            ),
            "ID                               STATE    USES LEFT  EXPIRES                         LABELS\n\
             join-01kb000000000000000000000a  active   1          2025-11-23T13:13:20Z (in 1h)    rack=r1\n\
             join-01kb000000000000000000000a  used     0          2025-11-23T13:13:20Z (in 1h)    rack=r1\n\
             join-01kb000000000000000000000a  expired  1          2025-11-23T12:13:10Z (10s ago)  rack=r1\n"
        );
    }
}
