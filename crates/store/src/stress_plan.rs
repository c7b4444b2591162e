//! Schedules of stress tests.

use supernode_types::StressPlanId;
use supernode_types::stress::StressPlan;

use crate::{StoreError, Tx, Value, params, record};

/// Stores a new plan.
pub fn stress_plan_insert(tx: &mut Tx<'_>, plan: &StressPlan) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stress_plan (id, super_node, generation, record) VALUES ($1, $2, $3, $4)",
        params![
            plan.id.as_str(),
            plan.super_node.as_str(),
            plan.generation,
            Value::json(plan)?
        ],
    )?;
    Ok(())
}

/// Stores a changed plan and increases its generation.
pub fn stress_plan_update(tx: &mut Tx<'_>, plan: &mut StressPlan) -> Result<(), StoreError> {
    let before = plan.generation;
    plan.generation += 1;
    let rows = tx.execute(
        "UPDATE stress_plan SET generation = $3, record = $4 WHERE id = $1 AND generation = $2",
        params![
            plan.id.as_str(),
            before,
            plan.generation,
            Value::json(plan)?
        ],
    )?;
    record::changed(rows, "stress_plan")
}

/// The plan with this id.
pub fn stress_plan_get(
    tx: &mut Tx<'_>,
    id: &StressPlanId,
) -> Result<Option<StressPlan>, StoreError> {
    record::optional(tx.query_optional(
        "SELECT record FROM stress_plan WHERE id = $1",
        params![id.as_str()],
    )?)
}

/// All plans, oldest first.
pub fn stress_plan_list(tx: &mut Tx<'_>) -> Result<Vec<StressPlan>, StoreError> {
    record::all(&tx.query("SELECT record FROM stress_plan ORDER BY id", params![])?)
}

/// Forgets a plan; its runs stay.
pub fn stress_plan_delete(tx: &mut Tx<'_>, id: &StressPlanId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM stress_plan WHERE id = $1",
        params![id.as_str()],
    )?;
    Ok(())
}
