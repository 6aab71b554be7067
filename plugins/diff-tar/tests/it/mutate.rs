//! Bytes of archives, changed at random: most changes keep the checksums right, or no reader would
//! look further.

const BLOCK: usize = 512;

/// Numbers that look random, and are the same each time (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % limit.max(1)
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Names that are made to be misread.
const NAMES: &[&[u8]] = &[
    b"",
    b".",
    b"..",
    b"/",
    b"./",
    b"a",
    b"a/",
    b"a/b",
    b"d/x",
    b"out/x",
    b"out",
    b"../x",
    b"a/../../x",
    b"/etc/x",
    b".wh.a",
    b".wh.",
    b".wh..",
    b".wh...",
    b".wh..wh..opq",
    b"a/.wh..wh..opq",
    b".wh.a/b",
    b".wh..wh.plnk/1",
    b"d/.wh.x",
    b"a\nb",
    b"a b",
    b"\xff\xfe",
    b"link/x",
    b"link",
    b"l",
    b"d",
];

/// Numbers in fields: octal, binary, and none.
const NUMBERS: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"777",
    b"0000777\0",
    b"10000000000\0",
    b"77777777777\0",
    b"\x80\0\0\0\0\0\0\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"-1",
    b" 12 \0",
    b"9",
    b"1 1",
    b"00000001000\0",
    b"00000002000",
];

const TYPES: &[u8] = b"0123456xgLKSDV7\0";

/// What stands in records of extended headers.
const PIECES: &[&[u8]] = &[
    b"=",
    b"\n",
    b" ",
    b"\0",
    b"1",
    b"9",
    b"path=",
    b"size=512",
    b"linkpath=/etc",
    b"uid=-1",
    b"mtime=1.",
    b"GNU.sparse.map=",
    b"SCHILY.xattr.",
    b"trusted.overlay.opaque=y",
    b"18446744073709551616",
];

fn is_header(block: &[u8]) -> bool {
    let digits: Vec<u8> =
        block[148..156].iter().copied().filter(|byte| (b'0'..=b'7').contains(byte)).collect();
    let sum = digits.iter().fold(0_u32, |sum, digit| sum.wrapping_mul(8) + u32::from(digit - b'0'));
    sum == sum_of(block)
}

fn sum_of(block: &[u8]) -> u32 {
    let all: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    let own: u32 = block[148..156].iter().map(|&byte| u32::from(byte)).sum();
    all - own + 8 * 32
}

fn with_header(random: &mut Random, bytes: &mut [u8], change: impl FnOnce(&mut Random, &mut [u8])) {
    let headers: Vec<usize> = (0..bytes.len() / BLOCK)
        .filter(|number| is_header(&bytes[number * BLOCK..][..BLOCK]))
        .collect();
    if headers.is_empty() {
        return;
    }
    let at = random.pick(&headers) * BLOCK;
    let block = &mut bytes[at..at + BLOCK];
    change(random, block);
    let sum = sum_of(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn put(block: &mut [u8], at: usize, len: usize, value: &[u8]) {
    block[at..at + len].fill(0);
    let len = len.min(value.len());
    block[at..at + len].copy_from_slice(&value[..len]);
}

fn blocks(random: &mut Random, bytes: &[u8]) -> (usize, usize) {
    let count = bytes.len() / BLOCK;
    let start = random.below(count);
    (start * BLOCK, (start + 1 + random.below(3)).min(count) * BLOCK)
}

/// One of the corpus, changed in a few places.
pub(crate) fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(4) {
        if bytes.len() < 2 * BLOCK {
            break;
        }
        match random.below(12) {
            0 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 => bytes.truncate(random.below(bytes.len())),
            2 => {
                let (from, to) = blocks(random, &bytes);
                let copied = bytes[from..to].to_vec();
                bytes.splice(to..to, copied);
            }
            3 => {
                let (from, to) = blocks(random, &bytes);
                bytes.drain(from..to);
            }
            4 => {
                let other = random.pick(corpus);
                let (from, to) = blocks(random, other);
                let at = blocks(random, &bytes).0;
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            5 | 6 => with_header(random, &mut bytes, |random, block| {
                let &(at, len) = random.pick(&[
                    (100, 8),
                    (108, 8),
                    (116, 8),
                    (124, 12),
                    (136, 12),
                    (329, 8),
                    (337, 8),
                ]);
                let value = *random.pick(NUMBERS);
                put(block, at, len, value);
            }),
            7 => with_header(random, &mut bytes, |random, block| block[156] = *random.pick(TYPES)),
            8 => with_header(random, &mut bytes, |random, block| {
                let name = *random.pick(NAMES);
                put(block, 0, 100, name);
            }),
            9 => with_header(random, &mut bytes, |random, block| {
                let name = *random.pick(NAMES);
                put(block, 157, 100, name);
            }),
            10 => with_header(random, &mut bytes, |random, block| {
                let &(at, len, value) = random.pick(&[
                    (257, 8, b"ustar\x0000".as_slice()),
                    (257, 8, b"ustar  \0"),
                    (257, 8, b""),
                    (345, 155, b"prefix"),
                    (508, 4, b"tar\0"),
                ]);
                put(block, at, len, value);
            }),
            _ => {
                // In the body of something.
                let piece = random.pick(PIECES);
                let at = random.below(bytes.len() - piece.len());
                bytes[at..at + piece.len()].copy_from_slice(piece);
            }
        }
    }
    bytes
}
