// First: see there.
import '../lib/program/sigusr1.ts';
import { numberOption, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';

const NAME = 'smtpd-maildir';

void runProgram({
  name: NAME,
  help: () => `Usage: ${NAME} [options] [--] maildir

An SMTP server on stdin and stdout that delivers all mail to one Maildir. The
Maildir is created if it does not exist. There is no TLS.

  -s, --size BYTES            maximum message size (67108864); 0 for no limit
  -t, --idle-timeout SECONDS  idle timeout (300)
      --version               print the version
      --help                  print this help
`,
  options: {
    size: { type: 'string', short: 's' },
    'idle-timeout': { type: 'string', short: 't' },
  },
  run: async (values, [maildir, ...others]) => {
    if (maildir === undefined || maildir === '') throw usage('missing Maildir');
    if (others.length > 0) throw usage(`unexpected argument: ${others.join(' ')}`);
    // Here, so that SIGUSR1 is handled before anything else is loaded.
    const { runMaildir } = await import('../lib/maildir/run-maildir.ts');
    return runMaildir(
      {
        program: NAME,
        maildir,
        sizeLimit: numberOption(values, 'size', {
          min: 0,
          max: Number.MAX_SAFE_INTEGER,
          default: 64 * 1024 * 1024,
        }),
        idleTimeout: numberOption(values, 'idle-timeout', { min: 1, max: 2_000_000, default: 300 }) * 1000,
      },
      process.env,
    );
  },
});
