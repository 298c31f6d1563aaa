// First: see there.
import '../lib/program/sigusr1.ts';
import { formatHelp, optionTable } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { readServerOptions, SERVER_SECTIONS } from '../lib/server/options.ts';

const NAME = 'smtpd-starttls-server';

// Before the keys are read there is nothing to read again, and by default the signal would end the process.
process.on('SIGHUP', () => {});

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] [--] host port smtpd...
       ${NAME} [options] [--] - smtpd...
       ${NAME} [options] --to ADDRESS [--] host port

Listens, and adds STARTTLS to an SMTP server that runs on stdin and stdout, one
process for each connection. Reads CERTFILE and KEYFILE; for --to with a URL also
RELAY_CAFILE or RELAY_CADIR, RELAY_CERTFILE and RELAY_KEYFILE. With - for host
and port the listening socket is descriptor 0, or comes from systemd.`,
      SERVER_SECTIONS,
      `SIGTERM shuts it down gracefully. SIGHUP reloads certificates and credentials, which
also happens when they change. SIGUSR1 logs the counters.`,
    ),
  options: optionTable(SERVER_SECTIONS.flatMap(({ rows }) => rows)),
  run: async (values, words) => {
    const options = await readServerOptions(NAME, values, words, process.env);
    // Here, so that --help and usage errors do not load what only a server needs.
    const { runServer } = await import('../lib/server/server.ts');
    return runServer(options, process.env);
  },
});
