//! The sync connection: what ends it, and what must not hold it up.

use std::sync::Arc;
use std::time::Duration;

use supernode_api::agent::{
    Desired, DesiredRank, MAXIMUM_FRAME_BYTES, RankWish, SYNC_PATH, ToAgent,
};
use supernode_http::AgentOptions;
use supernode_types::agent::EnvironmentWish;
use supernode_types::entropy::SystemEntropy;
use supernode_types::{AttemptId, JobId, Timestamp};
use tokio_tungstenite::tungstenite::Message;

use crate::agents_toy::{HELD, LIFETIME, REFUSED, acknowledged, agent_server, ended, server};
use crate::support::{eventually, within};

#[tokio::test]
async fn wrong_frames_close_the_connection_with_a_reason() {
    let server = server();
    let cases: [(Message, u16, &str); 4] = [
        (Message::text("{"), 1007, "the message cannot be read: EOF"),
        (
            Message::text(r#"{"type":"sync","sequence":"one"}"#),
            1007,
            "the message cannot be read: invalid type",
        ),
        (
            Message::binary(vec![1, 2]),
            1003,
            "messages are JSON in text frames",
        ),
        (
            Message::text(format!(
                r#"{{"type":"sync","sequence":{REFUSED},"stored_generation":0}}"#
            )),
            1008,
            "this node is another incarnation",
        ),
    ];
    for (frame, code, reason) in cases {
        let (mut agent, link) = server.synced().await;
        futures::SinkExt::send(&mut agent.0, frame)
            .await
            .expect("the server reads");
        let closed = agent.closed().await;
        assert!(
            closed.0 == code && closed.1.starts_with(reason),
            "{closed:?} instead of {code} {reason}"
        );
        ended(&link).await;
    }
    // Too long for a frame: whatever the agent can still read, the session ends.
    let (mut agent, link) = server.synced().await;
    let _ = futures::SinkExt::send(
        &mut agent.0,
        Message::text("x".repeat(MAXIMUM_FRAME_BYTES + 1)),
    )
    .await;
    ended(&link).await;
    // The largest frame passes.
    let (mut agent, _link) = server.synced().await;
    let padding = " ".repeat(MAXIMUM_FRAME_BYTES - 52);
    let text = format!(r#"{{"type":"sync","sequence":7,"stored_generation":0{padding}}}"#);
    assert!(
        (MAXIMUM_FRAME_BYTES - 8..=MAXIMUM_FRAME_BYTES).contains(&text.len()),
        "{}",
        text.len()
    );
    agent.send(text).await;
    assert_eq!(agent.receive().await, acknowledged(7));
}

#[tokio::test]
async fn silent_agents_are_closed() {
    let server = agent_server(AgentOptions {
        idle_timeout: Duration::from_millis(300),
        ..AgentOptions::default()
    });
    let (mut agent, link) = server.synced().await;
    let (code, reason) = agent.closed().await;
    assert_eq!((code, reason.as_str()), (1008, "no message for 0.3 s"));
    ended(&link).await;
    // An agent whose message is still being handled is not silent.
    let (mut agent, link) = server.synced().await;
    agent.sync(HELD).await;
    eventually("the message", || {
        link.received.lock().expect("no holder panics").len() == 1
    })
    .await;
    let started = tokio::time::Instant::now();
    eventually("longer than the idle timeout", || {
        started.elapsed() > Duration::from_millis(600)
    })
    .await;
    server.port.held.add_permits(1);
    assert_eq!(agent.receive().await, acknowledged(HELD));
    assert_eq!(agent.closed().await.0, 1008);
}

fn large() -> ToAgent {
    let now = Timestamp(0);
    let wish = RankWish::Stop {
        grace_milliseconds: 0,
        why: "x".repeat(1024 * 1024),
    };
    let rank = DesiredRank {
        attempt: AttemptId::new(now, &SystemEntropy),
        job: JobId::new(now, &SystemEntropy),
        rank: 0,
        boot_id: String::new(),
        wish,
    };
    ToAgent::Desired(Box::new(Desired {
        generation: 1,
        environment: EnvironmentWish::Clean,
        ranks: vec![rank],
        disk_expand: None,
        stress: None,
    }))
}

#[tokio::test]
async fn agents_that_do_not_read_are_cut_off() {
    let server = agent_server(AgentOptions {
        send_timeout: Duration::from_millis(300),
        ..AgentOptions::default()
    });
    let (_agent, link) = server.synced().await;
    within("the end of the queue", async {
        while link.outgoing.send(large()).await.is_ok() {}
    })
    .await;
    ended(&link).await;
    eventually("the end of the connection", || server.sockets.open() == 0).await;
}

#[tokio::test]
async fn messages_are_sent_while_one_is_handled() {
    let server = server();
    let (mut agent, link) = server.synced().await;
    agent.sync(HELD).await;
    agent.sync(1).await;
    eventually("the first message", || {
        link.received.lock().expect("no holder panics").len() == 1
    })
    .await;
    // More than the queue holds, so that the session's own acknowledgement has to wait for room.
    let sender = {
        let outgoing = link.outgoing.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                outgoing.send(large()).await.expect("it is open");
            }
        })
    };
    server.port.held.add_permits(1);
    let mut acknowledgements = Vec::new();
    let mut desired = 0;
    while desired < 20 || acknowledgements.len() < 2 {
        match agent.receive().await {
            ToAgent::Desired(_) => desired += 1,
            message => acknowledgements.push(message),
        }
    }
    sender.await.expect("no panic");
    assert_eq!(acknowledgements, [acknowledged(HELD), acknowledged(1)]);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate_its_agent_or_the_server() {
    let server = server();
    let (mut agent, link) = server.synced().await;
    server
        .certified
        .clock
        .advance(LIFETIME + Duration::from_secs(1));
    agent.sync(1).await;
    let (code, reason) = agent.closed().await;
    assert!(
        code == 1008 && reason.starts_with("the node's certificate ended at "),
        "{code} {reason}"
    );
    ended(&link).await;
    assert!(
        link.received.lock().expect("no holder panics").is_empty(),
        "what came after the end does not count"
    );

    let (agent, link) = server.synced().await;
    drop(agent);
    ended(&link).await;

    let (mut agent, link) = server.synced().await;
    eventually("the end of the others", || server.sockets.open() == 1).await;
    assert!(
        server.server.connections.open() >= 1,
        "a socket counts as a connection"
    );
    server.shutdown.cancel();
    let (code, reason) = agent.closed().await;
    assert_eq!(
        (code, reason.as_str()),
        (1001, "the server ends; connect again")
    );
    ended(&link).await;
    server.server.shutdown.cancel();
    within("the end of all sockets", server.sockets.ended()).await;
    within("the end of the server", server.server.task)
        .await
        .expect("no panic")
        .expect("an orderly end");
}

#[tokio::test]
async fn a_handshake_is_needed_for_each_connection() {
    let server = server();
    let identity = server.enrolled().await;
    let config = server
        .certified
        .client_config(Some((&identity.certificate, &identity.key)));
    for _ in 0..2 {
        let stream = crate::support::connect(server.server.address, Arc::clone(&config))
            .await
            .expect("a connection");
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        let (mut socket, _) =
            tokio_tungstenite::client_async(format!("wss://localhost{SYNC_PATH}"), stream)
                .await
                .expect("a connection");
        // Reads, so that a ticket would have been seen.
        futures::SinkExt::send(
            &mut socket,
            Message::text(r#"{"type":"sync","sequence":1,"stored_generation":0}"#),
        )
        .await
        .expect("sent");
        within("an answer", futures::StreamExt::next(&mut socket))
            .await
            .expect("one")
            .expect("a frame");
    }
}
