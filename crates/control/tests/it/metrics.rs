//! The text for Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use supernode_control::metrics::render;
use supernode_control::scale_up::Selection;

use crate::world::{Engine, World, job_spec, on_every_engine};

on_every_engine!(the_text_is_well_formed, the_numbers_are_right);

/// Samples by name and labels; every family is announced once, before its samples.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (family, help) = rest.split_once(' ').expect("a text");
            assert!(helped.insert(family) && help.ends_with('.'), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').expect("a kind");
            assert!(["gauge", "counter", "summary"].contains(&kind), "{line}");
            assert!(
                helped.contains(family) && families.insert(family, kind).is_none(),
                "{line}"
            );
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let base = name
                .strip_suffix("_sum")
                .or_else(|| name.strip_suffix("_count"))
                .unwrap_or(name);
            assert!(
                families.contains_key(name) || families.get(base) == Some(&"summary"),
                "{line}"
            );
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{line}"
            );
            if let Some(labels) = series
                .strip_prefix(name)
                .filter(|labels| !labels.is_empty())
            {
                let inner = labels
                    .strip_prefix('{')
                    .and_then(|labels| labels.strip_suffix('}'))
                    .expect("braces");
                for label in inner.split(',') {
                    let (key, value) = label.split_once('=').expect("a label");
                    assert!(
                        key.bytes()
                            .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                        "{line}"
                    );
                    assert!(
                        value.starts_with('"') && value.ends_with('"') && value.len() > 1,
                        "{line}"
                    );
                }
            }
            let value: f64 = value.parse().expect("a number");
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "twice: {line}"
            );
        }
    }
    samples
}

fn metrics(world: &World) -> BTreeMap<String, f64> {
    parse(
        &world
            .block_on(render(&world.control, &world.metrics))
            .expect("readable"),
    )
}

fn the_text_is_well_formed(engine: Engine) {
    let mut world = World::empty(engine, crate::world::settings());
    metrics(&world);
    world.enrol("n1");
    world.settle();
    metrics(&world);
}

fn is(found: f64, wanted: u32) -> bool {
    (found - f64::from(wanted)).abs() < f64::EPSILON
}

fn the_numbers_are_right(engine: Engine) {
    let mut world = World::with_spares(engine, 3);
    world.created("train", 1);
    let job = world.running("train", job_spec(1));
    world.submit("train", job_spec(1)).expect("queued");
    world.agent("n2").stuck = true;
    world
        .scale_up("train", Selection::Count(1))
        .expect("accepted");
    world.wait(5);
    world.settle();
    let samples = metrics(&world);
    let member = r#"supernode_nodes{policy="in_service",condition="ready",health="unproven",membership="member"}"#;
    assert!(is(samples[member], 1));
    let id = world.super_node("train").id;
    for state in ["running", "queued"] {
        assert!(
            is(
                samples[&format!(r#"supernode_jobs{{super_node="{id}",state="{state}"}}"#)],
                1
            ),
            "{state}"
        );
    }
    assert!(is(samples["supernode_leases"], 1));
    assert!(is(
        samples[r#"supernode_operations_running{kind="scale_up"}"#],
        1
    ));
    assert!(is(
        samples[r#"supernode_operation_age_seconds{kind="scale_up"}"#],
        5
    ));
    assert!(is(
        samples[r#"supernode_operations_overdue{kind="scale_up"}"#],
        0
    ));
    let passes = world.metrics.passes.load(Ordering::Relaxed);
    assert!(is(
        samples["supernode_loop_passes_total"],
        u32::try_from(passes).expect("few")
    ));
    assert!(is(samples["supernode_loop_failures_total"], 0));
    world
        .control
        .hub()
        .note_sync(std::time::Duration::from_micros(30));
    world
        .control
        .hub()
        .note_sync(std::time::Duration::from_micros(10));
    let samples = metrics(&world);
    assert!(
        is(samples["supernode_sync_microseconds_sum"], 40)
            && is(samples["supernode_sync_microseconds_count"], 2)
    );
    assert!(is(samples["supernode_sync_longest_microseconds"], 30));
    world.finish(&job);
    world.settle();
}
