import {
  numberOption,
  type OptionGroup,
  type OptionRow,
  type OptionValues,
  refuseBoth,
  stringOption,
  usage,
} from '../../program/options.ts';
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

interface SrsRow extends OptionRow {
  /** The name in a program that has other options too. */
  readonly prefixed: string;
}

const ROWS = {
  keys: {
    name: 'keys',
    short: 'k',
    prefixed: 'srs-keys',
    value: 'FILE',
    help: 'the keys, one per line; the first signs, all verify',
  },
  domains: {
    name: 'domains',
    short: 'd',
    prefixed: 'srs',
    value: 'LIST',
    help: 'our domains, separated by commas; SRS addresses are in the first (*.DOMAIN: domain form)',
  },
  pack: { name: 'pack', prefixed: 'srs-pack', help: 'rewrite senders only' },
  unpack: { name: 'unpack', prefixed: 'srs-unpack', help: 'rewrite recipients only' },
  hashLength: {
    name: 'hash-length',
    prefixed: 'srs-hash-length',
    value: 'N',
    help: 'characters of a signature (4)',
  },
  hashMin: {
    name: 'hash-min',
    prefixed: 'srs-hash-min',
    value: 'N',
    help: 'characters that are required (as many as in a signature)',
  },
  maxAge: {
    name: 'max-age',
    prefixed: 'srs-max-age',
    value: 'DAYS',
    help: 'how long SRS addresses are valid (21)',
  },
  separator: {
    name: 'separator',
    prefixed: 'srs-separator',
    value: 'CHARACTER',
    help: 'behind SRS0 and SRS1: =, + or - (=)',
  },
  long: {
    name: 'long',
    prefixed: 'srs-long',
    value: 'pass|refuse',
    help: 'what to do with a sender whose SRS address is too long (pass)',
  },
} as const satisfies Record<string, SrsRow>;
type Names = Readonly<Record<keyof typeof ROWS, string>>;

/** SRS, for a program whose business it is. */
export const srsOptions: OptionGroup<SrsOptions> = {
  rows: Object.values(ROWS),
  read: (values) => read(values, namesOf('name')),
};

/** SRS, for a program with other options too: `--srs` for `--domains`, `--srs-keys` for `--keys` and so on. */
export const srsPrefixedOptions: OptionGroup<SrsOptions | undefined> = {
  rows: Object.values<SrsRow>(ROWS).map(({ prefixed, short: _, ...row }) => ({ ...row, name: prefixed })),
  read: (values) => {
    const names = namesOf('prefixed');
    const given = Object.values(names).filter((name) => values[name] !== undefined);
    if (given.length === 0) return undefined;
    if (values[names.domains] === undefined) throw usage(`--${given[0]} requires --${names.domains}`);
    return read(values, names);
  },
};

function namesOf(which: 'name' | 'prefixed'): Names {
  const names = Object.entries(ROWS).map(([key, row]) => [key, row[which]]);
  return Object.fromEntries(names) as Names;
}

function read(values: OptionValues, names: Names): SrsOptions {
  refuseBoth(values, names.pack, names.unpack);
  const keysFile = stringOption(values, names.keys) ?? '';
  if (keysFile === '') throw usage(`missing --${names.keys} FILE`);
  const hashLength = numberOption(values, names.hashLength, {
    min: HASH_MIN,
    max: HASH_LIMIT,
    default: HASH_MIN,
  });
  const long = stringOption(values, names.long) ?? 'pass';
  if (long !== 'pass' && long !== 'refuse') throw usage(`--${names.long} takes pass or refuse, not ${long}`);
  return {
    keysFile,
    domains: readDomains(stringOption(values, names.domains) ?? '', names.domains),
    packs: values[names.unpack] !== true,
    unpacks: values[names.pack] !== true,
    hashLength,
    hashMin: numberOption(values, names.hashMin, { min: HASH_MIN, max: hashLength, default: hashLength }),
    maxAge: numberOption(values, names.maxAge, { min: 1, max: MAX_AGE_LIMIT, default: 21 }),
    separator: readSeparator(stringOption(values, names.separator) ?? '=', names.separator),
    refusesLong: long === 'refuse',
  };
}

function readDomains(list: string, option: string): SrsOptions['domains'] {
  if (list === '') throw usage(`missing --${option} LIST`);
  const [first = '', ...others] = list.split(',');
  for (const domain of [first, ...others]) {
    if (!/^(?:\*\.)?[a-z\d_-]+(?:\.[a-z\d_-]+)*$/i.test(domain)) {
      throw usage(`--${option} takes domains separated by commas, not ${JSON.stringify(domain)}`);
    }
    if (domain.startsWith('*') && domain !== first) throw usage(`--${option} takes "*." at the start only`);
  }
  return [first, ...others];
}

function readSeparator(text: string, option: string): SrsSeparator {
  if (text === '=' || text === '+' || text === '-') return text;
  throw usage(`--${option} takes =, + or -, not ${text}`);
}
