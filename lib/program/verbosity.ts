import { numberOption, type OptionGroup, type OptionRow, type OptionValues, refuseBoth } from './options.ts';

const TLS_SESSIONS = '2 TLS sessions too';

/** -v, for programs of a chain. */
export const verbosityOptions: OptionGroup<number> = {
  rows: [verbosityRow(TLS_SESSIONS)],
  read: readVerbosity,
};

/** -v and -q, as tcpserver has it. */
export const quietOptions: OptionGroup<number> = {
  rows: quietRows(TLS_SESSIONS),
  read: readVerbosity,
};

/**
 * The rows of -q and -v.
 *
 * @param levels what the levels from 2 on mean, for `--help`.
 */
export function quietRows(levels: string): readonly OptionRow[] {
  return [{ name: 'quiet', short: 'q', help: 'fatal errors only, the same as -v 0' }, verbosityRow(levels)];
}

function verbosityRow(levels: string): OptionRow {
  return {
    name: 'verbosity',
    short: 'v',
    value: 'LEVEL',
    help: `0 fatal errors, 1 warnings too (the default),\n${levels}`,
  };
}

/** The level, 0 to 9. */
export function readVerbosity(values: OptionValues): number {
  refuseBoth(values, 'quiet', 'verbosity');
  if (values.quiet !== undefined) return 0;
  return numberOption(values, 'verbosity', { min: 0, max: 9, default: 1 });
}
