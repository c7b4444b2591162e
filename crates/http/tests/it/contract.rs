//! The real contract, walked: every operation can be mounted, and every one refuses strangers, lower roles and unknown parameters.

use supernode_api::openapi::Description;
use supernode_api::{ErrorCode, Role};
use supernode_http::{EdgeOptions, Failure};

use crate::support::{Server, edge, error_of, serve};

const ROLES: [Role; 4] = [Role::Viewer, Role::User, Role::Operator, Role::Admin];

macro_rules! mount_all {
    ($edge:expr, $($module:ident: $($operation:ident)+;)+) => {{
        let mut edge = $edge;
        $($( edge = edge.operation::<supernode_api::$module::$operation, _, _>(async |_| Err(Failure::conflict("reached"))); )+)+
        edge
    }};
}

fn contract_server() -> Server {
    let edge = mount_all!(edge(EdgeOptions::default()),
        system: SystemShow;
        node: NodeList NodeShow NodePatch NodeCordon NodeUncordon NodeRemove;
        spec: SpecList SpecShow SpecDeclare SpecDelete;
        super_node: SuperNodeList SuperNodeShow SuperNodeCreate SuperNodeCreatePlan SuperNodePatch SuperNodeDelete ScaleUp ScaleUpPlan ScaleDown ScaleDownPlan NodeReplace NodeReplacePlan;
        disk: DiskList DiskExpand DiskPlan;
        stress: StressRunStart StressRunList StressRunShow StressEvidenceList NodeHealthShow NodeRelease;
        stress_plan: StressPlanCreate StressPlanList StressPlanShow StressPlanPatch StressPlanDelete;
        channel: ChannelCreate ChannelList ChannelShow ChannelTest ChannelDelete;
        environment: EnvironmentShow EnvironmentHistory EnvironmentSet;
        retry_policy: RetryPolicyShow RetryPolicySet;
        job: JobSubmit JobList JobShow JobCancel JobLog;
        operation: OperationList OperationShow OperationCancel;
        event: EventList;
        audit: AuditList;
        token: TokenList TokenCreate TokenRevoke;
        join_token: JoinTokenList JoinTokenCreate JoinTokenRevoke;
    );
    assert_eq!(
        edge.missing(),
        Vec::<&str>::new(),
        "operations of the contract that this test does not mount"
    );
    serve(edge)
}

fn path_of(operation: &Description) -> String {
    operation.path.replace(['{', '}'], "")
}

#[tokio::test]
async fn every_operation_checks_its_caller_and_its_parameters() {
    let server = contract_server();
    for operation in supernode_api::all() {
        let (name, method, path) = (
            operation.name,
            operation.method.as_str(),
            path_of(&operation),
        );
        let stranger = server
            .request(method, &path, "nobody")
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            error_of(stranger).await.1.code,
            ErrorCode::Unauthenticated,
            "{name}"
        );
        for role in ROLES {
            let (_, body) = error_of(
                server
                    .request(method, &path, role.word())
                    .send()
                    .await
                    .expect("an answer"),
            )
            .await;
            if role < operation.role {
                assert_eq!(body.code, ErrorCode::Forbidden, "{name} as {}", role.word());
                assert!(
                    body.message
                        .contains(&format!("needs the role `{}`", operation.role.word())),
                    "{name}: {}",
                    body.message
                );
            } else {
                let expected = if operation.request.is_some() {
                    ErrorCode::InvalidRequest
                } else {
                    ErrorCode::Conflict
                };
                assert_eq!(
                    body.code,
                    expected,
                    "{name} as {}: {}",
                    role.word(),
                    body.message
                );
            }
        }
        let (_, body) = error_of(
            server
                .request(method, &format!("{path}?no_such=1"), "admin")
                .send()
                .await
                .expect("an answer"),
        )
        .await;
        assert!(
            body.message.contains("unknown query parameter `no_such`"),
            "{name}: {}",
            body.message
        );
        if operation.request.is_some() {
            let list = server
                .request(method, &path, "admin")
                .header("content-type", "application/json")
                .body("[[]]");
            assert_eq!(
                error_of(list.send().await.expect("an answer")).await.1.code,
                ErrorCode::InvalidRequest,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn every_query_parameter_of_the_contract_is_understood() {
    let server = contract_server();
    for operation in supernode_api::all()
        .iter()
        .filter(|operation| operation.request.is_none())
    {
        let Some(properties) = operation
            .query
            .get("properties")
            .and_then(serde_json::Value::as_object)
        else {
            continue;
        };
        for parameter in properties.keys() {
            // `1` is an integer and a text: whatever the type, it reaches the handler.
            let target = format!("{}?{parameter}=1", path_of(operation));
            let (_, body) = error_of(
                server
                    .request(operation.method.as_str(), &target, "admin")
                    .send()
                    .await
                    .expect("an answer"),
            )
            .await;
            assert_eq!(body.code, ErrorCode::Conflict, "{target}: {}", body.message);
        }
    }
}
