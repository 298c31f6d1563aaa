import { type OptionRow, type OptionValues, stringOption, usage } from '../program/options.ts';
import type { Backend } from './remote.ts';

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
