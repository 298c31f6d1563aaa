// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, optionTable, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { verbosityOptions } from '../lib/program/verbosity.ts';
import { relayOptions } from '../lib/smtpd/relay/options.ts';

const NAME = 'smtp-relay-io';

const ROWS = [...relayOptions.rows, ...verbosityOptions.rows];

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] URL

An SMTP server on stdin and stdout that passes the session on to the server that
the URL names, in TLS as its scheme promises: tls://HOST, smtps://HOST,
ssl://HOST, smtp+tls://HOST, smtp://HOST, lmtp://HOST, tls+unix:PATH and so on;
or by ssh: ssh://HOST.
Reads CAFILE or CADIR, CERTFILE and KEYFILE.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, [url, ...others]) => {
    if (url === undefined || url === '') throw usage('missing URL');
    if (others.length > 0) throw usage(`unexpected argument: ${others.join(' ')}`);
    const options = {
      program: NAME,
      url,
      verbosity: verbosityOptions.read(values),
      ...relayOptions.read(values),
    };
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runRelayIo } = await import('../lib/relay/relay-io.ts');
    return runRelayIo(options, process.env);
  },
});
