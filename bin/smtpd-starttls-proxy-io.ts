import { numberOption, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { checkSmtpdCommand } from '../lib/smtpd/command.ts';

const NAME = 'smtpd-starttls-proxy-io';

void runProgram({
  name: NAME,
  help: `Usage: ${NAME} [options] [--] smtpd...

Gives STARTTLS to an SMTP server that speaks on stdin and stdout. Runs under a
UCSPI-TLS server: s6-ucspitlsd, sslserver -n, ucspi-tlsd.

  -r, --require-tls       no mail without TLS
  -a, --plaintext-auth    allow AUTH without TLS
  -f, --fresh             start a new smtpd, which is told of TLS, when TLS has started
  -t, --timeout SECONDS   how long the dialogue before TLS may stand still (300)
  -T, --relay-timeout SECONDS
                          how long nothing may pass after it (for ever)
      --error-limit N     how many commands may be refused before MAIL (100)
  -v, --verbosity LEVEL   0 fatal errors, 1 warnings too (the default), 2 TLS sessions too
      --version           print the version
      --help              print this
`,
  options: {
    'require-tls': { type: 'boolean', short: 'r' },
    'plaintext-auth': { type: 'boolean', short: 'a' },
    fresh: { type: 'boolean', short: 'f' },
    timeout: { type: 'string', short: 't' },
    'relay-timeout': { type: 'string', short: 'T' },
    'error-limit': { type: 'string' },
    verbosity: { type: 'string', short: 'v' },
  },
  run: async (values, command) => {
    const seconds = { least: 1, most: 2_000_000 };
    const relayTimeout = numberOption(values, 'relay-timeout', { ...seconds, standard: 0 });
    checkSmtpdCommand(command, NAME);
    if (values['require-tls'] === true && values['plaintext-auth'] === true) {
      throw usage('--require-tls and --plaintext-auth contradict each other');
    }
    // Here, so that --help and wrong usage do not wait for what only a session needs.
    const { runShim } = await import('../lib/chain/shim.ts');
    return runShim(
      {
        program: NAME,
        command,
        requireTls: values['require-tls'] === true,
        plaintextAuth: values['plaintext-auth'] === true,
        errorLimit: numberOption(values, 'error-limit', { least: 1, most: 1_000_000, standard: 100 }),
        fresh: values.fresh === true,
        idleTimeout: numberOption(values, 'timeout', { ...seconds, standard: 300 }) * 1000,
        relayIdleTimeout: relayTimeout === 0 ? undefined : relayTimeout * 1000,
        verbosity: numberOption(values, 'verbosity', { least: 0, most: 9, standard: 1 }),
      },
      process.env,
    );
  },
});
