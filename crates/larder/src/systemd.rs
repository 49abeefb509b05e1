//! systemd's side of a service: sockets that it opened (sd_listen_fds(3)), and the word that the service is ready
//! (sd_notify(3)). Does nothing where systemd did not start this process.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

/// The first socket that systemd passes.
const FIRST: i32 = 3;

/// Sockets that were opened for this process. They are given once: asked again, there are none.
pub fn sockets() -> std::io::Result<Vec<OwnedFd>> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let is_ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    if !is_ours || TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::new();
    for fd in FIRST..FIRST + number("LISTEN_FDS").unwrap_or(0).clamp(0, 64) {
        sockets.push(crate::syscall::passed(fd)?);
    }
    Ok(sockets)
}

/// Tells systemd that clients are served now.
pub fn tell_ready() {
    use std::os::linux::net::SocketAddrExt;
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let told = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        let address = match name.strip_prefix('@') {
            Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
            None => std::os::unix::net::SocketAddr::from_pathname(&name)?,
        };
        socket.send_to_addr(b"READY=1", &address).map(drop)
    };
    if let Err(error) = told() {
        eprintln!("warning: can't tell systemd that the daemon is ready: {error}");
    }
}
