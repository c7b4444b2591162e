//! `supernode spec …`: declared hardware specifications.

use std::path::PathBuf;

use supernode_api::Nothing;
use supernode_api::spec::{SpecCreate, SpecDeclare, SpecDelete, SpecList, SpecShow, SpecView};
use supernode_types::Name;
use supernode_types::spec::SpecDefinition;

use crate::change::{KeyOption, Precondition};
use crate::document;
use crate::failure::Failure;
use crate::output::{Look, Table, bytes, cell, fields, or_dash};
use crate::session::Session;

/// Declared hardware specifications.
#[derive(Debug, clap::Subcommand)]
pub enum SpecCommand {
    /// List declared specs
    #[command(visible_alias = "ls")]
    List,
    /// Show a spec
    Show {
        /// Its name or id
        spec: String,
    },
    /// Declare a spec, from a node that has it or from a file
    #[command(group = clap::ArgGroup::new("source").required(true))]
    Declare {
        /// Its name
        name: Name,
        /// Learn it from this node
        #[arg(long, value_name = "NODE", group = "source")]
        from_node: Option<String>,
        /// Read it from this file, TOML or JSON; `-` is standard input
        #[arg(long, value_name = "FILE", group = "source")]
        file: Option<PathBuf>,
        /// The most nodes in one super node [default: 48]
        #[arg(long, value_name = "N")]
        maximum_nodes: Option<u32>,
        /// The largest system disk of a node, in GiB [default: 1024]
        #[arg(long, value_name = "GIB")]
        maximum_disk: Option<u32>,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Delete a spec that no super node uses
    Delete {
        /// Its name or id
        spec: String,
        #[command(flatten)]
        precondition: Precondition,
    },
}

pub(crate) async fn run(session: &Session<'_>, command: SpecCommand) -> Result<(), Failure> {
    match command {
        SpecCommand::List => {
            let items = session
                .client()?
                .list::<SpecList, _>(&[], &Nothing {})
                .await?;
            session.print_list(
                &items,
                "no specs; declare one with `supernode spec declare NAME --from-node NODE`",
                list,
            )
        }
        SpecCommand::Show { spec } => {
            let view = session
                .client()?
                .get::<SpecShow>(&[&spec], &Nothing {})
                .await?;
            session.print(&view, |look| show(&view, look))
        }
        SpecCommand::Declare {
            name,
            from_node,
            file,
            maximum_nodes,
            maximum_disk,
            key,
        } => {
            let definition = file
                .map(|file| document::read::<SpecDefinition>(&file))
                .transpose()?;
            let request = SpecCreate {
                name,
                definition,
                learn_from: from_node,
                maximum_nodes,
                maximum_disk_gib: maximum_disk,
            };
            let view = session
                .client()?
                .call::<SpecDeclare>(&[], &Nothing {}, &request, &key.call())
                .await?;
            session.print(&view, |look| show(&view, look))
        }
        SpecCommand::Delete { spec, precondition } => {
            let done = session
                .client()?
                .call::<SpecDelete>(&[&spec], &Nothing {}, &Nothing {}, &precondition.call())
                .await?;
            session.print(&done, |_| format!("{spec} is deleted\n"))
        }
    }
}

fn accelerators(definition: &SpecDefinition) -> String {
    let accelerator = &definition.accelerator;
    if accelerator.count == Some(0) {
        return "none".to_owned();
    }
    let parts = [
        accelerator.count.map(|count| format!("{count} x")),
        accelerator.vendor.map(|vendor| vendor.to_string()),
        accelerator.model.clone(),
        accelerator.memory_bytes.map(bytes),
    ];
    words(parts)
}

fn cpu(definition: &SpecDefinition) -> String {
    let cpu = &definition.cpu;
    words([
        cpu.model.clone(),
        cpu.cores.map(|cores| format!("{cores} cores")),
        cpu.architecture.clone(),
    ])
}

fn nics(definition: &SpecDefinition) -> String {
    let nics = &definition.nics;
    let rdma = nics
        .rdma
        .map(|rdma| if rdma { "with RDMA" } else { "without RDMA" }.to_owned());
    words([
        nics.count.map(|count| format!("at least {count}")),
        nics.speed_mbps.map(|speed| format!("{speed} Mbit/s")),
        rdma,
    ])
}

fn words<const N: usize>(parts: [Option<String>; N]) -> String {
    let said: Vec<String> = parts.into_iter().flatten().collect();
    if said.is_empty() {
        "any".to_owned()
    } else {
        said.join(" ")
    }
}

fn list(items: &[SpecView], look: &Look) -> String {
    let mut table = Table::new(&[
        "NAME",
        "NODES",
        "MAXIMUM",
        "ACCELERATORS",
        "CPU",
        "MEMORY",
        "AGE",
    ]);
    for view in items {
        table.row([
            cell(&view.name),
            cell(view.matching_nodes),
            cell(view.maximum_nodes),
            cell(accelerators(&view.definition)),
            cell(cpu(&view.definition)),
            cell(
                view.definition
                    .memory
                    .size_bytes
                    .map_or("any".to_owned(), bytes),
            ),
            cell(look.age(view.created_at)),
        ]);
    }
    table.render(look)
}

fn show(view: &SpecView, look: &Look) -> String {
    let memory = &view.definition.memory;
    fields(&[
        ("name", view.name.to_string()),
        ("id", view.id.to_string()),
        ("matching nodes", view.matching_nodes.to_string()),
        ("maximum in a super node", view.maximum_nodes.to_string()),
        (
            "maximum system disk",
            format!("{} GiB", view.maximum_disk_gib),
        ),
        ("accelerators", accelerators(&view.definition)),
        ("cpu", cpu(&view.definition)),
        ("memory", memory.size_bytes.map_or("any".to_owned(), bytes)),
        (
            "tolerance",
            or_dash(
                memory
                    .tolerance_percent
                    .map(|percent| format!("{percent} %")),
            ),
        ),
        ("network interfaces", nics(&view.definition)),
        ("created", look.moment(view.created_at)),
        ("generation", view.generation.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use supernode_types::Timestamp;

    #[test]
    fn a_spec_says_what_it_asks_in_words() {
        let view: SpecView = crate::sample::answer(&json!({
            "id": "spec-01kb000000000000000000000a", "name": "a3", "maximum_nodes": 48, "maximum_disk_gib": 1024, "matching_nodes": 2, "generation": 1,
            "created_at": "2025-11-23T12:13:10Z",
            "definition": {"accelerator": {"vendor": "ascend", "count": 16}, "memory": {"size_bytes": 2_199_023_255_552_u64}}
        }));
        let look = Look {
            now: Timestamp(1_763_900_000_000_000),
            color: false,
        };
        assert_eq!(
            list(&[view], &look),
            "NAME  NODES  MAXIMUM  ACCELERATORS  CPU  MEMORY   AGE\na3    2      48       16 x ascend   any  2.0 TiB  10s\n"
        );
    }
}
