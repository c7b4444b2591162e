//! How good the verdicts are: simulated fleets and fabrics with injected faults, judged by the crate's own functions and by the rules that
//! others use, on the same inputs.
//!
//! `cargo run --release -p supernode-probe --example verdict_curves [-- SCALE [devices|links|calibration]]` prints precision, recall, F1, false alarms, localisation
//! accuracy, calibration and cost. `SCALE` multiplies the number of trials (1 takes about a minute). Everything follows from one seed, so a
//! run can be repeated. What the simulation assumes stands at the head of each part and is printed.

mod chance;
mod devices;
mod links;
mod rivals;

fn main() {
    let mut words = std::env::args().skip(1);
    let scale = words.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let part = words.next();
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("devices") {
        devices::print(scale);
    }
    if wanted("links") {
        links::print(scale);
    }
    if wanted("calibration") {
        links::print_calibration(scale);
    }
}
