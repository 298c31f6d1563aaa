/** Bytes that arrive in cleartext after STARTTLS, under each UCSPI-TLS server. */

import { describeInjection, type OpenSession } from '../support/injection.ts';
import { unreadOctets } from '../support/kernel.ts';
import { runShim, SERVER_NAMES, type ShimSetup } from '../support/shim.ts';

function openWith(setup: ShimSetup): OpenSession {
  return async (t, smtpd) => {
    const run = await runShim(t, { ...setup, smtpd });
    return {
      ...run,
      ended: async () => {
        await run.status();
      },
      unread: () => unreadOctets(run.port, run.clientPort),
      readsAhead: false,
    };
  };
}

describeInjection('at the shim', {
  ...Object.fromEntries(SERVER_NAMES.map((server) => [`under ${server}`, openWith({ server })])),
  'with a second smtpd': openWith({ options: ['--fresh'] }),
});
