//! Groups on real sockets and real shared memory, all ranks in one process: each rank is a thread with a group of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use supernode_collectives::element::{DataType, Reduction};
use supernode_collectives::failure::Failure;
use supernode_collectives::group::{
    Card, CollectiveError, Group, Inbox, LIMITS, MAX_RETRIES, Membership, Roster,
};
use supernode_collectives::handshake::Secret;
use supernode_collectives::memory::{Buffer, Input};
use supernode_collectives::node::{Statistics, Timing};
use supernode_collectives::operator::{Algorithm, Kind, Operator};

use crate::proxy::{Mischief, Proxy};
use crate::random::Random;
use crate::workload::Work;

pub(crate) fn secret(key: u8) -> Secret {
    Secret::new(&[key; 32], [1; 16], 1)
}

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback has free ports")
}

#[derive(Clone, Copy, PartialEq)]
enum Carrier {
    Sockets,
    SharedMemory,
}

/// Memberships of all ranks. `announce` says under which address others find a listener.
fn members(
    world: usize,
    lanes: usize,
    carrier: Carrier,
    mut announce: impl FnMut(SocketAddr) -> SocketAddr,
) -> Vec<Membership> {
    let mut cards = Vec::new();
    let mut parts = Vec::new();
    for _ in 0..world {
        let listeners: Vec<TcpListener> = (0..lanes).map(|_| listener()).collect();
        let inbox = (carrier == Carrier::SharedMemory)
            .then(|| Inbox::new(world).expect("memory files exist"));
        cards.push(Card {
            lanes: listeners
                .iter()
                .map(|one| announce(one.local_addr().expect("it is bound")))
                .collect(),
            location: inbox.as_ref().and_then(Inbox::location),
        });
        parts.push((listeners, inbox));
    }
    let member = |(rank, (listeners, inbox))| Membership {
        rank,
        secret: secret(7),
        listeners,
        roster: Roster {
            cards: cards.clone(),
        },
        inbox,
        limits: LIMITS,
        max_retries: MAX_RETRIES,
        timing: Timing::usual(),
    };
    parts.into_iter().enumerate().map(member).collect()
}

/// Runs `program` as every rank.
fn run<T: Send>(members: Vec<Membership>, program: impl Fn(Group) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ranks: Vec<_> = members
            .into_iter()
            .map(|member| scope.spawn(|| program(Group::join(member).expect("sockets work"))))
            .collect();
        ranks
            .into_iter()
            .map(|rank| {
                rank.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

fn check_everything(world: usize, carrier: Carrier) {
    let mut random = Random::new(world as u64);
    let works: Vec<Work> = (0..60)
        .map(|round| {
            Work::random(
                world,
                if round % 5 == 0 { 60_000 } else { 300 },
                &mut random,
            )
        })
        .collect();
    run(members(world, 2, carrier, |address| address), |group| {
        let rank = group.rank();
        let mut started = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let Some(call) = &work.calls[rank] else {
                continue;
            };
            let output = vec![
                0xa5;
                call.operator.output_count(rank, world)
                    * call.operator.data_type.size()
            ];
            let (input, output) = if call.in_place {
                (Input::InPlace, call.input.clone())
            } else {
                (Input::Apart(Buffer::owned(call.input.clone())), output)
            };
            let handle = group
                .start(call.operator.clone(), input, Buffer::owned(output))
                .expect("the operator is valid");
            started.push((index, handle, &call.wanted));
            // Several at once, then all of them.
            if index % 7 == 6 {
                for (index, handle, wanted) in started.drain(..) {
                    let output = handle.wait().expect("nothing fails");
                    assert!(output.bytes() == wanted, "rank {rank}, operator {index}");
                }
            }
        }
        for (index, handle, wanted) in started {
            let output = handle.wait().expect("nothing fails");
            assert!(output.bytes() == wanted, "rank {rank}, operator {index}");
        }
    });
}

#[test]
fn all_operators_over_sockets() {
    for world in [1, 2, 3, 5] {
        check_everything(world, Carrier::Sockets);
    }
}

#[test]
fn all_operators_through_shared_memory() {
    for world in [2, 3, 5] {
        check_everything(world, Carrier::SharedMemory);
    }
}

fn all_reduce(count: usize) -> Operator {
    let kind = Kind::AllReduce {
        reduction: Reduction::Sum,
    };
    Operator::new(kind, DataType::F32, count)
}

/// Runs the same operator in place until there is enough of something on every rank, and equally often on all of them.
fn repeat(
    group: &Group,
    work: &Work,
    is_enough: impl Fn(&Statistics) -> bool,
) -> Result<Statistics, CollectiveError> {
    let call = work.calls[group.rank()]
        .as_ref()
        .expect("everybody takes part");
    let kind = Kind::AllReduce {
        reduction: Reduction::Min,
    };
    let vote = Operator::new(kind, DataType::U8, 1);
    for round in 0..10_000 {
        let mut bytes = call.input.clone();
        group.run_in_place(call.operator.clone(), &mut bytes)?;
        assert!(bytes == call.wanted, "other bits in round {round}");
        let mut enough = [u8::from(is_enough(&group.statistics()))];
        group.run_in_place(vote.clone(), &mut enough)?;
        if enough == [1] {
            return Ok(group.statistics());
        }
    }
    panic!("it never happens: {:?}", group.statistics())
}

/// Every few milliseconds all connections are cut, in the middle of what they carry.
#[test]
fn connections_that_are_cut_again_and_again_change_no_bit() {
    let world = 3;
    let mut proxies = Vec::new();
    let members = members(world, 1, Carrier::Sockets, |address| {
        let proxy = Proxy::new(address, Mischief::Nothing);
        let public = proxy.address();
        proxies.push(proxy);
        public
    });
    let mut random = Random::new(1);
    let work = Work::everywhere(&all_reduce(200_000).by(Algorithm::Ring), world, &mut random);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let broken = thread::scope(|scope| {
        scope.spawn(|| {
            let stopped = stopped;
            while stopped
                .recv_timeout(Duration::from_millis(15))
                .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                proxies.iter().for_each(Proxy::cut);
            }
        });
        let statistics = run(members, |group| {
            repeat(&group, &work, |statistics| statistics.resumed >= 5).expect("cuts are repaired")
        });
        drop(stop);
        statistics
    });
    for one in &broken {
        assert!(one.resumed >= 5, "{one:?}");
    }
    println!("{broken:?}");
}

#[test]
fn damage_on_the_way_changes_no_bit() {
    let members = members(3, 1, Carrier::Sockets, |address| {
        Proxy::new(address, Mischief::Damage { every: 1_500_000 }).address()
    });
    let mut random = Random::new(2);
    let work = Work::everywhere(&all_reduce(200_000).by(Algorithm::Ring), 3, &mut random);
    let found = run(members, |group| {
        repeat(&group, &work, |statistics| statistics.damaged >= 3).expect("damage is repaired")
    });
    for one in &found {
        assert_eq!(
            one.reexecutions, 0,
            "the sender still had the bytes: {one:?}"
        );
    }
    println!("{found:?}");
}

/// Runs an operator between two ranks while bytes from rank 0 to rank 1 get lost in a way that no new connection brings back.
fn lose_bytes(count: usize) -> Vec<Result<Statistics, CollectiveError>> {
    let done = Arc::new(AtomicBool::new(false));
    let mut listeners = 0;
    let members = members(2, 1, Carrier::Sockets, |address| {
        listeners += 1;
        if listeners == 1 {
            return address;
        }
        let done = Arc::clone(&done);
        Proxy::new(address, Mischief::FalseAcknowledgement { done }).address()
    });
    let mut random = Random::new(3);
    let work = Work::everywhere(&all_reduce(count).by(Algorithm::Ring), 2, &mut random);
    run(members, |group| {
        repeat(&group, &work, |statistics| statistics.reexecutions > 0)
    })
}

#[test]
fn bytes_that_nobody_has_are_made_again() {
    for result in lose_bytes(60_000) {
        let statistics = result.expect("inputs of this size are kept");
        assert_eq!(statistics.reexecutions, 1, "{statistics:?}");
    }
}

#[test]
fn an_operator_whose_input_is_overwritten_is_refused_with_its_rank() {
    let results = lose_bytes(2_000_000);
    for (rank, result) in results.iter().enumerate() {
        let Err(CollectiveError::Failed(failure)) = result else {
            panic!("rank {rank} has a result: {result:?}")
        };
        let text = failure.to_string();
        assert!(
            text.contains("bytes of the stream from rank 0 to rank 1 are lost and collective")
                && text.contains("cannot be executed again: rank"),
            "rank {rank}: {text}"
        );
    }
}

#[test]
fn programs_that_do_not_match_are_named_on_every_rank() {
    let results = run(
        members(3, 1, Carrier::Sockets, |address| address),
        |group| {
            let count = if group.rank() == 1 { 6 } else { 5 };
            group.run_in_place(all_reduce(count), &mut vec![0; 4 * count])
        },
    );
    for (rank, result) in results.iter().enumerate() {
        let Err(CollectiveError::Failed(failure)) = result else {
            panic!("rank {rank} has a result: {result:?}")
        };
        let text = failure.to_string();
        assert!(
            text.contains("6 f32") && text.contains("5 f32"),
            "rank {rank}: {text}"
        );
    }
}

#[test]
fn a_rank_that_leaves_too_early_is_named() {
    let results = run(
        members(2, 1, Carrier::Sockets, |address| address),
        |group| {
            group
                .run_in_place(all_reduce(5), &mut [0; 20])
                .expect("both are there");
            if group.rank() == 1 {
                return Ok(());
            }
            group.run_in_place(all_reduce(5), &mut [0; 20])
        },
    );
    let named = CollectiveError::Failed(Failure::RankLeft { rank: 1 });
    assert_eq!(results, [Err(named), Ok(())]);
}

#[test]
fn who_does_not_know_the_key_is_not_let_in() {
    let mut members = members(2, 1, Carrier::Sockets, |address| address);
    members[1].secret = secret(8);
    for member in &mut members {
        member.timing.silent = Duration::from_millis(700);
    }
    let results = run(members, |group| {
        let result = group.run_in_place(all_reduce(5), &mut [0; 20]);
        (result, group.statistics().strangers)
    });
    for (rank, (result, strangers)) in results.iter().enumerate() {
        assert!(
            matches!(
                result,
                Err(CollectiveError::Failed(Failure::RankSilent { .. }))
            ),
            "rank {rank}: {result:?}"
        );
        assert!(*strangers > 0, "rank {rank} let them in");
    }
}

#[test]
fn ranks_find_each_other_through_rank_0() {
    let root = listener();
    let address = root.local_addr().expect("it is bound");
    let (world, wait) = (4, Duration::from_secs(30));
    let card = |rank: usize| Card {
        lanes: vec![SocketAddr::from((
            [127, 0, 0, 1],
            u16::try_from(rank + 1).expect("small"),
        ))],
        location: None,
    };
    let rosters: Vec<Roster> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let root = &root;
                scope.spawn(move || {
                    if rank == 0 {
                        return Roster::collect(root, &secret(1), card(0), world, wait);
                    }
                    Roster::ask(
                        address,
                        address.ip(),
                        &secret(1),
                        rank,
                        &card(rank),
                        world,
                        wait,
                    )
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| {
                rank.join()
                    .expect("no rank panics")
                    .expect("they find each other")
            })
            .collect()
    });
    for roster in rosters {
        assert_eq!(roster.cards, (0..world).map(card).collect::<Vec<_>>());
    }
}

#[test]
fn a_rendezvous_names_who_is_missing() {
    let root = listener();
    let address = root.local_addr().expect("it is bound");
    let wait = Duration::from_millis(300);
    thread::scope(|scope| {
        // Rank 1 knows another key, rank 2 does not come.
        scope.spawn(|| {
            let result = Roster::ask(
                address,
                address.ip(),
                &secret(2),
                1,
                &Card::default(),
                3,
                wait,
            );
            assert!(result.is_err());
        });
        let error = Roster::collect(&root, &secret(1), Card::default(), 3, wait)
            .expect_err("nobody may come");
        assert_eq!(
            error.to_string(),
            "after 0 s these ranks have not come: [1, 2]"
        );
    });
}
