//! Parameters, values, rows, and what the engines refuse: the same on both.

use serde::{Deserialize, Serialize};
use supernode_store::{ConflictKind, Store, StoreError, Tx, Value, params};

use crate::fixture::{Database, Engine, insert, names, on_every_engine};

on_every_engine!(
    parameters_are_bound_by_number,
    every_type_comes_back,
    numbers_that_do_not_fit_are_refused,
    wrong_parameter_counts_are_refused,
    row_counts_are_checked,
    a_column_says_what_is_wrong_with_it,
    json_comes_back,
    broken_rules_are_named_alike,
    execute_and_query_are_not_mixed_up,
    upsert_and_returning_have_one_text,
    a_read_cannot_write,
);

fn store(engine: Engine) -> (Database, Store) {
    let database = Database::new(engine);
    let store = database.open();
    (database, store)
}

fn error_of<T: Send + 'static + std::fmt::Debug>(
    store: &Store,
    closure: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
) -> StoreError {
    store
        .write_inline("refused", closure)
        .expect_err("the statement is refused")
}

fn parameters_are_bound_by_number(engine: Engine) {
    let (_database, store) = store(engine);
    let row = store
        .read_inline("order", |tx| {
            tx.query_one(
                "SELECT CAST($3 AS TEXT) AS third, CAST($1 AS BIGINT) AS first, CAST($2 AS TEXT) AS second,
                        CAST($1 AS BIGINT) + 1 AS again, CAST($10 AS BIGINT) AS tenth,
                        CAST($4 AS BIGINT) + CAST($5 AS BIGINT) + CAST($6 AS BIGINT) + CAST($7 AS BIGINT)
                      + CAST($8 AS BIGINT) + CAST($9 AS BIGINT) AS rest",
                params![1, "two", "three", 4, 5, 6, 7, 8, 9, 10],
            )
        })
        .expect("a good query");
    assert_eq!(row.get::<i64>("first"), Ok(1));
    assert_eq!(row.get::<String>("second").as_deref(), Ok("two"));
    assert_eq!(row.get::<String>("third").as_deref(), Ok("three"));
    assert_eq!(row.get::<i64>("again"), Ok(2));
    assert_eq!(row.get::<i64>("tenth"), Ok(10));
    assert_eq!(row.get::<i64>("rest"), Ok(39));
    assert_eq!(
        row.columns(),
        ["third", "first", "second", "again", "tenth", "rest"]
    );
}

fn every_type_comes_back(engine: Engine) {
    let (_database, store) = store(engine);
    let text = "Ünïcödé 神 'quoted' \" $1 ; --".to_owned();
    let bytes: Vec<u8> = (0..=255).collect();
    let (sent_text, sent_bytes) = (text.clone(), bytes.clone());
    store
        .write_inline("insert", move |tx| {
            let sql = "INSERT INTO thing (id, name, zone, flag, data) VALUES ($1, $2, $3, $4, $5)";
            tx.execute(
                sql,
                params![i64::MAX, &sent_text, "", true, sent_bytes.clone()],
            )?;
            tx.execute(
                sql,
                params![1_u32, "", None::<&str>, None::<bool>, None::<Vec<u8>>],
            )?;
            tx.execute(
                sql,
                params![
                    i64::MAX as u64 - 1,
                    "a",
                    Some("b".to_owned()),
                    false,
                    Vec::new()
                ],
            )
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    let rows = store
        .read_inline("select", |tx| {
            tx.query(
                "SELECT * FROM thing WHERE flag OR flag IS NULL OR NOT flag ORDER BY id DESC",
                params![],
            )
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    assert_eq!(rows[0].get::<i64>("id"), Ok(i64::MAX));
    assert_eq!(rows[0].get::<u64>("id"), Ok(i64::MAX as u64));
    assert_eq!(rows[0].get::<String>("name"), Ok(text));
    assert_eq!(
        rows[0].get::<Option<String>>("zone"),
        Ok(Some(String::new()))
    );
    assert_eq!(rows[0].get::<bool>("flag"), Ok(true));
    assert_eq!(rows[0].get::<Vec<u8>>("data"), Ok(bytes));
    assert_eq!(rows[1].get::<bool>("flag"), Ok(false));
    assert_eq!(rows[1].get::<Vec<u8>>("data"), Ok(Vec::new()));
    assert_eq!(rows[2].get::<u32>("id"), Ok(1));
    assert_eq!(rows[2].get::<Option<String>>("zone"), Ok(None));
    assert_eq!(rows[2].get::<Option<bool>>("flag"), Ok(None));
    assert_eq!(rows[2].get::<Option<Vec<u8>>>("data"), Ok(None));
}

#[test]
fn a_number_that_does_not_fit_is_kept() {
    assert_eq!(Value::from(u64::MAX), Value::TooLarge(u64::MAX));
    assert_eq!(Value::from(i64::MAX as u64), Value::Int(i64::MAX));
}

#[test]
fn an_option_is_null_or_its_value() {
    assert_eq!(Value::from(None::<u32>), Value::Null);
    assert_eq!(Value::from(Some("a")), Value::Text("a".to_owned()));
    assert_eq!(
        params![1_i64, true, "x"],
        &[Value::Int(1), Value::Int(1), Value::Text("x".to_owned())]
    );
}

fn numbers_that_do_not_fit_are_refused(engine: Engine) {
    let (_database, store) = store(engine);
    let error = error_of(&store, |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![u64::MAX, "a"],
        )
    });
    assert!(
        error
            .to_string()
            .contains("18446744073709551615 is above 2^63-1"),
        "{error}"
    );
    let error = error_of(&store, |tx| {
        tx.execute(
            "INSERT INTO thing (id, name) VALUES ($1, $2)",
            params![1, "nul\0"],
        )
    });
    assert!(error.to_string().contains("NUL"), "{error}");
    assert_eq!(names(&store), Vec::<String>::new());
}

fn wrong_parameter_counts_are_refused(engine: Engine) {
    let (_database, store) = store(engine);
    let too_few = error_of(&store, |tx| {
        tx.query(
            "SELECT CAST($1 AS TEXT) AS a, CAST($2 AS TEXT) AS b",
            params!["x"],
        )
    });
    assert!(
        too_few
            .to_string()
            .contains("2 parameters and got 1 values"),
        "{too_few}"
    );
    let too_many = error_of(&store, |tx| {
        tx.query("SELECT CAST($1 AS TEXT) AS a", params!["x", "y"])
    });
    assert!(
        too_many
            .to_string()
            .contains("1 parameters and got 2 values"),
        "{too_many}"
    );
    let gap = error_of(&store, |tx| {
        tx.query("SELECT CAST($2 AS TEXT) AS a", params!["x"])
    });
    assert!(matches!(gap, StoreError::Statement { .. }), "{gap}");
}

fn row_counts_are_checked(engine: Engine) {
    let (_database, store) = store(engine);
    let outcome: Result<(), StoreError> = store.write_inline("counts", |tx| {
        let one = "SELECT value FROM counter WHERE id = $1";
        assert!(tx.query_optional(one, params![9])?.is_none());
        assert!(tx.query_optional(one, params![1])?.is_some());
        assert!(matches!(
            tx.query_one(one, params![9]),
            Err(StoreError::RowCount { rows: 0, .. })
        ));
        assert!(matches!(
            tx.query_one("SELECT value FROM counter", params![]),
            Err(StoreError::RowCount { rows: 2, .. })
        ));
        assert_eq!(
            tx.execute("UPDATE counter SET value = value + 1", params![])?,
            2
        );
        assert_eq!(
            tx.execute("UPDATE counter SET value = 0 WHERE id = $1", params![9])?,
            0
        );
        Ok(())
    });
    assert_eq!(outcome, Ok(()));
}

fn a_column_says_what_is_wrong_with_it(engine: Engine) {
    let (_database, store) = store(engine);
    let row = store
        .read_inline("row", |tx| {
            tx.query_one("SELECT -1 AS number, 'x' AS word, NULL AS empty", params![])
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    let message = |error: StoreError| error.to_string();
    assert_eq!(
        row.get::<u32>("number").map_err(message),
        Err("column number cannot be read: -1 is not between 0 and 4294967295".to_owned())
    );
    assert_eq!(
        row.get::<i64>("word").map_err(message),
        Err("column word cannot be read: text where an integer is expected".to_owned())
    );
    assert_eq!(
        row.get::<String>("empty").map_err(message),
        Err("column empty cannot be read: null where text is expected".to_owned())
    );
    assert_eq!(
        row.get::<String>("else").map_err(message),
        Err("column else cannot be read: the result only has number, word, empty".to_owned())
    );
    let average = error_of(&store, |tx| {
        tx.query("SELECT AVG(value) AS average FROM counter", params![])
    });
    assert!(
        average
            .to_string()
            .contains("column average cannot be read"),
        "{average}"
    );
    assert!(
        average.to_string().contains("cast it to BIGINT or TEXT"),
        "{average}"
    );
}

fn json_comes_back(engine: Engine) {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Fabric {
        rails: Vec<u16>,
        bandwidth_gbps: f64,
    }
    let (_database, store) = store(engine);
    let row = store
        .write_inline("json", |tx| {
            let fabric = Fabric {
                rails: vec![1, 2],
                bandwidth_gbps: 391.5,
            };
            tx.query_one(
                "SELECT CAST($1 AS TEXT) AS fabric, CAST($2 AS TEXT) AS none",
                params![Value::json(&fabric)?, Value::Null],
            )
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    assert_eq!(
        row.json::<Fabric>("fabric"),
        Ok(Fabric {
            rails: vec![1, 2],
            bandwidth_gbps: 391.5
        })
    );
    assert_eq!(row.json::<Option<Fabric>>("none"), Ok(None));
    assert!(
        matches!(row.json::<Vec<u16>>("fabric"), Err(StoreError::Decode { column, .. }) if column == "fabric")
    );
}

fn broken_rules_are_named_alike(engine: Engine) {
    let (_database, store) = store(engine);
    store
        .write_inline("first", |tx| {
            tx.execute(
                "INSERT INTO thing (id, name, zone) VALUES ($1, $2, $3)",
                params![1, "a", "north"],
            )
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    let thing = "INSERT INTO thing (id, name, zone) VALUES ($1, $2, $3)";
    let conflict = |kind, what: &str| StoreError::Conflict {
        kind,
        what: what.to_owned(),
    };

    let primary = error_of(&store, move |tx| {
        tx.execute(thing, params![1, "b", "north"])
    });
    assert_eq!(primary, conflict(ConflictKind::Unique, "thing.id"));
    let unique = error_of(&store, move |tx| {
        tx.execute(thing, params![2, "a", "north"])
    });
    assert_eq!(
        unique,
        conflict(ConflictKind::Unique, "thing.name, thing.zone")
    );
    assert_eq!(
        unique.to_string(),
        "uniqueness rule broken: thing.name, thing.zone"
    );
    let check = error_of(&store, move |tx| {
        tx.execute(thing, params![-1, "c", "north"])
    });
    assert_eq!(check, conflict(ConflictKind::Check, "thing_id_positive"));
    let required = error_of(&store, move |tx| {
        tx.execute(thing, params![3, None::<&str>, "north"])
    });
    assert_eq!(required, conflict(ConflictKind::NotNull, "thing.name"));
    let reference = error_of(&store, |tx| {
        tx.execute(
            "INSERT INTO part (id, thing) VALUES ($1, $2)",
            params![1, 77],
        )
    });
    assert!(
        matches!(
            reference,
            StoreError::Conflict {
                kind: ConflictKind::ForeignKey,
                ..
            }
        ),
        "{reference:?}"
    );
    assert_eq!(names(&store), ["a"]);
}

fn execute_and_query_are_not_mixed_up(engine: Engine) {
    let (_database, store) = store(engine);
    let error = error_of(&store, |tx| {
        tx.execute("SELECT value FROM counter", params![])
    });
    assert!(
        error
            .to_string()
            .contains("it returns rows: use a query function"),
        "{error}"
    );
    let error = error_of(&store, |tx| {
        tx.execute("INSERT INTO nowhere (a) VALUES ($1)", params![1])
    });
    assert!(
        matches!(&error, StoreError::Statement { reason, .. } if reason.contains("nowhere")),
        "{error}"
    );
    assert!(!error.is_retryable());
}

fn upsert_and_returning_have_one_text(engine: Engine) {
    let (_database, store) = store(engine);
    let upsert = "INSERT INTO counter (id, value) VALUES ($1, $2)
                  ON CONFLICT (id) DO UPDATE SET value = counter.value + excluded.value RETURNING value";
    let values = store
        .write_inline("upsert", move |tx| {
            let mut values = Vec::new();
            for added in [5, 7] {
                values.push(
                    tx.query_one(upsert, params![3, added])?
                        .get::<i64>("value")?,
                );
            }
            Ok::<_, StoreError>(values)
        })
        .expect("a good upsert");
    assert_eq!(values, [5, 12]);
    let inserted = store.write_inline("nothing", |tx| {
        tx.execute(
            "INSERT INTO counter (id, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            params![3, 1],
        )
    });
    assert_eq!(inserted, Ok::<_, StoreError>(0));
}

fn a_read_cannot_write(engine: Engine) {
    let (_database, store) = store(engine);
    insert(&store, 1, "a").expect("stored");
    let error = store
        .read_inline("sneaky", |tx| tx.execute("DELETE FROM thing", params![]))
        .expect_err("a read transaction does not write");
    assert!(
        matches!(&error, StoreError::Statement { reason, .. } if reason.contains("in a read transaction")),
        "{error}"
    );
    assert_eq!(names(&store), ["a"]);
}
