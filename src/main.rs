//! The `outrigger` binary: everything is in the library.

/// See `Cargo.toml` for what it is better at than the system's.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    outrigger::cli::main()
}
