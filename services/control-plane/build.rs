//! The migrations are embedded: a change of them alone has to rebuild the crate.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
