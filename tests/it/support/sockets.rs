//! The TCP connections of a process, as the kernel lists them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The connections of a process to these remote ports, closing ones included: the port of each socket's inode.
pub fn connections(process: u32, ports: &[u16]) -> BTreeMap<String, u16> {
    let mut found = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        // proc(5): the remote address is the third field, the inode the tenth. There may be thousands of lines.
        found.extend(text.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let port = u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok()?;
            ports.contains(&port).then(|| fields.nth(6).map(|inode| (inode.to_owned(), port)))?
        }));
    }
    // The table is that of all processes.
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let own: HashSet<_> = links
        .filter_map(|link| {
            let target = std::fs::read_link(link.path()).ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect();
    found.retain(|inode, _| own.contains(inode));
    found
}

/// The sockets that each poller (epoll instance) of a process watches, by inode. One poller is one worker's, or the
/// control thread's.
pub fn polled(process: u32) -> BTreeSet<BTreeSet<String>> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let target = |number: &str| {
        let target = std::fs::read_link(format!("/proc/{process}/fd/{number}")).ok()?;
        Some(target.to_str()?.to_owned())
    };
    let numbers = descriptors.filter_map(|entry| entry.file_name().into_string().ok());
    // proc(5): an epoll descriptor tells what it watches in lines "tfd: NUMBER events: ...". Copies tell the same.
    let pollers = numbers.filter(|number| target(number).is_some_and(|it| it == "anon_inode:[eventpoll]"));
    pollers
        .map(|number| {
            let text =
                std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
            let watched =
                text.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_ascii_whitespace().next());
            let inodes = watched.filter_map(target);
            inodes.filter_map(|it| Some(it.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
        })
        .collect()
}
