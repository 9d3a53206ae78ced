//! The binary embeds `scenarios/`: a new file there is a new binary.

fn main() {
    #[allow(clippy::print_stdout)] // How a build script talks to cargo.
    {
        println!("cargo::rerun-if-changed=scenarios");
    }
}
