// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, type OptionRow, optionTable, refuseBoth, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { verbosityOptions } from '../lib/program/verbosity.ts';
import { tlsOptions } from '../lib/tls/options.ts';

const NAME = 'ucspi-tlsd';

/** Those of s6-ucspitlsd. Each capital letter has a small one that is its opposite. */
const OWN_ROWS: readonly OptionRow[] = [
  { name: 'S', help: 'send close_notify at the end (the default)' },
  { name: 's', help: 'half-close without close_notify at the end' },
  { name: 'J', help: 'treat an end of input without close_notify as an error' },
  { name: 'j', help: 'treat it as a normal end (the default)' },
  { name: 'Z', help: 'keep the variables for TLS in the environment of prog' },
  { name: 'z', help: 'remove them (the default)' },
];

const ROWS = [...OWN_ROWS, ...tlsOptions.rows, ...verbosityOptions.rows];

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] [--] prog...

Runs prog on the connection on descriptors 0 and 1, and does TLS for it on
request, by the rules of UCSPI-TLS. Reads CERTFILE and KEYFILE.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, command) => {
    if (command.length === 0) throw usage('missing program');
    for (const letter of ['S', 'J', 'Z']) refuseBoth(values, letter, letter.toLowerCase());
    const options = {
      program: NAME,
      command,
      ...tlsOptions.read(values),
      sendsCloseNotify: values.s === undefined,
      requiresCloseNotify: values.J !== undefined,
      keepsVariables: values.Z !== undefined,
      verbosity: verbosityOptions.read(values),
    };
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runTlsd } = await import('../lib/chain/tlsd.ts');
    return runTlsd(options, process.env);
  },
});
