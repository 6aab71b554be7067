//! Mistakes that the compiler finds, and what it says of them. After a change: `TRYBUILD=overwrite cargo test
//! --package capstan-sdk --test ui`, and read what is in the `.stderr` files then.

#[test]
fn what_is_wrong_is_said() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
