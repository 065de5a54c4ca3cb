//! The C library's allocator.

/// Gives the allocator one arena for each processor, and two at least. Call it before there are
/// threads.
///
/// By default glibc makes up to eight arenas for each processor, and memory that was freed in one
/// of them serves no other: a server whose threads take turns keeps far more than it uses.
/// `GLIBC_TUNABLES` and `MALLOC_ARENA_MAX` in the environment come first.
#[cfg(target_env = "gnu")]
pub(crate) fn limit_arenas() {
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set("GLIBC_TUNABLES") || is_set("MALLOC_ARENA_MAX") {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let arenas = processors.clamp(2, 64) as libc::c_int;
    // SAFETY: it changes a limit, and touches no memory of this program.
    #[allow(unsafe_code, reason = "the C library's own setting")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
}

/// Other C libraries have no such arenas.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn limit_arenas() {}
