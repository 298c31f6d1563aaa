import { type OptionGroup, type OptionValues, stringOption, usage } from '../program/options.ts';
import { checkSmtpdCommand } from './command.ts';
import type { SmtpdSpec } from './environment.ts';
import { readSendProxy, SEND_PROXY } from './send-proxy.ts';

/** What the options of smtpd are read as. */
export interface SmtpdSettings {
  readonly smtpd: SmtpdSpec;
  /** TCPLOCALHOST for smtpd; undefined to leave it as it is. */
  readonly localHost: string | undefined;
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
  const { parseServerAddress } = await import('../net/host-port.ts');
  return { address: parseServerAddress(to), sendProxy };
}
