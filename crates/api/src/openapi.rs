//! `OpenAPI` 3.1, generated from the contract.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::{ErrorBody, Method, Nothing, Operation, Role};

/// An operation without its types, for whatever walks the list.
#[derive(Debug, Clone)]
pub struct Description {
    /// Unique name.
    pub name: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Path with `{parameters}`.
    pub path: &'static str,
    /// Status code of success.
    pub status: u16,
    /// The least role that may call it.
    pub role: Role,
    /// One sentence.
    pub summary: &'static str,
    /// Schema of the query object.
    pub query: Schema,
    /// Schema of the request body, absent where there is none.
    pub request: Option<Schema>,
    /// Schema of the response body.
    pub response: Schema,
}

/// Collects operations.
pub(crate) trait Visitor {
    /// Takes one operation.
    fn operation(&mut self, describe: fn(&mut SchemaGenerator) -> Description);
}

pub(crate) fn describe<O: Operation>(generator: &mut SchemaGenerator) -> Description {
    let has_body = <O::Request as JsonSchema>::schema_id() != <Nothing as JsonSchema>::schema_id();
    Description {
        name: O::NAME,
        method: O::METHOD,
        path: O::PATH,
        status: O::STATUS,
        role: O::ROLE,
        summary: O::SUMMARY,
        query: O::Query::json_schema(generator),
        request: has_body.then(|| generator.subschema_for::<O::Request>()),
        response: generator.subschema_for::<O::Response>(),
    }
}

struct Collector {
    generator: SchemaGenerator,
    found: Vec<Description>,
}

impl Visitor for Collector {
    fn operation(&mut self, describe: fn(&mut SchemaGenerator) -> Description) {
        let description = describe(&mut self.generator);
        self.found.push(description);
    }
}

fn collect() -> Collector {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut collector = Collector {
        generator: settings.into_generator(),
        found: Vec::new(),
    };
    crate::system::visit(&mut collector);
    crate::node::visit(&mut collector);
    crate::spec::visit(&mut collector);
    crate::super_node::visit(&mut collector);
    crate::disk::visit(&mut collector);
    crate::stress::visit(&mut collector);
    crate::stress_plan::visit(&mut collector);
    crate::channel::visit(&mut collector);
    crate::environment::visit(&mut collector);
    crate::retry_policy::visit(&mut collector);
    crate::job::visit(&mut collector);
    crate::operation::visit(&mut collector);
    crate::event::visit(&mut collector);
    crate::audit::visit(&mut collector);
    crate::token::visit(&mut collector);
    crate::join_token::visit(&mut collector);
    collector
}

pub(crate) fn describe_all() -> Vec<Description> {
    collect().found
}

/// The whole document.
pub fn document() -> Value {
    let mut collector = collect();
    let error = collector.generator.subschema_for::<ErrorBody>();
    let mut paths = Map::new();
    for description in &collector.found {
        let item = paths.entry(description.path).or_insert_with(|| json!({}));
        item[description.method.as_str().to_ascii_lowercase()] = operation(description, &error);
    }
    let schemas: Map<String, Value> = collector.generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "supernode",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Manages super nodes: groups of servers of one specification that are used as one machine for distributed training.",
            "license": {"name": "Apache-2.0"}
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
        }
    })
}

fn operation(description: &Description, error: &Schema) -> Value {
    let mut parameters = path_parameters(description.path);
    parameters.extend(query_parameters(&description.query));
    if description.method != Method::Get {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": {"type": "string", "maxLength": 128},
            "description": "The same key with the same request has one effect and the same answer."
        }));
    }
    if matches!(
        description.method,
        Method::Patch | Method::Put | Method::Delete
    ) {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "The generation that the object must have, in quotes."
        }));
    }
    let mut value = json!({
        "operationId": description.name,
        "summary": description.summary,
        "description": format!("Needs the role `{}`.", description.role.word()),
        "tags": [description.path.split('/').nth(3).unwrap_or("system")],
        "parameters": parameters,
        "responses": {
            description.status.to_string(): {"description": "Success.", "content": {"application/json": {"schema": description.response}}},
            "default": {"description": "Failure; `code` says why.", "content": {"application/json": {"schema": error}}}
        }
    });
    if let Some(request) = &description.request {
        value["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": request}}});
    }
    value
}

fn path_parameters(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}, "description": format!("Name or id of the {}.", name.replace('_', " "))}))
        .collect()
}

fn query_parameters(query: &Schema) -> Vec<Value> {
    let Some(properties) = query.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    properties
        .iter()
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|object| object.remove("description")).unwrap_or_else(|| json!(""));
            json!({"name": name, "in": "query", "required": false, "schema": schema, "description": description})
        })
        .collect()
}
