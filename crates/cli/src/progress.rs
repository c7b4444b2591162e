//! Watching an operation until it has ended: bars on a terminal, a line per change elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use supernode_api::operation::OperationView;
use supernode_client::{Client, LONGEST_WAIT};
use supernode_types::operation::{OperationState, TargetState};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::operation::{subject, title};
use crate::output::{add, clean, say};

/// For how long a server that went away is waited for; it may be restarting.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// More targets than this are not shown one by one.
const MOST_TARGETS: usize = 16;

/// Shows `operation` until it has ended, and answers how it ended. Ctrl-C stops watching, not the operation.
pub(crate) async fn watch(
    client: &Client,
    operation: OperationView,
) -> Result<OperationView, Failure> {
    let client = client.clone().with_patience(PATIENCE);
    let id = operation.operation.id.clone();
    let mut display = Display::new();
    let mut present = operation;
    // Registered before anything is shown: whoever reads the first line may interrupt at once.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::Failed(format!("signals cannot be received: {error}")))?;
    loop {
        display.show(&present);
        if present.operation.state.ended() {
            display.finish();
            return Ok(present);
        }
        let after = Some(present.operation.generation);
        tokio::select! {
            next = client.operation_after(id.as_str(), after, LONGEST_WAIT) => present = next.inspect_err(|_| {
                display.finish();
                say(&format!("the operation goes on; see it with `supernode operation wait {id}`"));
            })?,
            _ = interrupt.recv() => {
                display.finish();
                say(&format!("the operation goes on; wait with `supernode operation wait {id}`, stop it with `supernode operation cancel {id}`"));
                return Err(Failure::Interrupted);
            }
        }
    }
}

/// Whether it ended well; else the reason.
pub(crate) fn outcome(view: &OperationView) -> Result<(), Failure> {
    let (how, why) = match &view.operation.state {
        OperationState::Failed { reason } => ("failed", reason),
        OperationState::Cancelled { detail } => ("was cancelled", detail),
        OperationState::Running { .. } | OperationState::Succeeded => return Ok(()),
    };
    let mut text = format!("{} {how}: {why} ({})", subject(view), view.operation.id);
    for (name, step) in steps(view) {
        if step.starts_with("failed") {
            add(&mut text, format_args!("; {name} {step}"));
        }
    }
    Err(Failure::Failed(text))
}

/// Each target by name, with its step.
fn steps(view: &OperationView) -> Vec<(String, String)> {
    view.operation
        .targets
        .iter()
        .map(|target| {
            let slot = usize::try_from(target.slot).unwrap_or(usize::MAX);
            let name = view
                .target_names
                .get(slot)
                .cloned()
                .flatten()
                .unwrap_or_else(|| format!("target {}", target.slot));
            let step = match &target.state {
                TargetState::Active { step } => step.clone(),
                TargetState::Done => "done".to_owned(),
                TargetState::Failed { reason } => format!("failed: {reason}"),
            };
            (clean(&name), clean(&step))
        })
        .collect()
}

fn waits_for(view: &OperationView) -> String {
    match &view.operation.state {
        OperationState::Running { waits_for } => clean(waits_for),
        _ => String::new(),
    }
}

enum Display {
    Bars(Box<Bars>),
    Lines(Lines),
}

impl Display {
    fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars(Box::new(Bars::new()))
        } else {
            Self::Lines(Lines::default())
        }
    }

    fn show(&mut self, view: &OperationView) {
        match self {
            Self::Bars(bars) => bars.show(view),
            Self::Lines(lines) => lines.changes(view).iter().for_each(|line| say(line)),
        }
    }

    fn finish(&self) {
        if let Self::Bars(bars) = self {
            bars.finish();
        }
    }
}

/// One bar for the operation, one line for each target that is under way.
struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    targets: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let style =
            ProgressStyle::with_template("{spinner} {prefix} [{bar:20}] {pos}/{len} {wide_msg}")
                .expect("the template is valid");
        let head = all.add(ProgressBar::new(0).with_style(style.progress_chars("=> ")));
        head.enable_steady_tick(Duration::from_millis(120));
        Self {
            all,
            head,
            targets: BTreeMap::new(),
        }
    }

    fn show(&mut self, view: &OperationView) {
        self.head.set_prefix(title(view));
        self.head
            .set_length(u64::try_from(view.operation.targets.len()).unwrap_or(0));
        self.head.set_position(u64::from(view.targets_done));
        self.head.set_message(waits_for(view));
        for (name, step) in steps(view).into_iter().take(MOST_TARGETS) {
            let bar = self.targets.entry(name.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("  {prefix}  {wide_msg}")
                    .expect("the template is valid");
                self.all.add(
                    ProgressBar::new_spinner()
                        .with_style(style)
                        .with_prefix(name),
                )
            });
            bar.set_message(step);
        }
    }

    fn finish(&self) {
        for bar in self.targets.values() {
            bar.finish_and_clear();
        }
        self.head.finish_and_clear();
    }
}

/// Remembers what was said, to say only what changed.
#[derive(Debug, Default)]
struct Lines {
    steps: BTreeMap<String, String>,
    waits_for: String,
}

impl Lines {
    fn changes(&mut self, view: &OperationView) -> Vec<String> {
        let title = title(view);
        let changed: Vec<(String, String)> = steps(view)
            .into_iter()
            .filter(|(name, step)| self.steps.get(name) != Some(step))
            .collect();
        let mut lines = if changed.len() > MOST_TARGETS {
            together(&title, &changed)
        } else {
            let line = |(name, step): &(String, String)| format!("{title}: {name}: {step}");
            changed.iter().map(line).collect()
        };
        self.steps.extend(changed);
        let waits_for = waits_for(view);
        if waits_for != self.waits_for && !waits_for.is_empty() {
            lines.push(format!("{title}: {waits_for}"));
        }
        self.waits_for = waits_for;
        lines
    }
}

/// A line for each step, with how many targets have come to it.
fn together(title: &str, changed: &[(String, String)]) -> Vec<String> {
    let mut at: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for (name, step) in changed {
        at.entry(step).or_insert((name, 0)).1 += 1;
    }
    let line = |(step, (name, count)): (&str, (&str, usize))| match count {
        1 => format!("{title}: {name}: {step}"),
        _ => format!("{title}: {name} and {} more: {step}", count - 1),
    };
    at.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::tests::sample;
    use serde_json::json;

    #[test]
    fn a_pipe_gets_a_line_for_each_change_and_no_other() {
        let mut lines = Lines::default();
        let first = sample(
            &json!({"state": "running", "waits_for": "1 of 1 nodes"}),
            &json!({"state": "active", "step": "joining"}),
        );
        assert_eq!(
            lines.changes(&first),
            [
                "scale_up train: n3: joining",
                "scale_up train: 1 of 1 nodes"
            ]
        );
        assert!(lines.changes(&first).is_empty());
        let second = sample(
            &json!({"state": "running", "waits_for": "1 of 1 nodes"}),
            &json!({"state": "active", "step": "ready soon"}),
        );
        assert_eq!(lines.changes(&second), ["scale_up train: n3: ready soon"]);
        let last = sample(&json!({"state": "succeeded"}), &json!({"state": "done"}));
        assert_eq!(lines.changes(&last), ["scale_up train: n3: done"]);
    }

    #[test]
    fn many_targets_are_told_together() {
        let mut changed: Vec<(String, String)> = (1..=20)
            .map(|number| (format!("n{number}"), "joining".to_owned()))
            .collect();
        changed.push(("n21".into(), "failed: no answer".into()));
        assert_eq!(
            together("scale_up train", &changed),
            [
                "scale_up train: n21: failed: no answer",
                "scale_up train: n1 and 19 more: joining"
            ]
        );
    }

    #[test]
    fn a_bad_end_says_why_and_which_target() {
        let failed = sample(
            &json!({"state": "failed", "reason": "the deadline passed"}),
            &json!({"state": "failed", "reason": "no answer"}),
        );
        let text = outcome(&failed).expect_err("it failed").to_string();
        assert_eq!(
            text,
            "scale_up of train failed: the deadline passed (op-01kb000000000000000000000a); n3 failed: no answer"
        );
        assert!(
            outcome(&sample(
                &json!({"state": "succeeded"}),
                &json!({"state": "done"})
            ))
            .is_ok()
        );
    }
}
