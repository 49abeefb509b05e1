//! The text of `/etc/hosts` and `/etc/resolv.conf` inside the root, as BuildKit writes them. Pure but for [`machine_dns`].

use std::fs;
use std::net::IpAddr;

use crate::{Dns, Host};

/// `/etc/hosts`: loopback with the host's own name, then the extra lines in their order.
pub fn hosts(hostname: &str, extra: &[Host]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        text += &format!("{}\t{}\n", host.ip, host.name);
    }
    text
}

/// This machine's `/etc/resolv.conf`. With `own_network` the sandbox doesn't share this machine's loopback, so what
/// systemd-resolved offers there is replaced by its list of real servers.
pub fn machine_dns(own_network: bool) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let text = read("/etc/resolv.conf");
    if own_network && nameservers(&text).collect::<Vec<_>>() == ["127.0.0.53"] {
        return read("/run/systemd/resolve/resolv.conf");
    }
    text
}

fn nameservers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|l| l.trim().strip_prefix("nameserver")).map(str::trim)
}

/// `/etc/resolv.conf`: `machine` with what `dns` overrides. Servers that cannot be reached from a network of its own are
/// left out; when none stays, public ones stand in, as in BuildKit.
pub fn resolv_conf(machine: &str, dns: &Dns, own_network: bool) -> String {
    const PUBLIC: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];
    let mut servers: Vec<String> = if dns.nameservers.is_empty() {
        let reachable = |s: &&str| !own_network || !s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        nameservers(machine).filter(reachable).map(str::to_string).collect()
    } else {
        dns.nameservers.clone()
    };
    if servers.is_empty() {
        servers = PUBLIC.map(str::to_string).to_vec();
    }
    let keyword = |word: &str| {
        let last = machine.lines().rfind(|l| l.split_whitespace().next() == Some(word));
        last.map(|l| l.split_whitespace().skip(1).map(str::to_string).collect::<Vec<_>>()).unwrap_or_default()
    };
    let or = |own: &[String], word: &str| if own.is_empty() { keyword(word) } else { own.to_vec() };
    let mut text: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
    let search = or(&dns.search, "search");
    // `search .` asks for no search list at all.
    if !search.is_empty() && search != ["."] {
        text += &format!("search {}\n", search.join(" "));
    }
    let options = or(&dns.options, "options");
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_loopback_first() {
        let extra = [Host { name: "db.test".into(), ip: "10.0.0.7".parse().unwrap() }];
        let want = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb.test\n";
        assert_eq!(hosts("box", &extra), want);
    }

    #[test]
    fn resolv_conf_of_this_machine_or_our_own() {
        let machine =
            "# made by hand\nnameserver 127.0.0.53\nnameserver 1.2.3.4\nsearch a.test b.test\noptions edns0 ndots:2\n";
        let shared = resolv_conf(machine, &Dns::default(), false);
        assert_eq!(shared, "nameserver 127.0.0.53\nnameserver 1.2.3.4\nsearch a.test b.test\noptions edns0 ndots:2\n");
        assert!(resolv_conf(machine, &Dns::default(), true).starts_with("nameserver 1.2.3.4\nsearch"));
        let alone = resolv_conf("nameserver 127.0.0.1\n", &Dns::default(), true);
        assert!(alone.starts_with("nameserver 8.8.8.8\n"), "{alone}");
        let own = Dns { nameservers: vec!["9.9.9.9".into()], search: vec![".".into()], options: vec!["rotate".into()] };
        assert_eq!(resolv_conf(machine, &own, false), "nameserver 9.9.9.9\noptions rotate\n");
    }
}
