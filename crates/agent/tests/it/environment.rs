//! The environment executor on real files below a private root.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use supernode_agent::environment::{
    EnvironmentError, EnvironmentExecutor, EnvironmentOptions, SysctlMode,
};
use supernode_types::environment::{
    EnvironmentDesired, EnvironmentFile, ItemCondition, ItemState, Member,
};
use supernode_types::inventory::Inventory;

/// A node's file system, with a few files in it.
struct Host {
    temporary: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self {
            temporary: tempfile::tempdir().expect("a temporary directory"),
        };
        for (path, content, mode) in [
            ("etc/hosts", "127.0.0.1\tlocalhost\n", 0o644),
            ("etc/app/old.conf", "original\n", 0o600),
            ("etc/other", "untouched\n", 0o644),
        ] {
            let path = host.root().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("it is made");
            std::fs::write(&path, content).expect("it is written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .expect("it is ours");
        }
        let kernel = host.kernel().join("net/core");
        std::fs::create_dir_all(&kernel).expect("it is made");
        std::fs::write(kernel.join("somaxconn"), "128\n").expect("it is written");
        std::fs::write(kernel.join("range"), "1\t2\n").expect("it is written");
        host
    }

    fn root(&self) -> PathBuf {
        self.temporary.path().join("root")
    }

    /// Stands in for /proc/sys.
    fn kernel(&self) -> PathBuf {
        self.temporary.path().join("kernel")
    }

    fn executor(&self, interrupt_at: Option<u64>) -> EnvironmentExecutor {
        let mut options = EnvironmentOptions::for_root(&self.root());
        assert_eq!(
            options.sysctls,
            SysctlMode::Record,
            "a private root never touches the kernel"
        );
        options.sysctls = SysctlMode::Set(self.kernel());
        options.interrupt_at = interrupt_at;
        self.executor_with(options)
    }

    fn executor_with(&self, options: EnvironmentOptions) -> EnvironmentExecutor {
        EnvironmentExecutor::open(&self.root(), &self.temporary.path().join("state"), options)
            .expect("it opens")
    }

    /// Every file and directory below the root and in the kernel, with mode and content.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut found = BTreeMap::new();
        collect(&self.root(), &mut found);
        collect(&self.kernel(), &mut found);
        found
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, (u32, String)>) {
    for entry in std::fs::read_dir(directory).expect("it lists") {
        let path = entry.expect("it lists").path();
        let metadata = std::fs::symlink_metadata(&path).expect("it is there");
        let content = if metadata.is_file() {
            std::fs::read_to_string(&path).expect("it is text")
        } else {
            String::new()
        };
        if metadata.is_dir() {
            collect(&path, found);
        }
        found.insert(path, (metadata.mode(), content));
    }
}

fn file(path: &str, content: &str) -> EnvironmentFile {
    EnvironmentFile {
        path: path.into(),
        mode: "0640".into(),
        content: content.into(),
    }
}

fn desired() -> EnvironmentDesired {
    EnvironmentDesired {
        super_node_name: "alpha".into(),
        generation: 4,
        members: vec![
            Member {
                name: "n1".into(),
                address: "10.0.0.1".into(),
            },
            Member {
                name: "n2".into(),
                address: "10.0.0.2".into(),
            },
        ],
        variables: BTreeMap::from([("HCCL_CONNECT_TIMEOUT".into(), "300".into())]),
        files: vec![
            file("/etc/app/old.conf", "ours\n"),
            file("/opt/deep/er/new.conf", "new\n"),
        ],
        sysctls: BTreeMap::from([
            ("net.core.somaxconn".into(), "4096".into()),
            ("net.core.range".into(), "1 2".into()),
        ]),
        required_versions: BTreeMap::new(),
    }
}

fn inventory() -> Inventory {
    Inventory {
        kernel: "6.8.0-60-generic".into(),
        versions: BTreeMap::from([("cuda".into(), "12.4".into())]),
        ..Inventory::default()
    }
}

/// The item's state, as `applied`, or its word and reason.
fn state(states: &[ItemState], item: &str) -> String {
    match &states
        .iter()
        .find(|state| state.item == item)
        .unwrap_or_else(|| panic!("no {item} in {states:?}"))
        .state
    {
        ItemCondition::Applied => "applied".into(),
        ItemCondition::Drifted { why } => format!("drifted: {why}"),
        ItemCondition::Failed { why } => format!("failed: {why}"),
        ItemCondition::Unsupported { why } => format!("unsupported: {why}"),
    }
}

#[track_caller]
fn all_applied(states: &[ItemState]) {
    assert!(
        states
            .iter()
            .all(|state| state.state == ItemCondition::Applied),
        "{states:#?}"
    );
}

#[test]
fn everything_is_applied_once_and_taken_back_exactly() {
    let host = Host::new();
    let before = host.snapshot();
    let states = host
        .executor(None)
        .apply(&desired(), &inventory())
        .expect("it works");
    all_applied(&states);
    assert_eq!(states.len(), 7, "{states:?}");
    assert_eq!(
        host.read("etc/hosts"),
        "127.0.0.1\tlocalhost\n# BEGIN supernode alpha\n10.0.0.1\tn1\n10.0.0.2\tn2\n# END supernode alpha\n"
    );
    assert!(
        host.read("etc/supernode/env")
            .ends_with("HCCL_CONNECT_TIMEOUT=\"300\"\n")
    );
    assert_eq!(host.read("etc/app/old.conf"), "ours\n");
    assert!(
        host.read("etc/sysctl.d/90-supernode.conf")
            .contains("net.core.somaxconn = 4096\n")
    );
    assert_eq!(
        std::fs::read_to_string(host.kernel().join("net/core/somaxconn")).expect("it is there"),
        "4096\n"
    );
    all_applied(&host.executor(None).verify(&desired(), &inventory()));
    let nothing_to_do = host.executor(Some(0));
    all_applied(
        &nothing_to_do
            .apply(&desired(), &inventory())
            .expect("no change, so no failpoint"),
    );
    assert_eq!(
        nothing_to_do.applied_generation().expect("it is read"),
        Some(4)
    );

    all_applied(&host.executor(None).clean().expect("it works"));
    assert_eq!(host.snapshot(), before);
    assert_eq!(
        host.executor(None)
            .applied_generation()
            .expect("it is read"),
        None
    );
    assert!(
        host.executor(None)
            .clean()
            .expect("again is fine")
            .is_empty()
    );
}

#[test]
fn a_crash_at_any_point_of_apply_is_finished_or_taken_back() {
    let reference = Host::new();
    all_applied(
        &reference
            .executor(None)
            .apply(&desired(), &inventory())
            .expect("it works"),
    );
    let complete: Vec<_> = reference.snapshot().into_values().collect();
    let mut interruptions = 0;
    loop {
        let host = Host::new();
        let before = host.snapshot();
        if host
            .executor(Some(interruptions))
            .apply(&desired(), &inventory())
            .is_ok()
        {
            break;
        }
        host.executor(None).clean().expect("it works");
        assert_eq!(
            host.snapshot(),
            before,
            "clean after an interruption before change {interruptions}"
        );

        host.executor(Some(interruptions))
            .apply(&desired(), &inventory())
            .expect_err("interrupted again");
        all_applied(
            &host
                .executor(None)
                .apply(&desired(), &inventory())
                .expect("it works"),
        );
        assert_eq!(
            host.snapshot().into_values().collect::<Vec<_>>(),
            complete,
            "apply after {interruptions}"
        );
        all_applied(&host.executor(None).clean().expect("it works"));
        assert_eq!(
            host.snapshot(),
            before,
            "clean after apply after {interruptions}"
        );
        interruptions += 1;
    }
    assert!(
        interruptions >= 8,
        "only {interruptions} places to be interrupted at"
    );
}

#[test]
fn a_crash_at_any_point_of_clean_is_finished_by_the_next() {
    let mut interruptions = 0;
    loop {
        let host = Host::new();
        let before = host.snapshot();
        host.executor(None)
            .apply(&desired(), &inventory())
            .expect("it works");
        let interrupted = host.executor(Some(interruptions)).clean();
        if interrupted.is_err() {
            assert!(matches!(interrupted, Err(EnvironmentError::Interrupted)));
            all_applied(&host.executor(None).clean().expect("it works"));
        }
        assert_eq!(
            host.snapshot(),
            before,
            "interrupted before change {interruptions}"
        );
        if interrupted.is_ok() {
            break;
        }
        interruptions += 1;
    }
    assert!(
        interruptions >= 8,
        "only {interruptions} places to be interrupted at"
    );
}

#[test]
fn a_torn_copy_of_a_file_is_cleaned_up() {
    let host = Host::new();
    let before = host.snapshot();
    host.executor(None)
        .apply(&desired(), &inventory())
        .expect("it works");
    for torn in [
        "etc/.hosts.supernode-new",
        "etc/app/.old.conf.supernode-new",
        "opt/deep/er/.new.conf.supernode-new",
    ] {
        std::fs::write(host.root().join(torn), "to").expect("it is written");
    }
    all_applied(&host.executor(None).clean().expect("it works"));
    assert_eq!(host.snapshot(), before);
}

#[test]
fn what_a_new_generation_no_longer_names_is_taken_back() {
    let host = Host::new();
    let before = host.snapshot();
    host.executor(None)
        .apply(&desired(), &inventory())
        .expect("it works");
    let next = EnvironmentDesired {
        super_node_name: "beta".into(),
        generation: 5,
        members: vec![Member {
            name: "n9".into(),
            address: "10.0.0.9".into(),
        }],
        variables: BTreeMap::new(),
        files: vec![file("/opt/deep/other.conf", "other\n")],
        sysctls: BTreeMap::new(),
        required_versions: BTreeMap::new(),
    };
    all_applied(
        &host
            .executor(None)
            .apply(&next, &inventory())
            .expect("it works"),
    );
    assert_eq!(host.read("etc/app/old.conf"), "original\n");
    assert_eq!(
        host.read("etc/hosts"),
        "127.0.0.1\tlocalhost\n# BEGIN supernode beta\n10.0.0.9\tn9\n# END supernode beta\n"
    );
    assert_eq!(host.read("opt/deep/other.conf"), "other\n");
    assert_eq!(
        std::fs::read_to_string(host.kernel().join("net/core/somaxconn")).expect("it is there"),
        "128\n"
    );
    assert!(
        !host.root().join("opt/deep/er").exists() && !host.root().join("etc/supernode").exists()
    );
    all_applied(&host.executor(None).clean().expect("it works"));
    assert_eq!(host.snapshot(), before);
}

#[test]
fn drift_is_told_per_item_and_undone_by_the_next_apply() {
    let host = Host::new();
    let executor = host.executor(None);
    executor.apply(&desired(), &inventory()).expect("it works");
    let applied = host.snapshot();
    std::fs::write(host.root().join("etc/hosts"), "127.0.0.1\tlocalhost\n").expect("it is written");
    std::fs::write(host.root().join("etc/app/old.conf"), "edited\n").expect("it is written");
    std::fs::remove_file(host.root().join("etc/supernode/env")).expect("it is removed");
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(host.root().join("opt/deep/er/new.conf"), mode).expect("it is ours");
    std::fs::write(host.kernel().join("net/core/somaxconn"), "1\n").expect("it is written");
    let drifted = host.snapshot();
    let states = executor.verify(&desired(), &inventory());
    assert_eq!(
        state(&states, "hosts"),
        "drifted: the members' lines in /etc/hosts are missing or were changed"
    );
    assert_eq!(
        state(&states, "file /etc/app/old.conf"),
        "drifted: the content was changed"
    );
    assert_eq!(state(&states, "variables"), "drifted: missing");
    assert_eq!(
        state(&states, "file /opt/deep/er/new.conf"),
        "drifted: the mode is 0666 instead of 0640"
    );
    assert_eq!(
        state(&states, "sysctl net.core.somaxconn"),
        "drifted: it is 1 instead of 4096"
    );
    assert_eq!(state(&states, "sysctl net.core.range"), "applied");
    assert_eq!(host.snapshot(), drifted, "verify changes nothing");
    all_applied(&executor.apply(&desired(), &inventory()).expect("it works"));
    assert_eq!(host.snapshot(), applied);
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let host = Host::new();
    let outside = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(outside.path().join("victim"), "precious\n").expect("it is written");
    symlink(outside.path(), host.root().join("etc/way")).expect("a link");
    symlink(
        outside.path().join("victim"),
        host.root().join("etc/app/end"),
    )
    .expect("a link");
    let mut desired = desired();
    desired.files = vec![
        file("/etc/way/victim", "attack\n"),
        file("/etc/way/deep/victim", "attack\n"),
        file("/etc/app/end", "attack\n"),
        file("/etc/../../escape", "attack\n"),
        file("/usr/bin/tool", "attack\n"),
        file("/etc/app/fine", "fine\n"),
    ];
    let states = host
        .executor(None)
        .apply(&desired, &inventory())
        .expect("the others are done");
    assert!(state(&states, "file /etc/way/victim").contains("is a symbolic link"));
    assert!(state(&states, "file /etc/way/deep/victim").contains("is a symbolic link"));
    assert!(state(&states, "file /etc/app/end").contains("is a symbolic link"));
    assert!(state(&states, "file /etc/../../escape").contains("must be plain"));
    assert!(state(&states, "file /usr/bin/tool").contains("/etc, /opt, /usr/local/etc"));
    assert_eq!(state(&states, "file /etc/app/fine"), "applied");
    assert_eq!(
        std::fs::read_dir(outside.path()).expect("it lists").count(),
        1
    );
    assert_eq!(
        std::fs::read_to_string(outside.path().join("victim")).expect("it is there"),
        "precious\n"
    );

    // A link that is put in the place of our file afterwards is told, and removed by clean, never followed.
    std::fs::remove_file(host.root().join("etc/app/fine")).expect("it is removed");
    symlink(
        outside.path().join("victim"),
        host.root().join("etc/app/fine"),
    )
    .expect("a link");
    assert!(
        state(
            &host.executor(None).verify(&desired, &inventory()),
            "file /etc/app/fine"
        )
        .contains("is a symbolic link")
    );
    host.executor(None).clean().expect("it works");
    assert_eq!(
        std::fs::read_to_string(outside.path().join("victim")).expect("it is there"),
        "precious\n"
    );
}

#[test]
fn a_private_root_records_kernel_parameters_and_sets_none() {
    let host = Host::new();
    let executor = host.executor_with(EnvironmentOptions::for_root(&host.root()));
    let states = executor.apply(&desired(), &inventory()).expect("it works");
    assert_eq!(
        state(&states, "sysctl net.core.somaxconn"),
        "unsupported: recorded, not applied under a private root"
    );
    assert_eq!(state(&states, "sysctl record"), "applied");
    assert!(
        host.read("etc/sysctl.d/90-supernode.conf")
            .contains("net.core.somaxconn = 4096\n")
    );
    assert_eq!(
        EnvironmentOptions::for_root(Path::new("/")).sysctls,
        SysctlMode::Set(PathBuf::from("/proc/sys"))
    );
}

#[test]
fn one_item_that_fails_does_not_hold_up_the_others() {
    let host = Host::new();
    let mut desired = desired();
    desired.sysctls = BTreeMap::from([
        ("net.core.absent".into(), "1".into()),
        ("net..core".into(), "1".into()),
        ("net.core.somaxconn".into(), "1\n2".into()),
    ]);
    desired.members[0].address = "not an address".into();
    desired.required_versions = BTreeMap::from([
        ("kernel".into(), ">=6.1".into()),
        ("cuda".into(), ">=12.8".into()),
        ("cann".into(), "8.3".into()),
    ]);
    let states = host
        .executor(None)
        .apply(&desired, &inventory())
        .expect("the others are done");
    assert_eq!(
        state(&states, "sysctl net.core.absent"),
        "failed: this kernel has no such parameter"
    );
    assert!(state(&states, "sysctl net..core").contains("not the name of a kernel parameter"));
    assert!(state(&states, "sysctl net.core.somaxconn").contains("line break"));
    assert_eq!(
        state(&states, "hosts"),
        "failed: member n1: `not an address` is not an IP address"
    );
    assert_eq!(state(&states, "version kernel"), "applied");
    assert_eq!(
        state(&states, "version cuda"),
        "failed: cuda is 12.4, required is >=12.8"
    );
    assert!(state(&states, "version cann").contains("knows no version of cann"));
    assert_eq!(state(&states, "file /etc/app/old.conf"), "applied");
}

#[test]
fn a_damaged_manifest_stops_everything() {
    let host = Host::new();
    host.executor(None)
        .apply(&desired(), &inventory())
        .expect("it works");
    std::fs::write(host.temporary.path().join("state/manifest.json"), "{").expect("it is written");
    assert!(matches!(
        host.executor(None).apply(&desired(), &inventory()),
        Err(EnvironmentError::Manifest { .. })
    ));
    assert!(matches!(
        host.executor(None).clean(),
        Err(EnvironmentError::Manifest { .. })
    ));
}
