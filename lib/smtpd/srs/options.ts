import { numberOption, type OptionGroup, refuseBoth, stringOption, usage } from '../../program/options.ts';
import { HASH_LIMIT, type SrsSeparator, type SrsSettings } from '../../srs/srs.ts';
import { MAX_AGE_LIMIT } from '../../srs/stamp.ts';
import type { RewritingOptions } from './rewriting.ts';

/** The options of SRS. */
export interface SrsOptions
  extends Pick<RewritingOptions, 'domains' | 'packs' | 'unpacks' | 'refusesLong'>,
    Omit<SrsSettings, 'keys'> {
  /** The path of the file of keys. */
  readonly keysFile: string;
}

/** As in other implementations. A shorter signature could be guessed. */
const HASH_MIN = 4;

/** SRS, for programs whose business it is. */
export const srsOptions: OptionGroup<SrsOptions> = {
  rows: [
    { name: 'keys', short: 'k', value: 'FILE', help: 'the keys, one a line; the first writes, all read' },
    {
      name: 'domains',
      short: 'd',
      value: 'LIST',
      help: 'our domains, with commas; the first is that of SRS, *.DOMAIN for the domain form',
    },
    { name: 'pack', help: 'rewrite senders only' },
    { name: 'unpack', help: 'rewrite recipients only' },
    { name: 'hash-length', value: 'N', help: 'characters of a signature (4)' },
    { name: 'hash-min', value: 'N', help: 'characters that are required (those of --hash-length)' },
    { name: 'max-age', value: 'DAYS', help: 'how long SRS addresses are valid (21)' },
    { name: 'separator', value: 'CHARACTER', help: 'behind SRS0 and SRS1: =, + or - (=)' },
    { name: 'long', value: 'pass|refuse', help: 'senders whose local part exceeds 64 octets then (pass)' },
  ],
  read: (values) => {
    refuseBoth(values, 'pack', 'unpack');
    const keysFile = stringOption(values, 'keys') ?? '';
    if (keysFile === '') throw usage('missing --keys FILE');
    const hashLength = numberOption(values, 'hash-length', {
      min: HASH_MIN,
      max: HASH_LIMIT,
      default: HASH_MIN,
    });
    const long = stringOption(values, 'long') ?? 'pass';
    if (long !== 'pass' && long !== 'refuse') throw usage(`--long takes pass or refuse, not ${long}`);
    return {
      keysFile,
      domains: readDomains(stringOption(values, 'domains') ?? ''),
      packs: values.unpack !== true,
      unpacks: values.pack !== true,
      hashLength,
      hashMin: numberOption(values, 'hash-min', { min: HASH_MIN, max: hashLength, default: hashLength }),
      maxAge: numberOption(values, 'max-age', { min: 1, max: MAX_AGE_LIMIT, default: 21 }),
      separator: readSeparator(stringOption(values, 'separator') ?? '='),
      refusesLong: long === 'refuse',
    };
  },
};

function readDomains(list: string): SrsOptions['domains'] {
  if (list === '') throw usage('missing --domains LIST');
  const [first = '', ...others] = list.split(',');
  for (const domain of [first, ...others]) {
    if (!/^(?:\*\.)?[a-z\d_-]+(?:\.[a-z\d_-]+)*$/i.test(domain)) {
      throw usage(`--domains takes domains with commas between them, not ${JSON.stringify(domain)}`);
    }
    if (domain.startsWith('*') && domain !== first) throw usage('--domains takes "*." at the start only');
  }
  return [first, ...others];
}

function readSeparator(text: string): SrsSeparator {
  if (text === '=' || text === '+' || text === '-') return text;
  throw usage(`--separator takes =, + or -, not ${text}`);
}
