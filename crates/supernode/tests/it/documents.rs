//! Documents that must agree with the code.

use std::path::Path;

#[test]
fn every_error_code_has_a_page() {
    for code in supernode_api::ErrorCode::ALL {
        let page = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/errors")
            .join(format!("{code}.md"));
        let text = std::fs::read_to_string(&page)
            .unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(
            text.contains(code.as_str()) && text.len() > 200,
            "{} says too little",
            page.display()
        );
    }
}
