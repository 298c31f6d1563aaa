/**
 * UCSPI-TLS servers that violate the convention, and unusual ones that follow it: `--double=KIND` selects one.
 * Otherwise they behave like s6-ucspitlsd.
 */

import { runDouble } from './double/run.ts';
import { describeAsS6 } from './double/s6.ts';
import type { Traits } from './double/traits.ts';

const S6: Traits = {
  numbers: { control: 3, read: 4, write: 5 },
  environment: {},
  describe: describeAsS6,
  closesControl: true,
  terminates: false,
};

const KINDS: Readonly<Record<string, Traits>> = {
  /** The control socket carries the TLS session, too. */
  'one-descriptor': { ...S6, numbers: { control: 3, read: 3, write: 3 }, closesControl: false },
  /** The same, and the client's first bytes arrive in one piece with the answer. */
  eager: { ...S6, numbers: { control: 3, read: 3, write: 3 }, closesControl: false, isEager: true },
  /** The connection is not read before SIGUSR1. */
  late: { ...S6, waits: true },
  'never-answers': { ...S6, answer: () => ({ next: 'silence', pieces: [] }) },
  'half-answers': { ...S6, answer: (right) => ({ next: 'silence', pieces: [right.subarray(0, -1)] }) },
  'closes-in-answer': { ...S6, answer: (right) => ({ next: 'close', pieces: [right.subarray(0, -1)] }) },
  garbage: { ...S6, answer: () => ({ next: 'close', pieces: [Buffer.alloc(4096, 0xfe)] }) },
  'too-much': { ...S6, answer: () => ({ next: 'silence', pieces: [Buffer.alloc(1_000_000, 'A')] }) },
  dies: { ...S6, answer: () => ({ next: 'die', pieces: [] }) },
  empty: { ...S6, answer: () => ({ next: 'session', pieces: [Buffer.from('\0\0')] }) },
  'byte-by-byte': {
    ...S6,
    answer: (right) => ({ next: 'session', pieces: Array.from(right, (octet) => Buffer.from([octet])) }),
  },
  nameless: {
    ...S6,
    answer: () => ({ next: 'session', pieces: [Buffer.from('=value\0no name\0SSL_PROTOCOL=TLSv9\0\0')] }),
  },
  forger: {
    ...S6,
    describe: () => [
      ['SSL_PROTOCOL', 'TLSv1.3'],
      ['SSL_CIPHER', 'A'],
      [
        'SSL_PEER_CERT_SUBJECT',
        'CN=eve\nsmtpd-starttls-proxy-io: info: TLS with 10.0.0.1\x1b[2J\x7f\u009b\u2028',
      ],
    ],
  },
};

const kind = process.argv.find((word) => word.startsWith('--double='))?.slice('--double='.length) ?? '';
const traits = KINDS[kind];
if (traits === undefined) throw new Error(`there is no double called ${kind}`);
void runDouble(traits);
