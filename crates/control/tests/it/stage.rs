//! A world whose provisioner the test plays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use supernode_control::provisioner::{JoinParameters, Provisioner, Runner};
use supernode_control::scale_up::Selection;
use supernode_control::{Refusal, Settings};
use supernode_store::provision::provision_get;
use supernode_types::operation::Provision;
use supernode_types::{Entropy, ProvisionId};
use tempfile::TempDir;

use crate::world::{Engine, World, settings};

/// A world whose provisioner is a script that plays what the test writes into a file.
pub(crate) struct Stage {
    pub(crate) world: World,
    runner: Runner,
    directory: TempDir,
}

/// Answers with what stands in `answer` (a shell text), and keeps every request.
const SCRIPT: &str = r#"cat >"$0/request-$(date +%s%N)-$$"; . "$0/answer""#;

pub(crate) fn secret(entropy: &dyn Entropy) -> (String, String) {
    let secret = format!("secret-{}", entropy.next_u64());
    let hash = hash(&secret);
    (secret, hash)
}

pub(crate) fn hash(secret: &str) -> String {
    format!("hash of {secret}")
}

pub(crate) fn join() -> JoinParameters {
    JoinParameters {
        server: "s:1".into(),
        api: "https://s".into(),
        token: String::new(),
        ca_pem: "PEM".into(),
    }
}

impl Stage {
    pub(crate) fn new(engine: Engine, spares: usize) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a temporary directory");
        let command = [
            "/bin/sh",
            "-c",
            SCRIPT,
            &directory.path().display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        let provisioner = Provisioner::Exec {
            command,
            time_limit: Duration::from_secs(20),
        };
        let mut world = World::with_spares_and(
            engine,
            spares,
            Settings {
                provisioner,
                ..settings()
            },
        );
        world.created("train", 1);
        let runner = Runner::new(world.control.clone(), join(), secret);
        let stage = Self {
            world,
            runner,
            directory,
        };
        stage.answer(r#"{"status":"created"}"#);
        stage
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn answer(&self, json: &str) {
        self.plays(&format!("echo '{json}'"));
    }

    pub(crate) fn plays(&self, script: &str) {
        std::fs::write(self.path().join("answer"), script).expect("writable");
    }

    /// Calls what is due; answers the requests that the provisioner got.
    pub(crate) fn call(&self) -> Vec<serde_json::Value> {
        self.world.block_on(self.runner.run_due()).expect("stored");
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("request-"))
            })
            .collect();
        files.sort();
        files
            .into_iter()
            .map(|file| {
                let text = std::fs::read(&file).expect("readable");
                std::fs::remove_file(&file).expect("ours");
                serde_json::from_slice(&text).expect("JSON")
            })
            .collect()
    }

    pub(crate) fn restart(&mut self) {
        let placeholder = supernode_control::Control::new(
            supernode_store::Store::open_inline().expect("in memory"),
            std::sync::Arc::new(supernode_types::time::SystemClock),
            std::sync::Arc::new(supernode_types::entropy::SeededEntropy::new(1)),
            settings(),
        );
        self.runner = Runner::new(placeholder, join(), secret);
        self.world.restart();
        self.runner = Runner::new(self.world.control.clone(), join(), secret);
    }

    pub(crate) fn provision(&self, id: &ProvisionId) -> Provision {
        let id = id.clone();
        self.world
            .read(move |tx| Ok(provision_get(tx, &id)?.expect("it is kept")))
    }

    /// The machine that was made starts its agent.
    pub(crate) fn enrol(&mut self, request: &serde_json::Value) -> Result<String, Refusal> {
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let (name, token) = (text(&request["node_name"]), text(&request["join"]["token"]));
        let agent = self
            .world
            .ask_to_enrol(&hash(&token), &name, &format!("machine-{name}"))?;
        self.world.agents.insert(name.clone(), agent);
        Ok(name)
    }

    /// Scales up by one node that has to be made; answers the operation, the provision and the request.
    pub(crate) fn ordered(
        &mut self,
    ) -> (supernode_types::OperationId, ProvisionId, serde_json::Value) {
        let operation = self
            .world
            .scale_up("train", Selection::Count(1))
            .expect("accepted");
        let provision = operation.targets[0]
            .provision
            .clone()
            .expect("no spare is left");
        self.world.settle();
        let request = self.call().remove(0);
        self.world.settle();
        (operation.id, provision, request)
    }
}
