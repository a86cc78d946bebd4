//! From a message to a reply: aliases, lifetimes, and what is missing.

use super::{Absent, DnsName, Found, Reply, Srv};
use hickory_resolver::net::NoRecords;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::time::Duration;

/// How long a "no" holds that does not say so; RFC 2308 leaves that to whoever hears it.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// What a message with a code of success says.
#[derive(Debug)]
pub(super) enum Reading<T> {
    Done(Reply<T>),
    /// The name is an alias of this one, about which the message is silent.
    Alias(DnsName, Duration),
}

/// Records of one type.
pub(super) trait Kind: Sized {
    const TYPE: RecordType;

    /// With its lifetime.
    fn take(record: &Record, message: &Message) -> Option<(Self, Duration)>;
}

pub(super) struct V4(pub(super) IpAddr);
pub(super) struct V6(pub(super) IpAddr);

impl Kind for V4 {
    const TYPE: RecordType = RecordType::A;

    fn take(record: &Record, _: &Message) -> Option<(Self, Duration)> {
        address(record).filter(IpAddr::is_ipv4).map(|ip| (Self(ip), seconds(record.ttl)))
    }
}

impl Kind for V6 {
    const TYPE: RecordType = RecordType::AAAA;

    fn take(record: &Record, _: &Message) -> Option<(Self, Duration)> {
        address(record).filter(IpAddr::is_ipv6).map(|ip| (Self(ip), seconds(record.ttl)))
    }
}

impl Kind for Srv {
    const TYPE: RecordType = RecordType::SRV;

    fn take(record: &Record, message: &Message) -> Option<(Self, Duration)> {
        let RData::SRV(srv) = &record.data else { return None };
        let beside = message.additionals.iter().filter(|more| more.name == srv.target);
        let (addresses, lives): (Vec<_>, Vec<_>) =
            beside.filter_map(|more| Some((address(more)?, seconds(more.ttl)))).unzip();
        let taken = Self {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: DnsName::of(&srv.target),
            addresses,
        };
        Some((taken, lives.into_iter().fold(seconds(record.ttl), Duration::min)))
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

/// Follows the aliases of `name` through a message, to the records at their end.
pub(super) fn read<T: Kind>(message: &Message, name: &DnsName) -> Reading<T> {
    let mut at: &Name = name.name();
    let mut ttl = Duration::MAX;
    // Each alias is one record, so there are no more steps than records.
    for _ in &message.answers {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *at => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, lives)) = alias else { break };
        (at, ttl) = (target, ttl.min(seconds(lives)));
    }
    let own = message.answers.iter().filter(|record| record.name == *at);
    let (records, lives): (Vec<_>, Vec<_>) = own.filter_map(|record| T::take(record, message)).unzip();
    if let Some(lives) = lives.into_iter().min() {
        let authoritative = message.metadata.authoritative;
        return Reading::Done(Reply::Found(Found { records, ttl: ttl.min(lives), authoritative }));
    }
    let no_name = message.metadata.response_code == ResponseCode::NXDomain;
    if at != name.name() && !no_name {
        return Reading::Alias(DnsName::of(at), ttl);
    }
    Reading::Done(Reply::Absent(Absent { no_name, ttl: ABSENT_FOR.min(ttl) }))
}

/// Whether a code goes with an answer, be it "no"; every other one says that the server cannot tell.
pub(super) fn is_answer(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// A "no", or nothing (`None`) if the answer only names other servers.
pub(super) fn absent(none: &NoRecords) -> Option<Absent> {
    let no_name = none.response_code == ResponseCode::NXDomain;
    if !no_name && none.soa.is_none() && none.ns.is_some() {
        return None;
    }
    Some(Absent { no_name, ttl: none.negative_ttl.map_or(ABSENT_FOR, seconds) })
}

/// RFC 2181, section 8: a lifetime with its highest bit set is none.
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        record(owner, ttl, RData::CNAME(CNAME(name(target))))
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        record(owner, ttl, RData::A(A::new(10, 0, 0, last)))
    }

    fn message(answers: Vec<Record>) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.answers = answers;
        message
    }

    fn addresses(message: &Message, asked: &str) -> Option<(Vec<String>, u64)> {
        match read::<V4>(message, &DnsName::new(asked).unwrap()) {
            Reading::Done(Reply::Found(found)) => {
                Some((found.records.iter().map(|r| r.0.to_string()).collect(), found.ttl.as_secs()))
            }
            _ => None,
        }
    }

    #[test]
    fn the_shortest_lifetime_counts_that_of_aliases_too() {
        let answer = message(vec![a("web.", 60, 1), a("web.", 30, 2), a("other.", 1, 3)]);
        let both = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        assert_eq!(addresses(&answer, "WEB."), Some((both, 30)));
        let chain =
            message(vec![alias("c.", 9, "d."), a("d.", 60, 1), alias("b.", 20, "c."), alias("a.", 50, "b.")]);
        assert_eq!(addresses(&chain, "a."), Some((vec!["10.0.0.1".into()], 9)), "whatever their order");
    }

    #[test]
    fn an_alias_that_leads_out_of_the_message_is_another_question() {
        let answer = message(vec![alias("a.", 7, "b.")]);
        let read = read::<V6>(&answer, &DnsName::new("a.").unwrap());
        assert!(matches!(&read, Reading::Alias(to, ttl) if to.to_string() == "b" && ttl.as_secs() == 7));
    }

    #[test]
    fn an_alias_of_a_name_that_does_not_exist_is_nothing() {
        let mut answer = message(vec![alias("a.", 7, "b.")]);
        answer.metadata.response_code = ResponseCode::NXDomain;
        let absent = Absent { no_name: true, ttl: Duration::from_secs(5) };
        let read = read::<V4>(&answer, &DnsName::new("a.").unwrap());
        assert!(matches!(read, Reading::Done(Reply::Absent(found)) if found == absent));
    }

    #[test]
    fn a_code_that_nobody_knows_is_no_answer() {
        assert!(is_answer(ResponseCode::NoError) && is_answer(ResponseCode::NXDomain));
        assert!(!is_answer(ResponseCode::Unknown(3_000)) && !is_answer(ResponseCode::ServFail));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let answer = message(vec![alias("a.", 7, "b."), alias("b.", 7, "a.")]);
        assert_eq!(addresses(&answer, "a."), None);
    }

    #[test]
    fn addresses_beside_a_service_record_are_its_targets() {
        let srv =
            |port, target| record("_http._tcp.web.", 60, RData::SRV(SRV::new(1, 5, port, name(target))));
        let mut answer = message(vec![srv(80, "a."), srv(81, "b."), srv(82, ".")]);
        let v6 = record("a.", 1, RData::AAAA(AAAA::new(1, 0, 0, 0, 0, 0, 0, 1)));
        answer.additionals = vec![a("A.", 9, 1), v6];
        answer.metadata.authoritative = true;
        let read = read::<Srv>(&answer, &DnsName::new("_http._tcp.web.").unwrap());
        let Reading::Done(Reply::Found(found)) = read else { panic!("no records") };
        assert!(found.authoritative);
        assert_eq!(found.ttl.as_secs(), 1, "theirs counts too");
        let got: Vec<_> = found.records.iter().map(|srv| (srv.port, srv.addresses.len())).collect();
        assert_eq!(got, [(80, 2), (81, 0), (82, 0)]);
        assert!(found.records[2].target.is_root());
    }

    #[test]
    fn lifetimes_out_of_range_are_none() {
        assert_eq!(seconds(60), Duration::from_secs(60));
        assert_eq!(seconds(0x8000_0001), Duration::ZERO);
    }
}
