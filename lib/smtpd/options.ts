import {
  type OptionGroup,
  type OptionRow,
  type OptionValues,
  stringOption,
  usage,
} from '../program/options.ts';
import { checkSmtpdCommand } from './command.ts';
import type { SmtpdSpec } from './environment.ts';
import type { Backend } from './remote.ts';

/** What the options of smtpd are read as. */
export interface SmtpdSettings {
  readonly smtpd: SmtpdSpec;
  /** TCPLOCALHOST for smtpd; undefined to leave it as it is. */
  readonly localHost: string | undefined;
}

/** The row of --send-proxy. */
export const SEND_PROXY: OptionRow = {
  name: 'send-proxy',
  value: 'VERSION',
  help: 'send it the client address, by PROXY protocol v1 or v2',
};

/** The version of the PROXY protocol to send; undefined for none. @throws Failure (100) for an unknown one. */
export function readSendProxy(values: OptionValues): Backend['sendProxy'] {
  const version = stringOption(values, 'send-proxy');
  if (version === undefined || version === 'v1' || version === 'v2') return version;
  throw usage(`--send-proxy takes v1 or v2, not ${version}`);
}

/**
 * Which smtpd there is, and the name of this host for it. `read` takes the name of the program, whose man page
 * messages refer to, and the smtpd command.
 */
export const smtpdOptions: OptionGroup<
  Promise<SmtpdSettings>,
  [program: string, command: readonly string[]]
> = {
  rows: [
    { name: 'local-name', short: 'l', value: 'NAME', help: 'name of this host for smtpd: TCPLOCALHOST' },
    { name: 'to', value: 'ADDRESS', help: 'connect to HOST:PORT or unix:PATH instead of running an smtpd' },
    SEND_PROXY,
  ],
  read: async (values, program, command) => ({
    smtpd: await readSmtpd(values, program, command),
    localHost: stringOption(values, 'local-name'),
  }),
};

async function readSmtpd(
  values: OptionValues,
  program: string,
  command: readonly string[],
): Promise<SmtpdSpec> {
  const to = stringOption(values, 'to');
  const sendProxy = readSendProxy(values);
  if (to === undefined) {
    if (sendProxy !== undefined) throw usage('--send-proxy requires --to');
    checkSmtpdCommand(command, program);
    return command;
  }
  if (command.length > 0) throw usage(`unexpected argument with --to: ${command.join(' ')}`);
  // Here, so that --help does not load node:net.
  const { parseServerAddress } = await import('../net/address.ts');
  return { address: parseServerAddress(to), sendProxy };
}
