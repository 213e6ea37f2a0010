//! The executor by itself, as its own tests start it; the shipped one is `midrun executor`.

fn main() {
    std::process::exit(executor::main(std::env::args().skip(1)));
}
