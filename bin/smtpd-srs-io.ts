// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, optionTable } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { quietRows, readVerbosity } from '../lib/program/verbosity.ts';
import { timeOptions } from '../lib/session/options.ts';
import { checkSmtpdCommand } from '../lib/smtpd/command.ts';
import { newlineOptions } from '../lib/smtpd/message-options.ts';
import { srsOptions } from '../lib/smtpd/srs/options.ts';

const NAME = 'smtpd-srs-io';

const ROWS = [
  ...srsOptions.rows,
  ...newlineOptions.rows,
  ...timeOptions.rows,
  ...quietRows('2 the number of keys and refused addresses too'),
];

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
    const options = {
      ...srsOptions.read(values),
      ...newlineOptions.read(values),
      ...timeOptions.read(values),
      program: NAME,
      command,
      verbosity: readVerbosity(values),
    };
    checkSmtpdCommand(command, 'smtpd-starttls-proxy-io');
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runSrsIo } = await import('../lib/srs-io/srs-io.ts');
    return runSrsIo(options, process.env);
  },
});
