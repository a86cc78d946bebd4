//! The TCP connections of a process, as the kernel lists them.

use std::collections::{BTreeMap, HashSet};

/// The connections of a process to these remote ports, closing ones included: the port of each socket's inode.
pub fn connections(process: u32, ports: &[u16]) -> BTreeMap<String, u16> {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let inodes: HashSet<String> = links
        .filter_map(|link| {
            let target = std::fs::read_link(link.path()).ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect();
    let mut found = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let port = u16::from_str_radix(fields.get(2)?.rsplit_once(':')?.1, 16).ok()?;
            let inode = (*fields.get(9)?).to_owned();
            (ports.contains(&port) && inodes.contains(&inode)).then_some((inode, port))
        }));
    }
    found
}
