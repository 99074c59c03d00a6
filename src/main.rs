//! The entry: everything is in the library, so that tests reach it.

/// Records are made on one thread and freed on another, thousands a commit; the C library's allocator spends more on its locks then
/// than the log on its work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    headwater::cli::main()
}
