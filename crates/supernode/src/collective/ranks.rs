//! The processes of `supernode collective`: starts one for each rank, collects what they say, and leaves none behind.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail};
use supernode_collectives::group::environment::{
    ADDRESSES, GROUP, KEY, ROOT, SHARED_MEMORY, unused_root,
};
use supernode_types::entropy::SystemEntropy;
use supernode_types::job::GroupKey;

use super::{RankOptions, Task, Transport};

/// Runs a task on all ranks and gives what each of them printed.
pub(super) fn run(options: RankOptions, task: &Task) -> anyhow::Result<Vec<String>> {
    let task = serde_json::to_string(task)?;
    let key = GroupKey::new(&SystemEntropy);
    let root = unused_root([127, 0, 0, 1].into()).context("loopback has no free port")?;
    let shares = match options.transport {
        Transport::SharedMemory => "1",
        Transport::Tcp => "0",
    };
    let program = std::env::current_exe().context("this program does not know its own path")?;
    let mut children = Children(Vec::new());
    for rank in 0..options.ranks {
        let child = Command::new(&program)
            .args(["collective", "rank", &task])
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", options.ranks.to_string())
            .env(ROOT, root.to_string())
            .env(KEY, key.expose())
            .env(GROUP, "supernode collective")
            .env(ADDRESSES, "127.0.0.1")
            .env(SHARED_MEMORY, shares)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start rank {rank}"))?;
        children.0.push(child);
    }
    let outputs = children
        .0
        .iter_mut()
        .map(|child| child.stdout.take().context("the output is a pipe"));
    let outputs = outputs.collect::<anyhow::Result<Vec<_>>>()?;
    let readers: Vec<_> = outputs
        .into_iter()
        .map(|mut output| {
            thread::spawn(move || {
                let mut text = String::new();
                output.read_to_string(&mut text).map(|_| text)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for reader in readers {
        let Ok(answer) = reader.join() else {
            bail!("reading the output of a rank failed");
        };
        answers.push(answer.context("a rank printed no text")?);
    }
    for (rank, child) in children.0.iter_mut().enumerate() {
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for rank {rank}"))?;
        if !status.success() {
            bail!("rank {rank} failed ({status}); what it said stands above");
        }
    }
    Ok(answers)
}

/// Kills what is left when something goes wrong.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Those that have ended were waited for, and are not killed again.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
