//! The simulation finds bugs: each defect that is built into the simulated parts on purpose is noticed within a few seeds.

use supernode_sim::{Defect, FaultKind, Options, run_seed_with};

/// Every world in this file has the faults that bring the defect to light, among the others of its seed.
fn world(seed: u64, defect: Defect, faults: &[FaultKind]) -> Options {
    let mut options = Options::of_seed(seed);
    options.defect = Some(defect);
    options
        .faults
        .kinds
        .extend(faults.iter().map(|kind| (*kind, 4)));
    options
}

#[track_caller]
fn check(defect: Defect, faults: &[FaultKind], seeds: u64, words: &[&str]) {
    let found = (1..=seeds).find_map(|seed| run_seed_with(seed, world(seed, defect, faults)).err());
    let Some(failure) = found else {
        panic!("{defect:?} was not noticed in {seeds} seeds")
    };
    let what = &failure.violation.what;
    println!("{defect:?} was noticed with seed {}: {what}", failure.seed);
    assert!(
        words.iter().any(|word| what.contains(word)),
        "{defect:?} was noticed for another reason:\n{failure}"
    );
    assert!(
        failure.to_string().contains("SUPERNODE_SIM_SEED="),
        "a failure says how to repeat it: {failure}"
    );
}

#[test]
fn supervisors_that_ignore_the_fence_are_noticed() {
    let faults = [FaultKind::Partition, FaultKind::AgentHalt];
    check(
        Defect::SupervisorsIgnoreFence,
        &faults,
        400,
        &["without a lease", "which is leased to", "two attempts"],
    );
}

#[test]
fn a_server_without_grace_after_its_restart_is_noticed() {
    check(
        Defect::NoGraceAfterRestart,
        &[FaultKind::ServerKill],
        400,
        &["without a lease", "which is leased to", "two attempts"],
    );
}

#[test]
fn an_old_desired_state_that_looks_new_is_noticed() {
    let faults = [FaultKind::Reset, FaultKind::Partition];
    check(
        Defect::OldDesiredAsNew,
        &faults,
        400,
        &[
            "without a lease",
            "which is leased to",
            "two attempts",
            "should have",
        ],
    );
}

#[test]
fn acknowledging_before_storing_is_noticed() {
    check(
        Defect::AcknowledgesBeforeStoring,
        &[],
        400,
        &["after the last fault"],
    );
}

#[test]
fn a_disk_that_forgets_the_ledger_is_noticed() {
    check(
        Defect::DiskForgetsLedger,
        &[FaultKind::AgentKill],
        400,
        &["went back", "after the last fault", "without a lease"],
    );
}

#[test]
fn a_new_key_for_a_repeated_request_is_noticed() {
    check(
        Defect::NewKeyForRepeatedRequest,
        &[],
        400,
        &["accepted twice", "answered in two ways", "in the audit log"],
    );
}
