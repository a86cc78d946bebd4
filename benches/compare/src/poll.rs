//! Waiting for many sockets: a thin face on epoll, level-triggered.

use crate::Outcome;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::os::fd::AsFd;
use std::time::Duration;

const EVENTS: usize = 512;

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What a socket is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
    Nothing,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Nothing => epoll::EventFlags::empty(),
        }
    }
}

impl Poll {
    pub fn new() -> Outcome<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    pub fn add(&self, socket: impl AsFd, token: usize, interest: Interest) -> Outcome<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token as u64), interest.flags())?)
    }

    pub fn change(&self, socket: impl AsFd, token: usize, interest: Interest) -> Outcome<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(token as u64), interest.flags())?)
    }

    /// The tokens of sockets that are ready, put into `ready`; none if the time was over first.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<usize>) -> Outcome<()> {
        ready.clear();
        self.events.clear();
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(3600),
            tv_nsec: t.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => ready.extend(self.events.iter().map(|e| e.data.u64() as usize)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
