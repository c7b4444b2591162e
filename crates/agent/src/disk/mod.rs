//! Grows the system disk of the node: what an agent does for `disk_expand` beyond talking of it.
//!
//! ```text
//!  look at the layout --> device arrives --> partition --> physical and logical volume --> file system --> read all back
//!         ^                                     |
//!         |                                     v the kernel keeps the old table
//!         \----------- after a restart ------ needs a restart
//! ```
//! Every step asks first what is there, so doing it again changes nothing: an agent that was killed anywhere begins at the top and
//! gets to where it was. What was there *before* is written down before the first step and kept until the operation is another, so the
//! evidence survives as well. A tool outlives the agent that started it: it holds a lock, and the next agent waits for it.
//!
//! What it refuses: to make anything smaller, to touch a layout that the planner does not call growable, and to go on after a step
//! that it cannot see the effect of.

mod record;
mod step;
mod tool;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use supernode_probe::system_disk::look;
use supernode_probe::{SystemTools, Tools as _};
use supernode_types::Clock;
use supernode_types::disk::{
    DiskReport, DiskReportState, DiskStep, DiskUsage, DiskWish, Growth, StepReport, StepState,
    SystemDisk, size_words,
};

use crate::files::{Directory, FileError, one_line};
use record::Record;
use tool::Toolbox;

/// How often the kernel is asked whether the device grew.
const RESCAN_PERIOD: Duration = Duration::from_secs(1);

/// How long to wait before the layout is looked at again.
const LOOK_WAITS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// Where the system disk is, and how it is worked on.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// The path whose file system counts as the node's system disk, or a device below `/dev` that is not mounted.
    pub place: PathBuf,
    /// Where tools are looked for before the usual places.
    pub tool_directories: Vec<PathBuf>,
    /// The program that restarts the machine; absent where the agent must not.
    pub restart_program: Option<PathBuf>,
}

/// Why a step ends the work of this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// The layer cannot be grown.
    Failed(String),
    /// Only a restart makes the kernel see it.
    NeedsRestart(String),
}

/// What grows the system disk of one node.
#[derive(Debug)]
pub struct DiskExecutor {
    directory: Directory,
    options: DiskOptions,
    clock: Arc<dyn Clock>,
    boot_id: String,
}

impl DiskExecutor {
    /// Keeps its record in `data_directory`.
    pub fn open(
        data_directory: &Path,
        options: DiskOptions,
        clock: Arc<dyn Clock>,
        boot_id: String,
    ) -> Result<Self, FileError> {
        Ok(Self {
            directory: Directory::open(data_directory)?,
            options,
            clock,
            boot_id,
        })
    }

    /// The system disk as it is now. Runs a handful of programs.
    pub fn look(&self) -> SystemDisk {
        let tools = SystemTools::with_directories(self.options.tool_directories.clone());
        look(Path::new("/"), &tools, &self.place(), None)
    }

    /// How full it is; `None` if the kernel does not tell.
    pub fn usage(&self) -> Option<DiskUsage> {
        let space = SystemTools::default().space(&self.options.place)?;
        Some(DiskUsage {
            size_bytes: space.size_bytes,
            used_bytes: space.used_bytes,
        })
    }

    fn place(&self) -> String {
        let place = self.options.place.canonicalize();
        let place = place.unwrap_or_else(|_| self.options.place.clone());
        place.display().to_string()
    }

    /// Makes the disk have what is wanted, and tells `report` whenever something changed; the last report says how it ended. Blocks, for
    /// minutes where a device or a tool takes them.
    pub fn expand(&self, wish: &DiskWish, report: &dyn Fn(DiskReport)) {
        let mut work = Work {
            executor: self,
            wish,
            record: Record::load(&self.directory, &wish.operation),
            report,
        };
        let state = match work.run() {
            Ok(()) => DiskReportState::Done,
            Err((layer, Trouble::Failed(why))) => DiskReportState::Failed { layer, why },
            Err((_, Trouble::NeedsRestart(why))) => DiskReportState::NeedsRestart {
                why,
                boot_id: self.boot_id.clone(),
            },
        };
        work.tell(state);
    }

    /// Restarts the machine. Returns why it does not restart; never, if it does.
    pub fn restart(&self) -> String {
        let Some(program) = &self.options.restart_program else {
            return "this agent must not restart its machine, which is not its own".into();
        };
        rustix::fs::sync();
        match tool::restart(program) {
            Ok(()) => format!("{} did not restart the machine", program.display()),
            Err(why) => why,
        }
    }
}

/// One expansion in the making.
struct Work<'a> {
    executor: &'a DiskExecutor,
    wish: &'a DiskWish,
    record: Record,
    report: &'a dyn Fn(DiskReport),
}

impl Work<'_> {
    fn run(&mut self) -> Result<(), (String, Trouble)> {
        let failed = |layer: &str, why: String| (layer.to_owned(), Trouble::Failed(why));
        self.tell(DiskReportState::Working);
        let toolbox = Toolbox::open(
            self.executor.directory.path(),
            self.executor.options.tool_directories.clone(),
            &*self.executor.clock,
        )
        .map_err(|why| failed("layout", why))?;
        let steps = self.steps().map_err(|why| failed("layout", why))?;
        self.begin(&toolbox, &steps);
        for (index, step) in steps.iter().enumerate() {
            if index == 1 {
                // The device may be another one by now: what is done to it next is planned for what it is.
                let again = self.steps().map_err(|why| failed("layout", why))?;
                if again != steps {
                    let why = "the layout changed while the device grew".to_owned();
                    return Err(failed("layout", why));
                }
            }
            self.record.steps[index].state = StepState::Running;
            self.save();
            self.tell(DiskReportState::Working);
            let result = self.perform(&toolbox, step, index);
            let entry = &mut self.record.steps[index];
            match &result {
                Ok(detail) => {
                    entry.state = StepState::Done;
                    entry.detail.clone_from(detail);
                }
                Err(Trouble::Failed(why)) => {
                    entry.state = StepState::Failed;
                    entry.detail.clone_from(why);
                }
                Err(Trouble::NeedsRestart(why)) => {
                    entry.state = StepState::Waiting;
                    entry.detail.clone_from(why);
                }
            }
            self.save();
            result.map_err(|trouble| (step.word().to_owned(), trouble))?;
            self.tell(DiskReportState::Working);
        }
        Ok(())
    }

    /// Looks again for a while where a tool fails: one that has no answer at this moment must not end the operation.
    fn look(&self) -> SystemDisk {
        let mut waits = LOOK_WAITS.into_iter();
        loop {
            let disk = self.executor.look();
            let (Growth::Unknown { why }, Some(wait)) = (&disk.growth, waits.next()) else {
                return disk;
            };
            tracing::warn!(
                why,
                "the layout of the system disk cannot be read, looking again"
            );
            std::thread::sleep(wait);
        }
    }

    fn steps(&self) -> Result<Vec<DiskStep>, String> {
        match self.look().growth {
            Growth::Yes { steps, .. } => Ok(steps),
            Growth::No { why } | Growth::Unknown { why } => Err(why),
        }
    }

    /// Writes down what is there before the first step, once for each operation.
    fn begin(&mut self, toolbox: &Toolbox, steps: &[DiskStep]) {
        let same = |record: &Record| {
            let known = record.steps.iter().map(|step| (&step.layer, &step.subject));
            let wanted = steps.iter().map(|step| (step.word(), step.subject()));
            known.len() == wanted.len()
                && known
                    .zip(wanted)
                    .all(|(known, wanted)| *known.0 == wanted.0 && *known.1 == wanted.1)
        };
        if same(&self.record) {
            for step in &mut self.record.steps {
                step.state = StepState::Waiting;
            }
            return;
        }
        self.record.steps = steps
            .iter()
            .map(|step| StepReport {
                layer: step.word().to_owned(),
                subject: step.subject(),
                state: StepState::Waiting,
                before_bytes: step::measure(toolbox, step),
                after_bytes: None,
                detail: String::new(),
            })
            .collect();
        self.save();
    }

    /// Does a step; what its layer has now must be no less than what it had before.
    fn perform(
        &mut self,
        toolbox: &Toolbox,
        step: &DiskStep,
        index: usize,
    ) -> Result<String, Trouble> {
        let detail = match step {
            DiskStep::Device { disk, bus } => self.arrive(toolbox, disk, *bus)?,
            DiskStep::Verify => self.verify()?,
            step => step::perform(toolbox, step)?,
        };
        let after = step::measure(toolbox, step);
        let entry = &mut self.record.steps[index];
        entry.after_bytes = after;
        match (entry.before_bytes, after) {
            (Some(before), Some(after)) if after < before => Err(Trouble::Failed(format!(
                "it has {after} bytes now and had {before} before: nothing that was done here makes it smaller, so something else did"
            ))),
            _ => Ok(detail),
        }
    }

    /// Waits until the kernel sees the size, asking it to look again and again.
    fn arrive(
        &self,
        toolbox: &Toolbox,
        disk: &str,
        bus: supernode_types::disk::DiskBus,
    ) -> Result<String, Trouble> {
        let clock = &*self.executor.clock;
        let deadline = clock.monotonic() + Duration::from_secs(self.wish.device_seconds);
        let mut complaint = None;
        loop {
            let present = step::block_bytes(disk).unwrap_or(0);
            if present >= self.wish.size_bytes {
                return Ok(String::new());
            }
            if clock.monotonic() >= deadline {
                let said = complaint.map_or(String::new(), |why: String| format!(" ({why})"));
                return Err(Trouble::Failed(format!(
                    "{disk} still has {} after {} s{said}: make the volume {} first",
                    size_words(present),
                    self.wish.device_seconds,
                    size_words(self.wish.size_bytes)
                )));
            }
            complaint = step::rescan(toolbox, disk, bus).err();
            if step::block_bytes(disk).unwrap_or(0) < self.wish.size_bytes {
                std::thread::sleep(RESCAN_PERIOD);
            }
        }
    }

    /// Reads everything back.
    fn verify(&self) -> Result<String, Trouble> {
        let disk = self.look();
        match disk.growth {
            Growth::Yes { at_size: true, .. } if disk.size_bytes >= self.wish.size_bytes => {
                Ok(String::new())
            }
            Growth::Yes { .. } => Err(Trouble::Failed(
                "every tool succeeded, and a layer does not fill the one below it all the same"
                    .into(),
            )),
            Growth::No { why } | Growth::Unknown { why } => Err(Trouble::Failed(why)),
        }
    }

    fn save(&self) {
        // A disk that is full may have no room for it. Then the evidence lives in the reports only, and the work goes on: it is what
        // makes room again.
        if let Err(error) = self.record.store(&self.executor.directory) {
            tracing::warn!(
                error = one_line(&error),
                "the record of a disk expansion cannot be stored"
            );
        }
    }

    fn tell(&self, state: DiskReportState) {
        (self.report)(DiskReport {
            operation: self.wish.operation.clone(),
            state,
            steps: self.record.steps.clone(),
        });
    }
}
