import { usage } from '../program/options.ts';

/**
 * Programs that treat a client on a pipe as a local user, unless -oMa gives its address: exim and sendmail, also as
 * exim4, exim-4.96 or sendmail.postfix.
 */
const TRUSTS_PIPES = /^(?:.*\/)?(?:exim\d?(?:-\d[^/]*)?|sendmail(?:\.[^/]*)?)$/s;

/**
 * Checks the smtpd command of a command line.
 *
 * @param command the program, searched in PATH, and its arguments.
 * @param page the man page with the section "What smtpd must know".
 * @throws Failure (100) if it is missing, or would be an open relay, as Exim with -bs on pipes is.
 */
export function checkSmtpdCommand([file = '', ...args]: readonly string[], page: string): void {
  if (file === '') throw usage('missing smtpd command');
  if (TRUSTS_PIPES.test(file) && args.includes('-bs') && !args.includes('-oMa')) {
    throw usage(
      `${file} -bs without -oMa treats every client as a local user, an open relay; ` +
        `see "What smtpd must know" in ${page}(8)`,
    );
  }
}
