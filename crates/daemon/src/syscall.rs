//! How much memory the process keeps that it does not use. glibc keeps one heap a thread, and what a build freed stays in
//! them: a daemon would be as large as its largest build for ever. Nothing else about memory is decided here.

/// Few heaps, and large pieces of memory by themselves, which go back to the kernel when they are freed. Before threads
/// are started.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets numbers of the allocator, and takes any.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
    }
}

/// Gives what is free back to the kernel: a few milliseconds of work after a build.
pub fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim walks free memory under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
