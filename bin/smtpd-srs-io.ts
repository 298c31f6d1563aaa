// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, numberOption, type OptionRow, optionTable } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { quietRows, readVerbosity } from '../lib/program/verbosity.ts';
import { checkSmtpdCommand } from '../lib/smtpd/command.ts';
import { STRICT_NEWLINES } from '../lib/smtpd/message-options.ts';
import { srsOptions } from '../lib/smtpd/srs/options.ts';

const NAME = 'smtpd-srs-io';

const SESSION: readonly OptionRow[] = [
  STRICT_NEWLINES,
  { name: 'idle-timeout', short: 't', value: 'SECONDS', help: 'how long the client may read nothing (300)' },
  {
    name: 'relay-idle-timeout',
    short: 'T',
    value: 'SECONDS',
    help: 'how long no byte may pass in either direction (no limit)',
  },
];
const ROWS = [...srsOptions.rows, ...SESSION, ...quietRows('2 the number of keys and refused addresses too')];
const SECONDS = { min: 1, max: 2_000_000 };

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} -k FILE -d DOMAIN[,DOMAIN...] [options] [--] smtpd...

Runs an SMTP server that uses stdin and stdout, and rewrites envelopes by SRS,
the Sender Rewriting Scheme: a sender of another domain becomes an SRS address
of the first domain, and a recipient that is one becomes the original sender.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, command) => {
    const srs = srsOptions.read(values);
    const relay = numberOption(values, 'relay-idle-timeout', { ...SECONDS, default: undefined });
    const options = {
      ...srs,
      program: NAME,
      command,
      strictNewlines: values[STRICT_NEWLINES.name] === true,
      idleTimeout: numberOption(values, 'idle-timeout', { ...SECONDS, default: 300 }) * 1000,
      relayIdleTimeout: relay === undefined ? undefined : relay * 1000,
      verbosity: readVerbosity(values),
    };
    checkSmtpdCommand(command, 'smtpd-starttls-proxy-io');
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runSrsIo } = await import('../lib/srs-io/srs-io.ts');
    return runSrsIo(options, process.env);
  },
});
