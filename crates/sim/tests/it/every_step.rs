//! A fixed story goes well whatever is killed, cut or halted for a moment at whatever step of it.

use supernode_sim::{FaultKind, run_story};

/// Each so-manieth step is disturbed; with `SUPERNODE_SIM_STRIDE=1` every single one, which takes minutes.
fn stride(usual: u64) -> u64 {
    std::env::var("SUPERNODE_SIM_STRIDE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// Disturbs each step of the story in a run of its own.
#[track_caller]
fn check(kind: FaultKind, machines: &[usize], usual_stride: u64) {
    let stride = stride(usual_stride);
    let calm = run_story(None).unwrap_or_else(|violation| panic!("undisturbed: {violation}"));
    assert_eq!(calm.regrets, Vec::<String>::new(), "undisturbed");
    for machine in machines {
        let mut step = 0;
        while step < calm.steps {
            let ending = run_story(Some((kind, *machine, step))).unwrap_or_else(|violation| {
                panic!(
                    "{kind:?} of machine {machine} at step {step}: {violation}\n{}",
                    violation.trace.join("\n")
                )
            });
            assert_eq!(
                ending.regrets,
                Vec::<String>::new(),
                "{kind:?} of machine {machine} at step {step}"
            );
            step += stride;
        }
    }
}

#[test]
fn the_server_is_killed_at_every_step() {
    check(FaultKind::ServerKill, &[0], 5);
}

#[test]
fn an_agent_is_killed_at_every_step() {
    check(FaultKind::AgentKill, &[0, 1, 2], 19);
}

#[test]
fn a_node_is_restarted_at_every_step() {
    check(FaultKind::Reboot, &[0, 2], 41);
}

#[test]
fn a_node_is_cut_off_at_every_step() {
    check(FaultKind::Partition, &[0, 2], 41);
}

#[test]
fn an_agent_is_halted_at_every_step() {
    check(FaultKind::AgentHalt, &[0, 2], 41);
}
