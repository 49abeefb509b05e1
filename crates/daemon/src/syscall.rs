//! How much memory the process keeps that it does not use. glibc keeps one heap a thread, and what a build freed stays in
//! them: a daemon would be as large as its largest build for ever; and all code that ever ran stays mapped. Nothing else about
//! memory is decided here.

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

/// Lets go of the pages of code, which are most of what a daemon without a build holds. The kernel keeps the file's pages as
/// long as nobody needs their memory, and a build maps those that it runs again, in less than a millisecond.
pub fn give_code_back() {
    // Where there is no /proc, it stays as it is.
    for line in std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines() {
        let Some((start, end)) = code(line) else { continue };
        // SAFETY: the pages are a file's, mapped read-only and never written, so that each comes back as it was.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// Where a line of `/proc/PID/maps` has code of a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let executable = fields.next()? == "r-xp";
    let of_file = fields.nth(3)?.starts_with('/');
    if executable && of_file { Some((number(start)?, number(end)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_run_and_has_a_file() {
        let line = |access, file| format!("55d0a000-55d0b000 {access} 00001000 fe:00 1234   {file}");
        assert_eq!(code(&line("r-xp", "/usr/bin/larder (deleted)")), Some((0x55d0_a000, 0x55d0_b000)));
        for (access, file) in
            [("r--p", "/usr/bin/larder"), ("rwxp", "/usr/bin/larder"), ("r-xp", "[vdso]"), ("r-xp", "")]
        {
            assert_eq!(code(&line(access, file)), None, "{access} {file}");
        }
    }

    #[test]
    fn what_was_given_back_runs_on() {
        give_code_back();
        give_heap_back();
        assert!(std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| code(line).is_some()));
    }
}
