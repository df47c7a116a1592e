//! What is sent, and what of what servers answer is believed.

use super::*;

const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

const OURS: Conversation = Conversation {
    transaction: 0x0102_0304,
    hardware: HARDWARE,
};

/// An answer of `kind` that gives 10.0.2.15, with `options` after the kind.
fn answer(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = OURS.discover();
    bytes[0] = BOOT_REPLY;
    bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
    bytes.truncate(OPTIONS_AT);
    bytes.extend_from_slice(&[OPTION_KIND, 1, kind]);
    bytes.extend_from_slice(options);
    bytes
}

/// The options of a usual acknowledgement.
fn granted() -> Vec<u8> {
    [
        &[OPTION_SERVER, 4, 10, 0, 2, 2][..],
        &[OPTION_MASK, 4, 255, 255, 255, 0],
        &[
            OPTION_PAD,
            OPTION_PAD,
            OPTION_ROUTER,
            8,
            10,
            0,
            2,
            2,
            10,
            0,
            2,
            1,
        ],
        &[OPTION_NAMESERVERS, 4, 10, 0, 2, 3],
        &[OPTION_DOMAIN, 7, b'a', b'.', b'l', b'o', b'c', b'a', b'l'],
        &[OPTION_END, 1, 2, 3],
    ]
    .concat()
}

fn lease() -> Lease {
    Lease {
        address: "10.0.2.15/24".parse().unwrap(),
        router: Some(Ipv4Addr::new(10, 0, 2, 2)),
        nameservers: vec![Ipv4Addr::new(10, 0, 2, 3)],
        domain: Some("a.local".to_owned()),
    }
}

#[test]
fn questions_have_the_layout_of_the_standard() {
    let offer = Offer {
        address: Ipv4Addr::new(10, 0, 2, 15),
        server: Ipv4Addr::new(10, 0, 2, 2),
    };
    for (message, kind) in [(OURS.discover(), 1), (OURS.request(offer), 3)] {
        assert_eq!(message.len(), 300);
        assert_eq!(message[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0]);
        assert_eq!(message[28..34], HARDWARE);
        assert_eq!(message[236..243], [99, 130, 83, 99, 53, 1, kind]);
        let options = Options::read(&message[240..]).unwrap();
        assert_eq!(options.get(OPTION_WANTED), Some(&[1, 3, 6, 15][..]));
        let asked = (kind == 3).then_some(offer.address);
        assert_eq!(options.first_address(OPTION_REQUESTED), asked);
        let server = (kind == 3).then_some(offer.server);
        assert_eq!(options.first_address(OPTION_SERVER), server);
    }
}

#[test]
fn answers_are_understood() {
    let offer = Offer {
        address: Ipv4Addr::new(10, 0, 2, 15),
        server: Ipv4Addr::new(10, 0, 2, 2),
    };
    assert_eq!(
        OURS.parse(&answer(KIND_OFFER, &granted())),
        Some(Answer::Offer(offer))
    );
    assert_eq!(
        OURS.parse(&answer(KIND_ACK, &granted())),
        Some(Answer::Ack(lease()))
    );
    assert_eq!(OURS.parse(&answer(KIND_NAK, &[])), Some(Answer::Nak));
}

#[test]
fn answers_to_others_are_dropped() {
    let changes: &[(usize, u8)] = &[(0, 1), (1, 6), (2, 16), (7, 5), (33, 0), (236, 0), (242, 9)];
    for (at, value) in changes {
        let mut message = answer(KIND_ACK, &granted());
        message[*at] = *value;
        assert_eq!(OURS.parse(&message), None, "byte {at} is {value}");
    }
}

#[test]
fn addresses_nobody_can_have_are_dropped() {
    for address in [[0, 0, 0, 0], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]] {
        let mut message = answer(KIND_ACK, &granted());
        message[16..20].copy_from_slice(&address);
        assert_eq!(OURS.parse(&message), None, "{address:?}");
    }
}

#[test]
fn no_cut_of_a_message_is_read_beyond_its_end() {
    let message = answer(KIND_ACK, &granted());
    let end = message
        .iter()
        .rposition(|byte| *byte == OPTION_END)
        .unwrap();
    for length in 0..message.len() {
        let got = OURS.parse(&message[..length]);
        if length < end {
            assert_ne!(got, Some(Answer::Ack(lease())), "{length} bytes");
        }
    }
}

#[test]
fn strange_options_grant_less_or_nothing() {
    let mask = [OPTION_MASK, 4, 255, 255, 255, 0];
    let bare = Lease {
        router: None,
        nameservers: Vec::new(),
        domain: None,
        ..lease()
    };
    let cases: &[(&[u8], Option<Lease>)] = &[
        (&[], Some(bare.clone())),
        (&[OPTION_ROUTER, 3, 1, 2, 3], Some(bare.clone())),
        (&[OPTION_ROUTER, 4, 0, 0, 0, 0], Some(bare.clone())),
        (&[OPTION_NAMESERVERS, 0], Some(bare.clone())),
        (&[OPTION_DOMAIN, 3, b'a', b'\n', b'b'], Some(bare.clone())),
        (&[OPTION_DOMAIN, 2, 0xff, 0xfe], Some(bare)),
        (&[OPTION_ROUTER, 200, 1, 2, 3], None),
        (&[OPTION_ROUTER], None),
    ];
    for (options, want) in cases {
        let options = [&mask[..], options].concat();
        let want = want.clone().map(Answer::Ack);
        assert_eq!(OURS.parse(&answer(KIND_ACK, &options)), want, "{options:?}");
    }
    let masks: &[([u8; 4], Option<u8>)] = &[
        ([255, 255, 255, 255], Some(32)),
        ([255, 254, 0, 0], Some(15)),
        ([0, 0, 0, 0], Some(0)),
        ([255, 0, 255, 0], None),
        ([0, 0, 0, 255], None),
    ];
    for (mask, want) in masks {
        assert_eq!(prefix_bits(Ipv4Addr::from(*mask)), *want, "{mask:?}");
    }
}
