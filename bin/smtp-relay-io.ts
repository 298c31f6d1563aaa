// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, optionTable, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { verbosityOptions } from '../lib/program/verbosity.ts';
import { newlineOptions } from '../lib/smtpd/message-options.ts';
import { relayOptions } from '../lib/smtpd/relay/options.ts';
import { routeOptions } from '../lib/smtpd/relay/route-options.ts';

const NAME = 'smtp-relay-io';

const ROWS = [...routeOptions.rows, ...relayOptions.rows, ...newlineOptions.rows, ...verbosityOptions.rows];

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] URL
       ${NAME} [options] --routes FILE

An SMTP server on stdin and stdout that passes the session on to the server that
the URL names, in TLS as its scheme promises: tls://HOST, smtps://HOST,
ssl://HOST, smtp+tls://HOST, smtp://HOST, lmtp://HOST, tls+unix:PATH and so on;
or by ssh: ssh://HOST. With --routes the server depends on the sender, or on the
recipient.
Reads CAFILE or CADIR, CERTFILE and KEYFILE.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, [url, ...others]) => {
    const routes = routeOptions.read(values);
    const unexpected = routes === undefined ? others : [url, ...others].filter((word) => word !== undefined);
    if (unexpected.length > 0) throw usage(`unexpected argument: ${unexpected.join(' ')}`);
    const to = routes ?? url;
    if (to === undefined || to === '') throw usage('missing URL, or --routes FILE');
    const options = {
      program: NAME,
      to,
      verbosity: verbosityOptions.read(values),
      ...relayOptions.read(values),
      ...newlineOptions.read(values),
    };
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runRelayIo } = await import('../lib/relay/relay-io.ts');
    return runRelayIo(options, process.env);
  },
});
