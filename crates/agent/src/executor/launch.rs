//! From what the server says about a rank to what its supervisor is told.
//!
//! The environment is made anew: a small base, the super node's and the job's variables, and last the rank's own, which always win.
//! Nothing of the agent's environment is in it. What makes a start impossible ends the rank as "not started", with a reason.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use supernode_types::JobId;
use supernode_types::agent::RankLaunch;
use supernode_types::inventory::{AcceleratorVendor, Inventory};
use supernode_types::job::{RankEnd, RankState};

use super::job_user::JobUser;
use super::{KILL, Shared, ended, shown, state};
use crate::files::one_line;
use crate::ledger::RankKey;
use crate::ranks::environment::{RankPlace, VisibleDevices, group_environment, rank_environment};
use crate::ranks::{Launch, RankObservation};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const RANK_TABLE: &str = "rank_table.json";

impl Shared {
    /// Starts a rank and says how it stands then.
    pub(super) fn launch(
        &self,
        key: &RankKey,
        job: &JobId,
        launch: &RankLaunch,
        granted: i64,
        inventory: &Inventory,
    ) -> Option<RankState> {
        let id = key.id();
        // An agent that was killed while it started the rank has written down how; the rest of the gang may have changed since.
        let prepared = match self.ranks.launched(&id) {
            Ok(Some(before)) => Ok(before),
            Ok(None) => self.prepare(key, job, launch, inventory),
            Err(error) => Err(one_line(&error)),
        };
        let why = match prepared.map(|launch| self.ranks.launch_under(&id, &launch, granted)) {
            Ok(Ok(observation)) => return state(observation, false),
            Ok(Err(error)) => one_line(&error),
            Err(why) => why,
        };
        // Whatever is there of it must not start any more.
        match self.ranks.stop(
            &id,
            KILL,
            std::time::Duration::ZERO,
            "it could not be started",
        ) {
            Ok(RankObservation::Running { .. }) => Some(RankState::Running),
            Ok(RankObservation::Ended(exit)) if !matches!(exit.end, RankEnd::Stopped { .. }) => {
                state(RankObservation::Ended(exit), false)
            }
            _ => Some(ended(RankEnd::NotStarted { why })),
        }
    }

    fn prepare(
        &self,
        key: &RankKey,
        job: &JobId,
        launch: &RankLaunch,
        inventory: &Inventory,
    ) -> Result<Launch, String> {
        let user = if launch.run_as_root {
            if !self.options.allow_root_jobs {
                return Err("the job asks to run as root, which this node does not allow; start its agent with --allow-root-jobs".into());
            }
            JobUser::own()
        } else {
            self.user.clone()
        };
        let devices = devices(&launch.place.devices, inventory)?;
        let rank_table = launch.rank_table.as_ref().map(ToString::to_string);
        let files: Vec<(&str, &[u8])> = rank_table
            .iter()
            .map(|text| (RANK_TABLE, text.as_bytes()))
            .collect();
        let (directory, scratch) = {
            let _making = self
                .making_work
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.work
                .create(key.attempt.as_str(), user.user.as_ref(), &files)
                .map_err(|error| one_line(&error))?
        };
        let rank_table_file = rank_table
            .is_some()
            .then(|| shown(&directory.join(RANK_TABLE)));
        let devices = match devices {
            VisibleDevices::Ascend { devices, .. } => VisibleDevices::Ascend {
                devices,
                rank_table_file,
            },
            other => other,
        };
        let scratch = shown(&scratch);
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            (
                "HOME".to_owned(),
                user.home.unwrap_or_else(|| scratch.clone()),
            ),
            ("USER".to_owned(), user.name.clone()),
            ("LOGNAME".to_owned(), user.name),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        env.extend(launch.environment.clone());
        let rank_place = place(key.rank, launch);
        env.extend(rank_environment(&rank_place, &devices));
        if let Some(group_key) = &launch.group_key {
            let number = launch.place.restart_count + 1;
            env.extend(group_environment(
                &rank_place,
                key.attempt.as_str(),
                number,
                group_key,
            ));
        }
        Ok(Launch {
            attempt: key.attempt.to_string(),
            rank: key.rank,
            argv: launch.arguments.clone(),
            env,
            workdir: launch.workdir.clone().unwrap_or(scratch),
            user: user.user,
            log_cap_bytes: self.options.log_cap_bytes,
            tag: job.to_string(),
        })
    }
}

fn place(rank: u32, launch: &RankLaunch) -> RankPlace {
    let place = &launch.place;
    RankPlace {
        rank,
        world_size: place.world_size,
        local_rank: place.local_rank,
        local_world_size: place.local_world_size,
        node_rank: place.node_rank,
        master_address: place.master_address.clone(),
        master_port: place.master_port,
    }
}

/// The devices by the numbers that programs choose them with. The server counts them in the order of the inventory.
fn devices(wanted: &[u32], inventory: &Inventory) -> Result<VisibleDevices, String> {
    let Some(first) = inventory.accelerators.first() else {
        return Ok(VisibleDevices::Host);
    };
    let index = |device: &u32| {
        let found = usize::try_from(*device)
            .ok()
            .and_then(|device| inventory.accelerators.get(device));
        found.map(|accelerator| accelerator.index).ok_or_else(|| {
            let count = inventory.accelerators.len();
            format!("device {device} of the job is not there any more: the node has {count} accelerators now")
        })
    };
    let devices = wanted.iter().map(index).collect::<Result<Vec<_>, _>>()?;
    Ok(match first.vendor {
        AcceleratorVendor::Nvidia => VisibleDevices::Nvidia(devices),
        AcceleratorVendor::Ascend => VisibleDevices::Ascend {
            devices,
            rank_table_file: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::inventory::Accelerator;

    #[test]
    fn devices_are_named_as_their_vendor_counts_them() {
        assert_eq!(
            devices(&[0], &Inventory::default()),
            Ok(VisibleDevices::Host)
        );
        let accelerators = [4, 5, 7]
            .map(|index| Accelerator::new(index, AcceleratorVendor::Nvidia))
            .to_vec();
        let inventory = Inventory {
            accelerators,
            ..Inventory::default()
        };
        assert_eq!(
            devices(&[0, 2], &inventory),
            Ok(VisibleDevices::Nvidia(vec![4, 7]))
        );
        let why = devices(&[3], &inventory).expect_err("there are three");
        assert!(
            why.contains("device 3") && why.contains("3 accelerators"),
            "{why}"
        );
    }
}
