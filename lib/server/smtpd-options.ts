/** The smtpd of the server: that of `smtpdOptions`, or servers that a URL or routes name. */

import { type OptionGroup, type OptionValues, refuseBoth, stringOption, usage } from '../program/options.ts';
import type { SmtpdSpec } from '../smtpd/environment.ts';
import { type SmtpdSettings, smtpdOptions } from '../smtpd/options.ts';
import { reachOptions } from '../smtpd/relay/options.ts';
import type { RelaySpec } from '../smtpd/relay/relays.ts';
import { routeOptions } from '../smtpd/relay/route-options.ts';
import { readSendProxy } from '../smtpd/send-proxy.ts';

/** What the options of the smtpd are read as. */
export interface ServerSmtpdSettings extends Pick<SmtpdSettings, 'localHost'> {
  readonly smtpd: SmtpdSpec | RelaySpec;
}

/** `read` takes the name of the program and the smtpd command, see `smtpdOptions`. */
export const serverSmtpdOptions: OptionGroup<
  Promise<ServerSmtpdSettings>,
  [program: string, command: readonly string[]]
> = {
  rows: [
    ...smtpdOptions.rows.map((row) =>
      row.name === 'to' ? { ...row, help: `${row.help}; or pass mail on to the server of a URL` } : row,
    ),
    ...routeOptions.rows,
    ...reachOptions.rows,
  ],
  read: async (values, program, command) => {
    const to = stringOption(values, 'to');
    const routes = routeOptions.read(values);
    if (routes !== undefined) {
      refuseBoth(values, 'routes', 'to');
      if (command.length > 0) throw usage(`unexpected argument with --routes: ${command.join(' ')}`);
      return relaySettings(values, routes);
    }
    if (to === undefined || !isUrl(to)) {
      refuseReachOptions(values);
      return smtpdOptions.read(values, program, command);
    }
    if (command.length > 0) throw usage(`unexpected argument with --to: ${command.join(' ')}`);
    // Here, so that --help does not load node:net.
    const { parseRelayUrl } = await import('../smtpd/relay/url.ts');
    const { checkTarget } = await import('../smtpd/relay/check-target.ts');
    const target = parseRelayUrl(to);
    checkTarget(target, reachOptions.read(values));
    if (target.protocol === 'lmtp' && values['on-demand'] === true) {
      throw usage('--on-demand and lmtp contradict each other: what the server offers is learned by EHLO');
    }
    return relaySettings(values, target);
  },
};

function relaySettings(values: OptionValues, to: RelaySpec['to']): ServerSmtpdSettings {
  return {
    smtpd: { to, reach: reachOptions.read(values), sendProxy: readSendProxy(values) },
    localHost: stringOption(values, 'local-name'),
  };
}

/** Whether it is "SCHEME://..." or "SCHEME+unix:...", and not HOST:PORT or "unix:PATH". */
function isUrl(to: string): boolean {
  return !to.startsWith('unix:') && /^[a-z][a-z+]*(?::\/\/|\+unix:)/i.test(to);
}

function refuseReachOptions(values: OptionValues): void {
  for (const { name } of reachOptions.rows) {
    if (values[name] !== undefined) throw usage(`--${name} requires --to with a URL, or --routes`);
  }
}
