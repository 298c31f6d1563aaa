// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, optionTable } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { verbosityOptions } from '../lib/program/verbosity.ts';
import { sessionOptions } from '../lib/session/options.ts';
import { checkSmtpdCommand } from '../lib/smtpd/command.ts';
import { messageOptions } from '../lib/smtpd/message-options.ts';

const NAME = 'smtpd-starttls-proxy-io';

const ROWS = [...sessionOptions.rows, ...messageOptions.rows, ...verbosityOptions.rows];

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] [--] smtpd...

Adds STARTTLS to an SMTP server that runs on stdin and stdout. Runs under a
UCSPI-TLS server: s6-ucspitlsd, sslserver -n, ucspi-tlsd.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, command) => {
    const terms = sessionOptions.read(values);
    const envelope = messageOptions.read(values);
    const verbosity = verbosityOptions.read(values);
    checkSmtpdCommand(command, NAME);
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runShim } = await import('../lib/chain/shim.ts');
    return runShim({ program: NAME, command, terms, envelope, verbosity }, process.env);
  },
});
