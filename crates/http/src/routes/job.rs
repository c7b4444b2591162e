//! Jobs.

use supernode_api::job::{
    JobCancel, JobDetail, JobList, JobListQuery, JobLog, JobShow, JobSubmit, JobSubmitRequest,
    JobView, RankView,
};
use supernode_api::{Page, Role};
use supernode_control::job::{self, DEFAULT_GRACE_SECONDS, Strictness};
use supernode_control::query::{self, Names};
use supernode_control::{Refusal, Tx};
use supernode_types::job::{Job, JobSpec, Rank};

use super::Context;
use super::context::{page, page_limit};
use super::log;
use crate::{Edge, Failure, Request};

pub(super) fn mount(edge: Edge, context: &Context) -> Edge {
    let (submit, list, show, cancel, read_log) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    edge.operation::<JobSubmit, _, _>(move |request: Request<JobSubmit>| {
        let context = submit.clone();
        async move {
            let body = request.body.clone();
            let strictness = if body.strict {
                Strictness::Insist
            } else {
                Strictness::Warn
            };
            let (super_node, name, spec) = (body.super_node.clone(), body.name.clone(), spec(body));
            context
                .change_audited(
                    &request,
                    super_node.clone(),
                    audited(&request.body),
                    true,
                    move |tx, intent| {
                        let (job, super_node) = job::submit(
                            tx,
                            intent,
                            &super_node,
                            name.as_deref(),
                            &spec,
                            strictness,
                        )?;
                        Ok(JobView {
                            job,
                            super_node_name: super_node.name,
                        })
                    },
                )
                .await
        }
    })
    .operation::<JobList, _, _>(move |request: Request<JobList>| {
        let context = list.clone();
        async move { list_jobs(&context, request.query).await }
    })
    .operation::<JobShow, _, _>(move |request: Request<JobShow>| {
        let context = show.clone();
        async move {
            let id = request.path.get("job").to_owned();
            context
                .watch(
                    request.query,
                    |detail: &JobDetail| detail.view.job.generation,
                    || detail(&context, id.clone()),
                )
                .await
        }
    })
    .operation::<JobCancel, _, _>(move |request: Request<JobCancel>| {
        let context = cancel.clone();
        async move {
            let id = request.path.get("job").to_owned();
            context
                .change(&request, id.clone(), move |tx, intent| {
                    let job = job::cancel(tx, intent, &id)?;
                    let names = query::names(tx)?;
                    Ok(view(&names, job))
                })
                .await
        }
    })
    .operation::<JobLog, _, _>(move |request: Request<JobLog>| {
        let context = read_log.clone();
        async move {
            let rank = request
                .path
                .get("rank")
                .parse()
                .map_err(|_| Failure::invalid_request("a rank is a number from 0"))?;
            let reader = log::Reader {
                job: request.path.get("job").to_owned(),
                rank,
                owner_only: (request.caller.role < Role::Operator)
                    .then(|| request.caller.name.to_string()),
            };
            log::read(&context, reader, &request.query).await
        }
    })
}

fn spec(body: JobSubmitRequest) -> JobSpec {
    JobSpec {
        nodes: body.nodes,
        devices: body.devices,
        arguments: body.arguments,
        environment: body.environment,
        workdir: body.workdir,
        priority: body.priority,
        time_limit_seconds: body.time_limit_seconds,
        requeue_limit: body.requeue_limit,
        grace_seconds: body.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS),
        run_as_root: body.run_as_root,
    }
}

/// Values of variables can be credentials: the audit log has their names only.
fn audited(body: &JobSubmitRequest) -> serde_json::Value {
    let mut shown = body.clone();
    for value in shown.environment.values_mut() {
        *value = "(not recorded)".into();
    }
    serde_json::to_value(shown).unwrap_or_default()
}

async fn list_jobs(context: &Context, wanted: JobListQuery) -> Result<Page<JobView>, Failure> {
    let limit = page_limit(wanted.limit)?;
    let jobs = context
        .read("job_list", move |tx| {
            let super_node = match &wanted.super_node {
                Some(name) => Some(supernode_control::super_node::find(tx, name)?.id),
                None => None,
            };
            let jobs = query::jobs(
                tx,
                super_node.as_ref(),
                wanted.state.as_deref(),
                wanted.cursor.as_deref(),
                limit + 1,
            )?;
            let names = query::names(tx)?;
            Ok(jobs
                .into_iter()
                .map(|job| view(&names, job))
                .collect::<Vec<_>>())
        })
        .await?;
    Ok(page(jobs, limit, |view: &JobView| view.job.id.to_string()))
}

async fn detail(context: &Context, id: String) -> Result<JobDetail, Failure> {
    context
        .read("job_show", move |tx| {
            let job = job::find(tx, &id)?;
            let ranks = query::ranks_of(tx, &job)?;
            let names = query::names(tx)?;
            let ranks = ranks
                .into_iter()
                .map(|rank| rank_view(tx, rank))
                .collect::<Result<Vec<_>, _>>()?;
            let (retry, retry_evidence) = query::retry_of(tx, &job)?;
            Ok(JobDetail {
                view: view(&names, job),
                ranks,
                retry,
                retry_evidence,
            })
        })
        .await
}

fn rank_view(tx: &mut Tx<'_>, rank: Rank) -> Result<RankView, Refusal> {
    let node_name = supernode_control::node::find(tx, rank.node.as_str())?.name;
    Ok(RankView { rank, node_name })
}

fn view(names: &Names, job: Job) -> JobView {
    JobView {
        super_node_name: names.super_node(&job.super_node),
        job,
    }
}
