//! Nodes that a provisioner makes and takes away, with a provisioner that the test plays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use supernode_control::provisioner::{JoinParameters, Provisioner, Runner};
use supernode_control::scale_up::Selection;
use supernode_control::{Refusal, Settings};
use supernode_store::provision::{provision_get, provision_list_open};
use supernode_types::node::NodePolicy;
use supernode_types::operation::{OperationState, Provision, ProvisionState};
use supernode_types::{Entropy, ProvisionId};
use tempfile::TempDir;

use crate::world::{DEADLINE, Engine, World, on_every_engine, settings};

on_every_engine!(
    a_node_is_made_joins_and_is_taken_away,
    a_wish_is_called_again_with_back_off_and_given_up,
    a_refused_wish_fails_at_once,
    a_pending_answer_is_asked_for_again,
    a_cancelled_wish_is_deleted_and_its_token_is_worth_nothing,
    a_node_that_enrols_before_the_cancel_becomes_a_spare,
    a_node_that_enrols_although_its_making_failed_becomes_a_spare,
    a_repeated_call_brings_the_same_token_and_old_tokens_stay_good,
    a_provision_brings_one_node_of_its_name,
    a_node_whose_deletion_failed_can_be_removed_later,
    a_removal_that_is_given_up_while_the_provisioner_deletes_keeps_the_node_away_from_work,
    without_a_provisioner_nothing_waits_for_ever,
    calls_run_side_by_side,
    a_wish_survives_a_restart,
    provisioned_nodes_are_where_they_were_ordered,
);

/// A world whose provisioner is a script that plays what the test writes into a file.
struct Stage {
    world: World,
    runner: Runner,
    directory: TempDir,
}

/// Answers with what stands in `answer` (a shell text), and keeps every request.
const SCRIPT: &str = r#"cat >"$0/request-$(date +%s%N)-$$"; . "$0/answer""#;

fn secret(entropy: &dyn Entropy) -> (String, String) {
    let secret = format!("secret-{}", entropy.next_u64());
    let hash = hash(&secret);
    (secret, hash)
}

fn hash(secret: &str) -> String {
    format!("hash of {secret}")
}

fn join() -> JoinParameters {
    JoinParameters {
        server: "s:1".into(),
        api: "https://s".into(),
        token: String::new(),
        ca_pem: "PEM".into(),
    }
}

impl Stage {
    fn new(engine: Engine, spares: usize) -> Self {
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

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn answer(&self, json: &str) {
        self.plays(&format!("echo '{json}'"));
    }

    fn plays(&self, script: &str) {
        std::fs::write(self.path().join("answer"), script).expect("writable");
    }

    /// Calls what is due; answers the requests that the provisioner got.
    fn call(&self) -> Vec<serde_json::Value> {
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

    fn restart(&mut self) {
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

    fn provision(&self, id: &ProvisionId) -> Provision {
        let id = id.clone();
        self.world
            .read(move |tx| Ok(provision_get(tx, &id)?.expect("it is kept")))
    }

    /// The machine that was made starts its agent.
    fn enrol(&mut self, request: &serde_json::Value) -> Result<String, Refusal> {
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let (name, token) = (text(&request["node_name"]), text(&request["join"]["token"]));
        let agent = self
            .world
            .ask_to_enrol(&hash(&token), &name, &format!("machine-{name}"))?;
        self.world.agents.insert(name.clone(), agent);
        Ok(name)
    }

    /// Scales up by one node that has to be made; answers the operation, the provision and the request.
    fn ordered(&mut self) -> (supernode_types::OperationId, ProvisionId, serde_json::Value) {
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

fn a_node_is_made_joins_and_is_taken_away(engine: Engine) {
    let mut stage = Stage::new(engine, 2);
    let operation = stage
        .world
        .scale_up("train", Selection::Count(2))
        .expect("accepted");
    assert!(operation.targets[0].provision.is_none(), "spares first");
    let provision = operation.targets[1]
        .provision
        .clone()
        .expect("the rest is made");
    stage.world.settle();
    let requests = stage.call();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(
        (&request["action"], &request["request_id"]),
        (&"create".into(), &provision.as_str().into())
    );
    assert_eq!(
        (&request["super_node"], &request["spec"]["name"]),
        (&"train".into(), &"std".into())
    );
    assert_eq!(request["join"]["server"], "s:1");
    assert_eq!(
        stage.call(),
        Vec::<serde_json::Value>::new(),
        "once is enough"
    );
    stage.world.settle();
    let OperationState::Running { waits_for } = stage.world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(waits_for.contains("has not enrolled yet"), "{waits_for}");
    let name = stage.enrol(request).expect("wanted");
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(stage.world.members("train").len(), 3);
    stage
        .world
        .scale_down(
            "train",
            Selection::Named(vec![name.clone()]),
            supernode_types::super_node::DrainMode::Refuse,
        )
        .expect("idle");
    stage.world.settle();
    let removal = stage.world.remove(&name).expect("a spare");
    stage.world.settle();
    stage.answer(r#"{"status":"deleted"}"#);
    let requests = stage.call();
    assert_eq!(requests[0]["action"], "delete");
    assert_ne!(
        requests[0]["request_id"], request["request_id"],
        "another change has another key"
    );
    assert_eq!(requests[0]["node_name"], name.as_str());
    assert!(requests[0].get("join").is_none());
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&removal.id).state,
        OperationState::Succeeded
    );
    assert_eq!(stage.provision(&provision).state, ProvisionState::Deleted);
    assert_eq!(stage.world.nodes().len(), 2);
}

fn a_wish_is_called_again_with_back_off_and_given_up(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    stage.plays("echo 'no quota' >&2; exit 1");
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    let provision = operation.targets[0].provision.clone().expect("made");
    let mut delays = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let mut waited = 0;
        let mut requests = stage.call();
        while requests.is_empty() {
            stage.world.wait(1);
            waited += 1;
            requests = stage.call();
        }
        delays.push(waited);
        ids.insert(requests[0]["request_id"].to_string());
    }
    assert_eq!(delays, [0, 1, 2, 4, 8, 16]);
    assert_eq!(ids.len(), 1, "the same wish has the same key");
    stage.world.settle();
    let OperationState::Failed { reason } = stage.world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(reason.contains("no quota (6 calls)"), "{reason}");
    assert_eq!(stage.world.event_count("provision.failed"), 1);
    // Whether it was made is not known: it is taken away to be sure, however long that takes.
    assert_eq!(stage.provision(&provision).state.word(), "deleting");
    for _ in 0..20 {
        stage.world.wait(300);
        assert_eq!(stage.call().len(), 1);
    }
    stage.answer(r#"{"status":"absent"}"#);
    stage.world.wait(300);
    stage.call();
    assert_eq!(stage.provision(&provision).state, ProvisionState::Deleted);
    assert_eq!(stage.world.members("train"), ["n1"]);
}

fn a_refused_wish_fails_at_once(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    stage.plays("echo 'unknown flavour' >&2; exit 2");
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    assert_eq!(stage.call().len(), 1);
    stage.world.settle();
    let OperationState::Failed { reason } = stage.world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(reason.contains("unknown flavour"), "{reason}");
}

fn a_pending_answer_is_asked_for_again(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    stage.answer(r#"{"status":"pending","message":"booting"}"#);
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    for _ in 0..20 {
        assert_eq!(stage.call().len(), 1);
        assert_eq!(stage.call().len(), 0, "not before its time");
        stage.world.wait(2);
    }
    stage.world.settle();
    let OperationState::Running { waits_for } = stage.world.operation(&operation.id).state else {
        panic!("it waits");
    };
    assert!(waits_for.contains("booting"), "{waits_for}");
}

fn a_cancelled_wish_is_deleted_and_its_token_is_worth_nothing(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let (operation, provision, request) = stage.ordered();
    stage.world.cancel(&operation).expect("it runs");
    stage.world.settle();
    assert_eq!(stage.world.operation(&operation).state.word(), "cancelled");
    // Between the cancel and the deletion the machine comes up: it does not become a stray.
    let late = stage.enrol(&request);
    assert!(matches!(late, Err(Refusal::Forbidden(_))), "{late:?}");
    stage.answer(r#"{"status":"deleted"}"#);
    assert_eq!(stage.call()[0]["action"], "delete");
    assert_eq!(stage.provision(&provision).state, ProvisionState::Deleted);
    assert_eq!(stage.call().len(), 0);
    assert_eq!(stage.world.nodes().len(), 1);
}

fn a_node_that_enrols_before_the_cancel_becomes_a_spare(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let (operation, provision, request) = stage.ordered();
    let name = stage.enrol(&request).expect("wanted");
    stage.world.cancel(&operation).expect("it runs");
    stage.world.settle();
    let OperationState::Cancelled { detail } = stage.world.operation(&operation).state else {
        panic!("it was cancelled");
    };
    assert!(detail.contains("stays as a spare"), "{detail}");
    assert_eq!(stage.world.spares(), std::slice::from_ref(&name));
    assert_eq!(stage.provision(&provision).state, ProvisionState::Created);
    stage.world.remove(&name).expect("a spare");
    stage.world.settle();
    assert_eq!(
        stage.call()[0]["action"],
        "delete",
        "its provisioner is asked when it is removed"
    );
}

fn a_node_that_enrols_although_its_making_failed_becomes_a_spare(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    stage.plays("echo 'timeout' >&2; exit 1");
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    let provision = operation.targets[0].provision.clone().expect("made");
    let mut last = None;
    for _ in 0..6 {
        last = stage.call().pop().or(last);
        stage.world.wait(32);
    }
    // Given up, but the operation has not seen it yet: the machine is there all the same.
    assert_eq!(stage.provision(&provision).state.word(), "failed");
    let name = stage
        .enrol(&last.expect("called"))
        .expect("its token is good");
    assert_eq!(stage.provision(&provision).state, ProvisionState::Created);
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert!(stage.world.members("train").contains(&name));
}

fn a_repeated_call_brings_the_same_token_and_old_tokens_stay_good(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    // It made the node, and its answer was lost.
    stage.plays("exit 1");
    stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    let first = stage.call().remove(0);
    stage.world.wait(1);
    let second = stage.call().remove(0);
    assert_eq!(first["join"]["token"], second["join"]["token"]);
    stage.restart();
    stage.world.wait(2);
    let third = stage.call().remove(0);
    assert_ne!(
        first["join"]["token"], third["join"]["token"],
        "the secret itself was never stored"
    );
    // The machine has the one that it was made with.
    stage.enrol(&first).expect("still good");
    stage.world.settle();
    assert_eq!(stage.world.members("train").len(), 2);
}

fn a_provision_brings_one_node_of_its_name(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let (_, provision, mut request) = stage.ordered();
    let good = request["node_name"].clone();
    request["node_name"] = "other".into();
    assert!(matches!(stage.enrol(&request), Err(Refusal::Invalid(_))));
    request["node_name"] = good;
    let name = stage.enrol(&request).expect("wanted");
    stage.enrol(&request).expect("the same machine again");
    stage.restart();
    stage.world.settle();
    let node = stage.world.node(&name);
    assert_eq!(stage.provision(&provision).node, Some(node.id));
    let token = request["join"]["token"]
        .as_str()
        .expect("a text")
        .to_owned();
    let other = stage
        .world
        .ask_to_enrol(&hash(&token), &name, "another machine");
    assert!(matches!(other, Err(Refusal::AlreadyExists(_))), "{other:?}");
}

fn a_node_whose_deletion_failed_can_be_removed_later(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let (operation, provision, request) = stage.ordered();
    let name = stage.enrol(&request).expect("wanted");
    stage.world.cancel(&operation).expect("it runs");
    stage.world.settle();
    stage.plays("echo 'locked' >&2; exit 2");
    let removal = stage.world.remove(&name).expect("a spare").id;
    stage.world.settle();
    stage.call();
    stage.world.settle();
    let OperationState::Failed { reason } = stage.world.operation(&removal).state else {
        panic!("it failed");
    };
    assert!(reason.contains("locked"), "{reason}");
    let node = stage.world.node(&name);
    assert_eq!(node.policy.word(), "in_service", "as it was before");
    stage.answer(r#"{"status":"deleted"}"#);
    let removal = stage.world.remove(&name).expect("asked again").id;
    stage.world.settle();
    assert_eq!(stage.call().len(), 1);
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&removal).state,
        OperationState::Succeeded
    );
    assert_eq!(stage.provision(&provision).state, ProvisionState::Deleted);
}

fn a_removal_that_is_given_up_while_the_provisioner_deletes_keeps_the_node_away_from_work(
    engine: Engine,
) {
    let mut stage = Stage::new(engine, 1);
    let (operation, _, request) = stage.ordered();
    let name = stage.enrol(&request).expect("wanted");
    stage.world.cancel(&operation).expect("it runs");
    stage.world.settle();
    let removal = stage.world.remove(&name).expect("a spare").id;
    stage.world.settle();
    stage.answer(r#"{"status":"pending","message":"slow"}"#);
    stage.call();
    stage.world.wait(15 * 60);
    stage.world.settle();
    assert_eq!(stage.world.operation(&removal).state.word(), "failed");
    let NodePolicy::Cordoned(cordon) = stage.world.node(&name).policy else {
        panic!("it is kept away from work");
    };
    assert!(
        cordon.reason.contains("its provisioner deletes it"),
        "{cordon:?}"
    );
    stage.answer(r#"{"status":"deleted"}"#);
    assert_eq!(stage.call().len(), 1, "it goes on");
    let removal = stage.world.remove(&name).expect("once more").id;
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&removal).state,
        OperationState::Succeeded
    );
}

fn without_a_provisioner_nothing_waits_for_ever(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    stage.world.settle();
    // The server is started again without one.
    let pool = supernode_control::Control::new(
        stage.world.control.store().clone(),
        std::sync::Arc::new(supernode_types::time::SystemClock),
        std::sync::Arc::clone(stage.world.control.entropy()),
        settings(),
    );
    stage
        .world
        .block_on(Runner::new(pool, join(), secret).run_due())
        .expect("stored");
    stage.world.settle();
    let OperationState::Failed { reason } = stage.world.operation(&operation.id).state else {
        panic!("it failed");
    };
    assert!(reason.contains("no provisioner"), "{reason}");
}

fn calls_run_side_by_side(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    // Each call waits until all four are there.
    stage.plays(r#"touch "$0/here-$$"; while [ "$(ls "$0" | grep -c ^here-)" -lt 4 ]; do :; done; echo '{"status":"created"}'"#);
    stage
        .world
        .scale_up("train", Selection::Count(4))
        .expect("accepted");
    let requests = stage.call();
    assert_eq!(requests.len(), 4);
    let names: std::collections::BTreeSet<_> = requests
        .iter()
        .map(|request| request["node_name"].to_string())
        .collect();
    assert_eq!(names.len(), 4);
    for request in &requests {
        stage.enrol(request).expect("wanted");
    }
    stage.world.settle();
    assert_eq!(stage.world.members("train").len(), 5);
}

fn a_wish_survives_a_restart(engine: Engine) {
    let mut stage = Stage::new(engine, 1);
    let operation = stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    stage.restart();
    stage.world.settle();
    let request = stage.call().remove(0);
    stage.restart();
    stage.enrol(&request).expect("wanted");
    stage.restart();
    stage.world.settle();
    assert_eq!(
        stage.world.operation(&operation.id).state,
        OperationState::Succeeded
    );
    assert_eq!(stage.call().len(), 0, "nothing is made twice");
    // The deadline takes back what never came.
    stage
        .world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    stage.call();
    stage.world.wait(DEADLINE.as_secs());
    stage.world.settle();
    stage.restart();
    assert_eq!(stage.call()[0]["action"], "delete");
    let open = stage.world.read(|tx| Ok(provision_list_open(tx)?));
    assert_eq!(
        open.len(),
        1,
        "it said `created` to a delete: not understood, so asked again"
    );
}

fn provisioned_nodes_are_where_they_were_ordered(engine: Engine) {
    let mut stage = Stage::new(engine, 2);
    let position = supernode_types::node::Position {
        hyperplane: Some("h1".into()),
        ..Default::default()
    };
    stage
        .world
        .change("node_update", move |tx, intent| {
            supernode_control::node::update(tx, intent, "n2", None, Some(&position)).map(drop)
        })
        .expect("a spare");
    stage
        .world
        .create("other", Selection::Named(vec!["n2".into()]))
        .expect("accepted");
    stage.world.settle();
    stage
        .world
        .scale_up("other", Selection::Count(1))
        .expect("accepted");
    stage.world.settle();
    let request = stage.call().remove(0);
    assert_eq!(request["hyperplane"], "h1");
    let name = stage.enrol(&request).expect("wanted");
    stage.world.settle();
    assert_eq!(stage.world.members("other"), ["n2".to_owned(), name]);
}
