//! Queries of `supernode_store::token`.

use supernode_store::ConflictKind;
use supernode_store::provision::provision_insert;
use supernode_store::token::{
    JoinTokenRecord, TokenRecord, join_token_find, join_token_insert, join_token_list,
    join_token_prune, join_token_revoke, join_token_revoke_provision, join_token_use,
    token_authenticate, token_insert, token_list, token_revoke,
};
use supernode_types::node::Position;
use supernode_types::operation::{Provision, ProvisionState};
use supernode_types::{JoinTokenId, ProvisionId, TokenId};

use super::sample::{NOW, Sample, after, entropy, name};
use crate::fixture::{Engine, on_every_engine};

on_every_engine!(
    a_token_works_until_it_ends_or_is_revoked,
    token_rules,
    a_join_token_is_used_up,
    a_join_token_ends_or_is_revoked,
    tokens_of_provisions_are_apart,
);

fn token(seed: u64) -> TokenRecord {
    TokenRecord {
        id: TokenId::new(NOW, &entropy(seed)),
        name: name("ci"),
        role: "operator".into(),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}

fn join_token(seed: u64, uses_left: u32) -> JoinTokenRecord {
    JoinTokenRecord {
        id: JoinTokenId::new(NOW, &entropy(seed)),
        uses_left,
        expires_at: after(60),
        revoked_at: None,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        position: Position {
            rack: Some("r1".into()),
            ..Position::default()
        },
        provision: None,
        created_at: NOW,
    }
}

fn a_token_works_until_it_ends_or_is_revoked(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let lasting = token(1);
        let short = TokenRecord {
            expires_at: Some(after(60)),
            ..token(2)
        };
        token_insert(tx, &lasting, "one")?;
        token_insert(tx, &short, "two")?;
        assert_eq!(
            token_authenticate(tx, "one", after(1_000_000))?,
            Some(lasting.clone())
        );
        assert_eq!(
            token_authenticate(tx, "two", after(59))?,
            Some(short.clone())
        );
        assert_eq!(token_authenticate(tx, "two", after(60))?, None);
        assert_eq!(token_authenticate(tx, "three", NOW)?, None);
        let revoked = TokenRecord {
            revoked_at: Some(after(5)),
            ..lasting.clone()
        };
        assert_eq!(
            token_revoke(tx, lasting.id.as_str(), after(5))?,
            Some(revoked.clone())
        );
        assert_eq!(
            token_revoke(tx, lasting.id.as_str(), after(9))?,
            Some(revoked.clone()),
            "the first time counts"
        );
        assert_eq!(token_revoke(tx, "token-x", NOW)?, None);
        assert_eq!(token_authenticate(tx, "one", NOW)?, None);
        let mut all = [revoked, short];
        all.sort_by_key(|token| token.id.clone());
        assert_eq!(token_list(tx)?, all);
        Ok(())
    });
}

fn token_rules(engine: Engine) {
    let sample = Sample::new(engine);
    let twice = sample.conflict(|tx| {
        token_insert(tx, &token(1), "same")?;
        token_insert(tx, &token(2), "same")
    });
    assert_eq!(twice, ConflictKind::Unique);
    let role = TokenRecord {
        role: "root".into(),
        ..token(3)
    };
    assert_eq!(
        sample.conflict(move |tx| token_insert(tx, &role, "x")),
        ConflictKind::Check
    );
}

fn a_join_token_is_used_up(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let token = join_token(1, 2);
        join_token_insert(tx, &token, "one")?;
        assert!(join_token_use(tx, &token.id)?);
        assert!(join_token_use(tx, &token.id)?);
        assert!(!join_token_use(tx, &token.id)?);
        let used_up = JoinTokenRecord {
            uses_left: 0,
            ..token
        };
        assert_eq!(
            join_token_find(tx, "one", NOW)?,
            Some(used_up),
            "found all the same"
        );
        Ok(())
    });
}

fn a_join_token_ends_or_is_revoked(engine: Engine) {
    let sample = Sample::new(engine);
    sample.run(|tx| {
        let token = join_token(1, 2);
        join_token_insert(tx, &token, "one")?;
        assert_eq!(join_token_find(tx, "one", after(59))?, Some(token.clone()));
        assert_eq!(join_token_find(tx, "one", after(60))?, None);
        assert_eq!(join_token_find(tx, "two", NOW)?, None);
        let revoked = JoinTokenRecord {
            revoked_at: Some(after(1)),
            ..token.clone()
        };
        assert_eq!(
            join_token_revoke(tx, token.id.as_str(), after(1))?,
            Some(revoked.clone())
        );
        assert_eq!(
            join_token_revoke(tx, token.id.as_str(), after(2))?,
            Some(revoked.clone())
        );
        assert_eq!(join_token_revoke(tx, "join-x", NOW)?, None);
        assert_eq!(join_token_find(tx, "one", NOW)?, None);
        assert_eq!(join_token_list(tx)?, [revoked]);
        Ok(())
    });
}

fn tokens_of_provisions_are_apart(engine: Engine) {
    let (sample, basics) = Sample::with_basics(engine);
    let provision = ProvisionId::new(NOW, &entropy(80));
    let of_provision = |seed: u64| JoinTokenRecord {
        provision: Some(ProvisionId::new(NOW, &entropy(80))),
        ..join_token(seed, 1)
    };
    let orphan = of_provision(1);
    assert_eq!(
        sample.conflict(move |tx| join_token_insert(tx, &orphan, "one")),
        ConflictKind::ForeignKey
    );
    sample.run(move |tx| {
        let wish = Provision {
            id: provision.clone(),
            operation: basics.operation.id.clone(),
            super_node: basics.super_node.id.clone(),
            node_name: "node-a".into(),
            node: None,
            state: ProvisionState::Created,
            calls: 0,
            next_call_at: NOW,
        };
        provision_insert(tx, &wish)?;
        let own = join_token(3, 1);
        join_token_insert(tx, &of_provision(1), "one")?;
        join_token_insert(tx, &of_provision(2), "two")?;
        join_token_insert(tx, &own, "three")?;
        assert_eq!(
            join_token_list(tx)?,
            std::slice::from_ref(&own),
            "people see their own"
        );
        assert_eq!(join_token_find(tx, "two", NOW)?, Some(of_provision(2)));
        join_token_revoke_provision(tx, &provision, NOW)?;
        for hash in ["one", "two"] {
            assert_eq!(join_token_find(tx, hash, NOW)?, None);
        }
        assert_eq!(join_token_find(tx, "three", NOW)?, Some(own.clone()));
        join_token_prune(tx, after(61))?;
        assert_eq!(
            join_token_revoke(tx, of_provision(1).id.as_str(), NOW)?,
            None,
            "forgotten"
        );
        assert_eq!(join_token_list(tx)?.len(), 1);
        Ok(())
    });
}
