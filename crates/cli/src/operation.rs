//! `supernode operation …`: long-running changes.

use supernode_api::Nothing;
use supernode_api::operation::{
    OperationCancel, OperationList, OperationListQuery, OperationShow, OperationView,
};
use supernode_client::Client;
use supernode_types::operation::{OperationState, TargetState};

use crate::change::{KeyOption, WaitOption};
use crate::failure::Failure;
use crate::output::{Look, Table, cell, clean, fields, or_dash, say, seconds, section, state};
use crate::progress;
use crate::session::Session;

/// Long-running changes.
#[derive(Debug, clap::Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only of this super node
        #[arg(long, value_name = "NAME")]
        super_node: Option<String>,
        /// Only in this state: running, succeeded, failed or cancelled
        #[arg(long)]
        state: Option<String>,
    },
    /// Show an operation with its targets
    Show {
        /// Its id
        operation: String,
    },
    /// Take back what can be taken back
    Cancel {
        /// Its id
        operation: String,
        #[command(flatten)]
        key: KeyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Wait until an operation has ended; exit code 1 and the reason if it failed
    Wait {
        /// Its id
        operation: String,
    },
}

pub(crate) async fn run(session: &Session<'_>, command: OperationCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        OperationCommand::List { super_node, state } => {
            let query = OperationListQuery {
                super_node,
                state,
                ..OperationListQuery::default()
            };
            let items = client.list::<OperationList, _>(&[], &query).await?;
            session.print_list(&items, "no operations", list)
        }
        OperationCommand::Show { operation } => {
            let view = client
                .get::<OperationShow>(&[&operation], &supernode_api::Watch::default())
                .await?;
            session.print(&view, |look| show(&view, look))
        }
        OperationCommand::Cancel {
            operation,
            key,
            wait,
        } => {
            let mut view = client
                .call::<OperationCancel>(&[&operation], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            if wait.wait {
                view = progress::watch(&client, view).await?;
            }
            session.print(&view, |_| line(&view))?;
            match view.operation.state {
                OperationState::Cancelled { .. } => Ok(()),
                _ => progress::outcome(&view),
            }
        }
        OperationCommand::Wait { operation } => {
            let view = client
                .operation_after(&operation, None, std::time::Duration::ZERO)
                .await?;
            finish(session, &client, view, true).await
        }
    }
}

/// What a command that started an operation says: that it runs, or with `wait` how it ended.
pub(crate) async fn finish(
    session: &Session<'_>,
    client: &Client,
    started: OperationView,
    wait: bool,
) -> Result<(), Failure> {
    if !wait {
        session.print(&started, |_| line(&started))?;
        if !session.json() && !started.operation.state.ended() {
            say(&format!(
                "wait for it with `supernode operation wait {}`",
                started.operation.id
            ));
        }
        return Ok(());
    }
    let ended = progress::watch(client, started).await?;
    session.print(&ended, |_| line(&ended))?;
    progress::outcome(&ended)
}

/// `scale_up train`
pub(crate) fn title(view: &OperationView) -> String {
    let name = view
        .super_node_name
        .as_ref()
        .map_or(String::new(), |name| format!(" {name}"));
    format!("{}{name}", view.operation.kind.word())
}

/// `scale_up of train`
pub(crate) fn subject(view: &OperationView) -> String {
    let name = view
        .super_node_name
        .as_ref()
        .map_or(String::new(), |name| format!(" of {name}"));
    format!("{}{name}", view.operation.kind.word())
}

fn line(view: &OperationView) -> String {
    let operation = &view.operation;
    let took = operation.ended_at.map_or(String::new(), |ended| {
        let milliseconds = ended.since(operation.created_at).as_millis();
        format!(
            " in {}.{} s",
            milliseconds / 1000,
            milliseconds % 1000 / 100
        )
    });
    let detail = detail(view);
    let detail = if detail.is_empty() {
        detail
    } else {
        format!(": {detail}")
    };
    format!(
        "{} {} {}{took}{detail}\n",
        operation.id,
        subject(view),
        operation.state.word()
    )
}

fn detail(view: &OperationView) -> String {
    clean(match &view.operation.state {
        OperationState::Running { waits_for } => waits_for,
        OperationState::Failed { reason } => reason,
        OperationState::Cancelled { detail } => detail,
        OperationState::Succeeded => "",
    })
}

/// Operations as a table.
pub(crate) fn list(items: &[OperationView], look: &Look) -> String {
    let mut table = Table::new(&[
        "ID",
        "KIND",
        "SUPER NODE",
        "STATE",
        "DONE",
        "AGE",
        "ACTOR",
        "DETAIL",
    ]);
    for view in items {
        let operation = &view.operation;
        table.row([
            cell(&operation.id),
            cell(operation.kind.word()),
            cell(or_dash(view.super_node_name.as_ref())),
            state(operation.state.word()),
            cell(format!("{}/{}", view.targets_done, operation.targets.len())),
            cell(look.age(operation.created_at)),
            cell(&operation.actor),
            cell(detail(view)),
        ]);
    }
    table.render(look)
}

fn show(view: &OperationView, look: &Look) -> String {
    let operation = &view.operation;
    let mut text = fields(&[
        ("id", operation.id.to_string()),
        ("kind", operation.kind.word().to_owned()),
        ("super node", or_dash(view.super_node_name.as_ref())),
        ("state", operation.state.word().to_owned()),
        ("detail", detail(view)),
        ("asked by", operation.actor.clone()),
        ("created", look.moment(operation.created_at)),
        ("deadline", look.moment(operation.deadline)),
        (
            "ended",
            or_dash(operation.ended_at.map(|moment| look.moment(moment))),
        ),
        (
            "took",
            or_dash(
                operation
                    .ended_at
                    .map(|ended| seconds(ended.since(operation.created_at).as_secs())),
            ),
        ),
        (
            "cancel asked",
            if operation.cancel_requested {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
        ),
    ]);
    let mut table = Table::new(&["TARGET", "STATE", "STEP", "CHOSEN BECAUSE"]);
    for target in &operation.targets {
        let slot = usize::try_from(target.slot).unwrap_or(usize::MAX);
        let step = match &target.state {
            TargetState::Active { step } => step.as_str(),
            TargetState::Done => "",
            TargetState::Failed { reason } => reason,
        };
        table.row([
            cell(or_dash(view.target_names.get(slot).cloned().flatten())),
            state(target.state.word()),
            cell(step),
            cell(&target.chosen_because),
        ]);
    }
    if !operation.targets.is_empty() {
        text += &section("targets", &table.render(look));
    }
    text += &steps(view, look);
    text
}

/// The steps of targets that have any, with their evidence.
pub(crate) fn steps(view: &OperationView, look: &Look) -> String {
    let mut table = Table::new(&[
        "TARGET", "LAYER", "OF", "STATE", "BEFORE", "AFTER", "DETAIL",
    ]);
    let mut any = false;
    for target in &view.operation.targets {
        let slot = usize::try_from(target.slot).unwrap_or(usize::MAX);
        let name = or_dash(view.target_names.get(slot).cloned().flatten());
        for step in &target.steps {
            any = true;
            table.row([
                cell(&name),
                cell(&step.layer),
                cell(&step.subject),
                state(step.state.word()),
                cell(or_dash(step.before_bytes)),
                cell(or_dash(step.after_bytes)),
                cell(&step.detail),
            ]);
        }
    }
    if any {
        section(
            "steps, with the size of each layer in bytes",
            &table.render(look),
        )
    } else {
        String::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use supernode_types::Timestamp;

    /// A scale-up of `train` by one node, `n3`.
    pub(crate) fn sample(operation_state: &Value, target_state: &Value) -> OperationView {
        let mut value = json!({
            "id": "op-01kb000000000000000000000a", "kind": "scale_up", "super_node": "sn-01kb000000000000000000000a",
            "super_node_name": "train", "targets": [{"slot": 0, "node": null, "provision": null, "chosen_because": "same rack",
            "state": target_state}], "target_names": ["n3"], "targets_done": 0, "actor": "ada", "deadline": "2025-11-23T12:28:20Z",
            "cancel_requested": false, "generation": 2, "created_at": "2025-11-23T12:13:20Z", "ended_at": null
        });
        let object = value.as_object_mut().expect("written above");
        object.extend(operation_state.as_object().expect("a state").clone());
        crate::sample::answer(&value)
    }

    const LOOK: Look = Look {
        now: Timestamp(1_763_900_010_000_000),
        color: false,
    };

    #[test]
    fn the_list_says_what_each_waits_for() {
        let view = sample(
            &json!({"state": "running", "waits_for": "n3 to join"}),
            &json!({"state": "active", "step": "joining"}),
        );
        assert_eq!(
            list(&[view], &LOOK),
            "ID                             KIND      SUPER NODE  STATE    DONE  AGE  ACTOR  DETAIL\n\
             op-01kb000000000000000000000a  scale_up  train       running  0/1   10s  ada    n3 to join\n"
        );
    }

    #[test]
    fn the_detail_shows_targets_and_why_they_were_chosen() {
        let mut view = sample(
            &json!({"state": "failed", "reason": "n3 is gone"}),
            &json!({"state": "failed", "reason": "lost"}),
        );
        view.operation.ended_at = Some(Timestamp(1_763_900_002_500_000));
        let text = show(&view, &LOOK);
        assert!(
            text.contains("detail:        n3 is gone\n") && text.contains("took:          2s\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "targets\nTARGET  STATE   STEP  CHOSEN BECAUSE\nn3      failed  lost  same rack\n"
            ),
            "{text}"
        );
        assert_eq!(
            line(&view),
            "op-01kb000000000000000000000a scale_up of train failed in 2.5 s: n3 is gone\n"
        );
    }
}
