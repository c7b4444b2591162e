//! The supervisor and the ranks executor, with real programs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use supernode_agent::ranks::{RankId, RankObservation, RanksError, User};
use supernode_agent::supervisor::lease::boottime_nanoseconds;
use supernode_types::job::RankEnd;

use crate::support::{Node, alive, kill, now, supervisor_program, wait_for};

fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .expect("proc is mounted")
        .uid()
        == 0
}

fn not_started(end: &RankEnd) -> &str {
    match end {
        RankEnd::NotStarted { why } => why,
        other => panic!("should not have started, but {other}"),
    }
}

#[test]
fn an_exit_code_and_the_last_lines_are_kept() {
    let node = Node::new();
    let exit = node
        .run(&node.script("for i in $(seq 30); do echo line $i; done; echo to stderr >&2; exit 7"));
    assert_eq!(exit.end, RankEnd::Exited { code: 7 });
    assert_eq!(exit.last_lines.len(), 20);
    assert_eq!(&exit.last_lines[18..], ["line 30", "to stderr"]);
    assert!(exit.started_at_micros.expect("it started") <= exit.ended_at_micros);
    assert_eq!(exit.stop_why, None);
}

#[test]
fn a_signal_that_we_did_not_send_is_told_apart() {
    let node = Node::new();
    assert_eq!(
        node.run(&node.script("kill -SEGV $$")).end,
        RankEnd::Signalled { signal: 11 }
    );
}

#[test]
fn a_program_that_cannot_run_says_why() {
    let node = Node::new();
    let mut rank = 0;
    let mut why = |argv: &[&str], workdir: Option<&str>| {
        rank += 1;
        let mut launch = node.command(argv);
        launch.rank = rank;
        launch.workdir = workdir.map_or(launch.workdir, str::to_owned);
        not_started(&node.run(&launch).end).to_owned()
    };
    let plain = node.scratch("plain");
    std::fs::write(&plain, "echo never a shell\n").expect("it is written");
    let plain = plain.display().to_string();
    assert_eq!(
        why(&["no-such-program"], None),
        "program no-such-program not found in PATH /usr/bin:/bin"
    );
    assert_eq!(
        why(&["/no/such/program"], None),
        "program /no/such/program does not exist"
    );
    assert_eq!(
        why(&["true"], Some("/no/such/dir")),
        "workdir /no/such/dir does not exist"
    );
    assert_eq!(
        why(&["true"], Some("/etc/hostname/x")),
        "workdir /etc/hostname/x is not a directory"
    );
    assert_eq!(
        why(&[&plain], None),
        format!("permission denied to run {plain}; is it marked as executable?")
    );
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(
        why(&[&plain], None),
        format!("{plain} is neither a program for this machine nor a script with a `#!` line")
    );
    std::fs::write(&plain, "#!/no/such/interpreter\n").expect("it is written");
    assert_eq!(
        why(&[&plain], None),
        format!("{plain} exists, but the interpreter or loader that it names does not")
    );
}

#[test]
fn the_environment_is_exactly_what_was_asked_for() {
    let node = Node::new();
    let mut launch = node.command(&["env"]);
    launch
        .env
        .insert("GREETING".into(), "two words = $HOME".into());
    let id = node.start(&launch);
    assert_eq!(node.end(&id).end, RankEnd::Exited { code: 0 });
    let chunk = node.ranks.read_log(&id, 0, 65536).expect("it is read");
    let output = String::from_utf8(chunk.bytes).expect("it is text");
    let found: BTreeMap<&str, &str> = output
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let directory = node
        .data()
        .canonicalize()
        .expect("it is there")
        .join("ranks")
        .join(id.as_str())
        .display()
        .to_string();
    let expected = BTreeMap::from([
        ("PATH", "/usr/bin:/bin"),
        ("GREETING", "two words = $HOME"),
        ("SUPERNODE_RANK_DIR", directory.as_str()),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn the_process_starts_from_a_clean_state() {
    let node = Node::new();
    let script = "umask; pwd; readlink /proc/$$/fd/0; \
                  cut -d' ' -f5,6 /proc/$$/stat; echo $$; echo $$ > pid; exec sleep 600";
    let launch = node.script(script);
    let id = node.start(&launch);
    let pid = node.pid_in("pid");
    wait_for("sleep to run", || {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()
            .filter(|name| name == "sleep\n")
    });
    // The loader of `sleep` opens and closes its libraries; a descriptor of ours would stay.
    wait_for("descriptors 0 to 2 and no other", || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is alive");
        let mut names: Vec<_> = open
            .map(|entry| entry.expect("it lists").file_name())
            .collect();
        names.sort();
        (names == ["0", "1", "2"]).then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
    for expected in [
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(
            status.lines().any(|line| line == expected),
            "{expected} not in {status}"
        );
    }
    let output = String::from_utf8(
        node.ranks
            .read_log(&id, 0, 65536)
            .expect("it is read")
            .bytes,
    )
    .expect("it is text");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["0022", &launch.workdir, "/dev/null"]);
    assert_eq!(
        lines[3],
        format!("{pid} {pid}"),
        "a process group and a session of its own"
    );
}

#[test]
fn another_user_gets_nothing_of_root() {
    if !is_root() {
        let node = Node::new();
        let mut launch = node.command(&["true"]);
        launch.user = Some(User {
            uid: 1,
            gid: 1,
            groups: Vec::new(),
        });
        assert!(not_started(&node.run(&launch).end).contains("only root can change its user"));
        return;
    }
    let node = Node::new();
    let mut launch = node.script(
        "id -u; id -g; id -G; echo also >>/dev/stderr; cat ../ranks/*/launch.json; ls ../ranks",
    );
    launch.user = Some(User {
        uid: 65534,
        gid: 65534,
        groups: vec![65533],
    });
    let exit = node.run(&launch);
    assert_eq!(
        exit.last_lines[..4],
        ["65534", "65534", "65534 65533", "also"]
    );
    let denied = exit
        .last_lines
        .iter()
        .filter(|line| line.contains("Permission denied"))
        .count();
    assert_eq!(
        denied, 2,
        "rank directories are closed to jobs: {:?}",
        exit.last_lines
    );

    let private = node.scratch("private");
    std::fs::create_dir(&private).expect("it is made");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    launch.rank = 1;
    launch.workdir = private.display().to_string();
    let expected = format!(
        "workdir {}: permission denied as user 65534",
        private.display()
    );
    assert_eq!(not_started(&node.run(&launch).end), expected);
}

#[test]
fn a_stop_gives_the_grace_to_clean_up() {
    let node = Node::new();
    let id = node.start(
        &node.script("trap 'echo saving; exit 3' TERM; echo ready; while :; do sleep 0.05; done"),
    );
    wait_for("the program to be ready", || {
        node.ranks
            .read_log(&id, 0, 100)
            .ok()
            .filter(|chunk| !chunk.bytes.is_empty())
    });
    let running = node
        .ranks
        .stop(&id, 15, Duration::from_secs(30), "cancelled by a test")
        .expect("it can be stopped");
    assert!(matches!(running, RankObservation::Running { .. }));
    let exit = node.end(&id);
    assert_eq!(exit.end, RankEnd::Stopped { code: 3 });
    assert_eq!(exit.stop_why.as_deref(), Some("cancelled by a test"));
    assert_eq!(exit.last_lines.last().map(String::as_str), Some("saving"));
}

#[test]
fn a_program_that_ignores_the_signal_is_killed_after_the_grace_also_by_another_agent() {
    let node = Node::new();
    let id = node.start(&node.script("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"));
    let pid = node.pid_in("pid");
    let restarted = node.reopened();
    assert!(
        matches!(restarted.observe(&id).expect("it is adopted"), RankObservation::Running { pid: Some(known), .. } if known == pid)
    );
    let before = now();
    for _ in 0..3 {
        restarted
            .stop(&id, 15, Duration::from_millis(400), "evicted")
            .expect("it can be stopped");
    }
    assert_eq!(node.end(&id).end, RankEnd::Stopped { code: 137 });
    let took = now().saturating_sub(before);
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(!alive(pid));
}

#[test]
fn a_shorter_grace_overrules_a_longer_one() {
    let node = Node::new();
    let id = node.start(&node.script("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"));
    node.pid_in("pid");
    node.ranks
        .stop(&id, 15, Duration::from_hours(1), "drain")
        .expect("it can be stopped");
    node.ranks
        .stop(&id, 9, Duration::ZERO, "now")
        .expect("it can be stopped");
    let exit = node.end(&id);
    assert_eq!(
        (exit.end, exit.stop_why.as_deref()),
        (RankEnd::Stopped { code: 137 }, Some("now"))
    );
}

#[test]
fn a_halted_program_is_stopped_too() {
    let node = Node::new();
    let id =
        node.start(&node.script("trap 'exit 4' TERM; echo $$ > pid; while :; do sleep 0.05; done"));
    let pid = node.pid_in("pid");
    kill(pid, 19);
    node.ranks
        .stop(&id, 15, Duration::from_secs(30), "cancelled")
        .expect("it can be stopped");
    assert_eq!(node.end(&id).end, RankEnd::Stopped { code: 4 });
}

/// Leaves a daemon behind that has its own session, no parent of ours, and ignores what is not SIGKILL.
const WITH_DAEMON: &str = "setsid sh -c 'trap \"\" TERM HUP INT; sh -c \"echo \\$\\$ > daemon; while :; do sleep 0.05; done\" &' & \
                           while [ ! -s daemon ]; do sleep 0.01; done; ";

#[test]
fn the_whole_tree_ends_with_a_stop() {
    let node = Node::new();
    let id = node.start(&node.script(&format!(
        "{WITH_DAEMON} echo $$ > pid; while :; do sleep 0.05; done"
    )));
    let (pid, daemon) = (node.pid_in("pid"), node.pid_in("daemon"));
    node.ranks
        .stop(&id, 15, Duration::from_millis(200), "cancelled")
        .expect("it can be stopped");
    assert_eq!(node.end(&id).end, RankEnd::Stopped { code: 143 });
    assert!(!alive(pid) && !alive(daemon));
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let node = Node::new();
    let id = node.start(&node.script(&format!("{WITH_DAEMON} exit 5")));
    let daemon = node.pid_in("daemon");
    assert_eq!(node.end(&id).end, RankEnd::Exited { code: 5 });
    assert!(!alive(daemon));
}

#[test]
fn a_rank_survives_its_agent_and_is_adopted() {
    let node = Node::new();
    let launch = node.script("echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; exit 6");
    let file = node.data().join("launch-input.json");
    std::fs::write(&file, serde_json::to_vec(&launch).expect("it is JSON")).expect("it is written");
    let mut agent = Command::new(supervisor_program())
        .args([
            "--launch",
            &node.data().display().to_string(),
            "attempt-1.0",
            &file.display().to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the agent starts");
    let mut line = String::new();
    std::io::BufReader::new(agent.stdout.take().expect("it is piped"))
        .read_line(&mut line)
        .expect("it is read");
    assert_eq!(line, "launched\n");
    agent.kill().expect("kill -9");
    agent.wait().expect("it is gone");

    let pid = node.pid_in("pid");
    let id = RankId::parse("attempt-1.0").expect("it is an id");
    assert_eq!(
        node.ranks.list().expect("it lists"),
        std::slice::from_ref(&id)
    );
    assert_eq!(
        node.ranks.launched(&id).expect("it is read"),
        Some(launch.clone())
    );
    let adopted = node
        .ranks
        .launch(&id, &launch)
        .expect("a repeated launch is no second start");
    assert!(
        matches!(adopted, RankObservation::Running { pid: Some(known), .. } if known == pid),
        "{adopted:?}"
    );
    std::fs::write(node.scratch("go"), "").expect("it is written");
    assert_eq!(node.end(&id).end, RankEnd::Exited { code: 6 });
}

#[test]
fn a_killed_supervisor_takes_the_rank_along_and_leaves_no_stray() {
    let node = Node::new();
    let id = node.start(&node.script(&format!(
        "{WITH_DAEMON} echo before; echo $$ > pid; while :; do sleep 0.05; done"
    )));
    let (pid, daemon) = (node.pid_in("pid"), node.pid_in("daemon"));
    let mut watcher = node.ranks.watcher().expect("it watches");
    kill(node.supervisor_pid(&id), 9);
    wait_for("the watcher to tell", || {
        watcher
            .wait(Duration::from_secs(1))
            .expect("it watches")
            .contains(&id)
            .then_some(())
    });
    wait_for("the program to die with its supervisor", || {
        (!alive(pid)).then_some(())
    });
    assert!(alive(daemon), "nothing has cleaned up yet");
    let exit = node.end(&id);
    assert!(
        matches!(&exit.end, RankEnd::Lost { why } if why.contains("its supervisor was killed")),
        "{:?}",
        exit.end
    );
    assert_eq!(exit.last_lines, ["before"]);
    assert!(!alive(daemon));
    let again = node
        .ranks
        .launch(
            &id,
            &node.ranks.launched(&id).expect("read").expect("there"),
        )
        .expect("no second start");
    assert_eq!(again, RankObservation::Ended(exit));
}

#[test]
fn racing_supervisors_start_one_rank() {
    let node = Node::new();
    for rank in 0..10 {
        let mut launch = node.script("echo $$ >> starts; exit 0");
        launch.rank = rank;
        let id = RankId::new(&launch.attempt, rank).expect("it is plain");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    node.reopened()
                        .launch(&id, &launch)
                        .expect("every call succeeds")
                });
            }
        });
        assert_eq!(node.end(&id).end, RankEnd::Exited { code: 0 });
    }
    assert_eq!(
        std::fs::read_to_string(node.scratch("starts"))
            .expect("it is there")
            .lines()
            .count(),
        10
    );
}

#[test]
fn an_expired_lease_fences_within_a_second_and_touches_nobody_else() {
    let node = Node::new();
    let other = Node::new();
    let bystander = other.start(&other.script("echo $$ > pid; while :; do sleep 0.05; done"));
    let bystander_pid = other.pid_in("pid");
    let launch = node.script(&format!(
        "trap '' TERM; {WITH_DAEMON} echo $$ > pid; while :; do sleep 0.05; done"
    ));
    let id = node.start(&launch);
    let (pid, daemon) = (node.pid_in("pid"), node.pid_in("daemon"));
    kill(pid, 19);
    node.ranks
        .lease()
        .write(boottime_nanoseconds() + 300_000_000)
        .expect("it is written");
    let before = now();
    assert_eq!(node.end(&id).end, RankEnd::Fenced);
    let took = now().saturating_sub(before);
    assert!(
        took >= Duration::from_millis(290) && took < Duration::from_millis(1300),
        "{took:?}"
    );
    assert!(!alive(pid) && !alive(daemon));
    assert!(alive(bystander_pid));
    assert!(matches!(
        other.ranks.observe(&bystander).expect("it is observed"),
        RankObservation::Running { .. }
    ));

    let mut late = launch.clone();
    late.rank = 1;
    let exit = node.run(&late);
    assert_eq!(
        (exit.end, exit.started_at_micros),
        (RankEnd::Fenced, None),
        "without a lease nothing starts"
    );
    std::fs::remove_file(other.ranks.lease().path()).expect("it is there");
    assert_eq!(
        other.end(&bystander).end,
        RankEnd::Fenced,
        "no lease file is no lease"
    );
}

#[test]
fn a_supervisor_that_cannot_work_says_why() {
    let node = Node::new();
    let ranks = node.data().join("ranks");
    std::fs::create_dir(ranks.join("attempt-9.0")).expect("it is made");
    let (mut ours, theirs) = UnixStream::pair().expect("a socket");
    let mut spawner = Command::new(supervisor_program())
        .arg(&ranks)
        .arg("--lease")
        .arg(node.ranks.lease().path())
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .expect("it runs");
    let mut answers = BufReader::new(ours.try_clone().expect("it is ours")).lines();
    let mut ask = |request: &str| {
        ours.write_all(request.as_bytes()).expect("it listens");
        answers.next().expect("it answers").expect("with a line")
    };
    let why = ask("attempt-9.0 1\n");
    assert!(why.contains("has no launch.json"), "{why}");
    for wrong in ["../attempt-9.0 1\n", "attempt-9.0 soon\n", "\n"] {
        assert!(ask(wrong).contains("is not a rank and a deadline"));
    }
    drop((ours, answers));
    assert!(spawner.wait().expect("it ends").success());
    assert!(matches!(
        node.ranks.stop(
            &RankId::parse("attempt-9.0").expect("plain"),
            77,
            Duration::ZERO,
            ""
        ),
        Err(RanksError::InvalidSignal { .. })
    ));
}

#[test]
fn whoever_starts_supervisors_is_replaced_and_goes_with_the_agent() {
    let mut node = Node::new();
    let mut launch = node.script("echo $$ > pid.$RANK; while :; do sleep 0.05; done");
    let mut spawners = Vec::new();
    for rank in 0..3 {
        launch.rank = rank;
        launch.env.insert("RANK".to_owned(), rank.to_string());
        let id = node.start(&launch);
        spawners.push(parent(node.supervisor_pid(&id)));
        if rank == 1 {
            assert_eq!(spawners[1], spawners[0], "one for all ranks");
            kill(spawners[1], 9);
        }
    }
    assert_ne!(spawners[2], spawners[1]);
    node.ranks = node.reopened();
    assert!(!alive(spawners[2]));
    for rank in 0..3 {
        assert!(alive(node.pid_in(&format!("pid.{rank}"))), "rank {rank}");
    }
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let number = line.expect("every process has a parent").trim();
    number.parse().expect("a number")
}

/// How much a supervisor costs; run with `--ignored --nocapture` on a quiet machine.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_supervisor() {
    let node = Node::new();
    let mut watcher = node.ranks.watcher().expect("it watches");
    let (mut claims, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for rank in 0..50 {
        let mut launch = node.script("exec sleep 600");
        launch.rank = rank;
        let before = now();
        let id = node.start(&launch);
        claims.push(now().saturating_sub(before));
        let pid = loop {
            if let RankObservation::Running { pid: Some(pid), .. } =
                node.ranks.observe(&id).expect("observed")
            {
                break pid;
            }
        };
        starts.push(now().saturating_sub(before));
        wait_for("sleep", || {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .ok()
                .filter(|name| name == "sleep\n")
        });
        if rank == 0 {
            let status =
                std::fs::read_to_string(format!("/proc/{}/smaps_rollup", node.supervisor_pid(&id)))
                    .expect("readable");
            println!("{status}");
        }
        watcher.changed().expect("it watches");
        let before = now();
        kill(pid, 9);
        while !matches!(
            node.ranks.observe(&id).expect("observed"),
            RankObservation::Ended(_)
        ) {
            watcher.wait(Duration::from_secs(1)).expect("it watches");
        }
        ends.push(now().saturating_sub(before));
    }
    claims.sort();
    starts.sort();
    ends.sort();
    println!("launch: median {:?}, worst {:?}", claims[25], claims[49]);
    println!(
        "launch to known process id: median {:?}, worst {:?}",
        starts[25], starts[49]
    );
    println!(
        "kill (with the fork of kill) to known end: median {:?}, worst {:?}",
        ends[25], ends[49]
    );
}
