import { serve } from '../lib/maildir/serve.ts';
import { numberOption, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';

const NAME = 'smtpd-maildir';

void runProgram({
  name: NAME,
  help: `Usage: ${NAME} [options] [--] maildir

An SMTP server on stdin and stdout that delivers all mail to one Maildir, which
is made when it is not there. It knows no TLS.

  -s, --size BYTES        the largest message (67108864); 0 for any size
  -t, --timeout SECONDS   how long nothing may happen (300)
      --version           print the version
      --help              print this
`,
  options: {
    size: { type: 'string', short: 's' },
    timeout: { type: 'string', short: 't' },
  },
  run: (values, [maildir, ...others]) => {
    if (maildir === undefined || maildir === '') throw usage('no Maildir named');
    if (others.length > 0) throw usage(`one Maildir is enough, but there is more: ${others.join(' ')}`);
    return serve(
      {
        program: NAME,
        maildir,
        sizeLimit: numberOption(values, 'size', {
          least: 0,
          most: Number.MAX_SAFE_INTEGER,
          standard: 64 * 1024 * 1024,
        }),
        silence: numberOption(values, 'timeout', { least: 1, most: 2_000_000, standard: 300 }) * 1000,
      },
      process.env,
    );
  },
});
